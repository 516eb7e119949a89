"""A classifier as one ONNX file, compared with the model it was made from."""

import importlib.util
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.backbones.backbone import Backbone
from pipeline.engine.randomness import derive
from pipeline.errors import PipelineError
from pipeline.images.cache import open_images
from pipeline.predict.classify import logits_of
from pipeline.tables import atomic_path

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUTS = "pixels", ["logits", "probabilities"]
# Images of each kind that both models classify.
COMPARED = 16
# Probabilities may differ by rounding; the largest seen over torchvision's networks is 1e-6.
TOLERANCE = 1e-4
# ONNX files are protocol buffers, which end here.
LARGEST = 2**31


@dataclass(frozen=True)
class Agreement:
    """How far an ONNX file is from the model it was made from.

    Attributes:
        random: Random images that both classified.
        real: Images of the target that both classified.
        logits: Largest absolute difference of logits.
        probabilities: Largest absolute difference of probabilities.
    """

    random: int
    real: int
    logits: float
    probabilities: float


def write_onnx(
    path: Path, classifier: Backbone, metadata: Mapping[str, str], images: Path | None
) -> Agreement:
    """Write a classifier as ONNX and hold it to the model.

    Its input ``pixels`` is uint8 (n, 3, crop, crop), RGB of any number of images; it is normalised
    inside. Its outputs are ``logits`` and ``probabilities``, float32 (n, classes).

    Args:
        path: The file to write.
        classifier: On the CPU, in evaluation mode.
        metadata: Kept in the file.
        images: Decoded images of the target to compare on, beside random ones; None without.

    Raises:
        PipelineError: If a package is missing, the model is too large for one file, cannot be
            exported, or the file does not agree with it.
    """
    _require_packages()
    size = sum(value.nbytes for value in classifier.state_dict().values())
    if size >= LARGEST:
        raise PipelineError(f"{path}: weights of {size:,} bytes; an ONNX file holds less than {LARGEST:,}")
    with atomic_path(path) as temporary:
        _export(temporary, classifier, metadata)
        agreement = compare(temporary, classifier, images)
        if not agreement.probabilities <= TOLERANCE:
            raise PipelineError(
                f"{path}: its probabilities differ from the model's by up to {agreement.probabilities:.1e}; "
                f"at most {TOLERANCE:.0e} is rounding. It was not written."
            )
    return agreement


def compare(path: Path, classifier: Backbone, images: Path | None) -> Agreement:
    """Classify random images, and some of the target, by the file and by the model.

    Args:
        path: The ONNX file.
        classifier: The model, which prepares images as a run does.
        images: Decoded images of the target (.npy); None without.
    """
    import onnxruntime

    preprocessing = classifier.description.preprocessing
    size, crop = preprocessing["resize"], preprocessing["crop"]
    random = np.random.default_rng(derive("onnx")).integers(0, 256, (COMPARED, size, size, 3), np.uint8)
    real = _some(images) if images else random[:0]
    pixels = np.concatenate([random, real])
    expected = torch.from_numpy(logits_of(classifier, pixels, torch.device("cpu")))
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    offset = round((size - crop) / 2)
    centre = pixels[:, offset : offset + crop, offset : offset + crop].transpose(0, 3, 1, 2)
    logits, probabilities = session.run(OUTPUTS, {INPUT: np.ascontiguousarray(centre)})
    return Agreement(
        len(random),
        len(real),
        float(np.abs(logits - expected.numpy()).max()),
        float(np.abs(probabilities - expected.softmax(1).numpy()).max()),
    )


def _require_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PipelineError(
            f"--onnx needs {', '.join(missing)}, not installed here: pip install {' '.join(PACKAGES)}"
        )


class _OnPixels(nn.Module):
    """From uint8 (n, 3, crop, crop) to logits and probabilities, float32 (n, classes)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, classifier: Backbone):
        super().__init__()
        self.classifier = classifier
        for name in ("mean", "std"):
            values = torch.tensor(classifier.description.preprocessing[name])
            self.register_buffer(name, values[None, :, None, None])

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalise and classify."""
        features = self.classifier((pixels.float() / 255 - self.mean) / self.std)
        assert self.classifier.head is not None
        logits = self.classifier.head(features)
        return logits, logits.softmax(1)


def _export(path: Path, classifier: Backbone, metadata: Mapping[str, str]) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    for name in ("onnxscript", "onnx_ir"):  # each pass over the graph would be a line of the log
        logging.getLogger(name).setLevel(logging.WARNING)
    crop = classifier.description.preprocessing["crop"]
    # Of one image, an exporter may take the number of images for a constant.
    example = torch.zeros(2, 3, crop, crop, dtype=torch.uint8)
    try:
        program = torch.onnx.export(
            _OnPixels(classifier).eval(),
            (example,),
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes=({0: torch.export.Dim("images")},),
            dynamo=True,
            verbose=False,
        )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise PipelineError(f"this architecture cannot be exported to ONNX: {error}") from error
    assert program is not None
    # Every operation remembers the line of code that it stands for, with its path on this machine.
    ClearMetadataAndDocStringPass()(program.model)
    program.model.metadata_props.update(metadata)
    program.save(path)


def metadata_of(classifier: Backbone, record: str) -> dict[str, str]:
    """What an ONNX file says of itself: class names, how images are prepared, and what made it.

    Args:
        classifier: The model.
        record: The record of what made it, as JSON.
    """
    preprocessing = {
        **classifier.description.preprocessing,
        "resized": "shorter side to `resize`, bilinear with antialiasing, then the centre square",
        "cropped": "the centre of `crop` pixels",
        "input": "uint8 (n, 3, crop, crop), RGB; scaled to 0..1 and normalised by mean and std inside",
    }
    return {
        "class_names": json.dumps(classifier.description.class_names, ensure_ascii=False),
        "preprocessing": json.dumps(preprocessing, ensure_ascii=False),
        "graftune": record,
    }


def _some(images: Path) -> np.ndarray:
    """Decoded images at even distances, uint8 (at most 16, size, size, 3)."""
    pixels = open_images(images)
    return np.asarray(pixels[np.unique(np.linspace(0, len(pixels) - 1, COMPARED).astype(int))])
