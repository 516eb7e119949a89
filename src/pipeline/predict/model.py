"""A weight file as a classifier: a backbone whose head names its classes."""

from pathlib import Path

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.files import load_backbone, read_description
from pipeline.errors import PipelineError

PREPROCESSING = ("resize", "crop", "mean", "std")


def load_classifier(path: Path) -> tuple[Backbone, list[str]]:
    """Read a model and the names of its classes, in the order of its outputs.

    Raises:
        PipelineError: If there is no such file, it is no weight file of this project, it has no head, or
            its metadata do not say how images are prepared.
    """
    if not path.is_file():
        raise PipelineError(f"{path}: no such model file; a run writes model.safetensors into its folder")
    description = read_description(path)
    if not description.class_names:
        raise PipelineError(
            f"{path}: these weights have no classification head; expected the model.safetensors of a run"
        )
    missing = [key for key in PREPROCESSING if key not in description.preprocessing]
    if missing:
        raise PipelineError(f"{path}: its preprocessing does not say {', '.join(missing)}")
    return load_backbone(path).eval(), description.class_names
