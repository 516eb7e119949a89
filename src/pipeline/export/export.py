"""Put together the folder that a model is taken away in."""

import shutil
from pathlib import Path

from pipeline.backbones.backbone import Backbone
from pipeline.errors import PipelineError
from pipeline.export.card import Facts, card
from pipeline.export.origins import Origins, find_origins
from pipeline.predict.model import load_classifier
from pipeline.provenance import Provenance, digest_of_file, read_provenance
from pipeline.tables import atomic_path, atomic_write, read_table

MODEL, ONNX, CARD = "model.safetensors", "model.onnx", "README.md"


def export(run: Path, folder: Path, onnx: bool = False) -> list[Path]:
    """Take a run's model away.

    Args:
        run: Folder of the run, or the model in it.
        folder: Gets the model as it is, a card that describes it, and ONNX if asked for. Those of another
            model that were there go.
        onnx: Whether to write the model as ONNX too.

    Returns:
        The files that were written.

    Raises:
        PipelineError: If the model is no run's, its metrics are another model's, or `folder` is a file or
            the run's own folder; with `onnx` as in `write_onnx`.
    """
    model = run / MODEL if run.is_dir() else run
    classifier, class_names = load_classifier(model)
    record = _record(model)
    if folder.resolve() == model.resolve().parent:
        raise PipelineError(f"{folder}: the model lies here; expected another folder to take it to")
    if folder.is_file():
        raise PipelineError(f"{folder}: this is a file; expected a folder")
    origins = find_origins(model.parent, record)
    metrics = _metrics(model, record)
    agreement = None
    if onnx:
        from pipeline.export.onnx_file import metadata_of, write_onnx

        metadata = metadata_of(classifier, record.to_json())
        agreement = write_onnx(folder / ONNX, classifier, metadata, _images(origins, classifier))
    else:
        (folder / ONNX).unlink(missing_ok=True)
    with atomic_path(folder / MODEL) as temporary:
        shutil.copyfile(model, temporary)
    facts = Facts(classifier, class_names, record, origins, metrics, agreement)
    atomic_write(folder / CARD, card(facts))
    return [folder / name for name in (MODEL, *([ONNX] if onnx else []), CARD)]


def _record(model: Path) -> Provenance:
    record = read_provenance(model)
    if record is None or "run" not in record.settings:
        step = record.step if record else "nothing that it says"
        raise PipelineError(f"{model}: expected the model of a run; this file was made by {step}")
    return record


def _metrics(model: Path, record: Provenance) -> dict[str, dict[str, float]]:
    """The run's metrics by part and name, from beside the model; none where they are not there."""
    path = model.parent / "metrics.parquet"
    if not path.is_file():
        return {}
    table = read_table("metrics", path)
    evaluation = read_provenance(path)
    # A run's model and predictions carry one record.
    if evaluation is None or evaluation.inputs.get("predictions") != digest_of_file(model):
        raise PipelineError(f"{path}: metrics of another model than {model}; run snakemake to evaluate it")
    found: dict[str, dict[str, float]] = {}
    for row in table.to_pylist():
        found.setdefault(row["split"], {})[row["metric"]] = row["value"]
    return found


def _images(origins: Origins, classifier: Backbone) -> Path | None:
    """Decoded images of the target in the model's size, where they are there."""
    if origins.target is None:
        return None
    size = classifier.description.preprocessing["resize"]
    path = origins.target.path.parent / f"images_{size}.npy"
    return path if path.is_file() else None
