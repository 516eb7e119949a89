"""Classify image files, prepared as the images of a run are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.backbones.backbone import Backbone
from pipeline.datasets.files import image_files
from pipeline.engine.augmentation import Normalisation
from pipeline.engine.device import prepare_device
from pipeline.engine.inference import forward_all
from pipeline.errors import PipelineError
from pipeline.images.decode import decode_image, to_square
from pipeline.images.threads import map_in_order
from pipeline.predict.model import load_classifier
from pipeline.progress import bar
from pipeline.provenance import Provenance, code_digest, digest_of_file

# Images that a thread decodes, and a forward pass takes, at a time.
BATCH = 64


@dataclass(frozen=True)
class Predictions:
    """What a model says of images.

    Attributes:
        files: The images that could be read, in the order given.
        class_names: In the order of the model's outputs.
        classes: Numbers of the most probable classes, the first first, int64 (n, k).
        probabilities: Of those classes, float32 (n, k).
        failures: A message for each file that could not be read.
        provenance: What made them.
    """

    files: list[str]
    class_names: list[str]
    classes: np.ndarray
    probabilities: np.ndarray
    failures: list[str]
    provenance: Provenance


def classify(model: Path, images: Sequence[Path], threads: int = 1, top: int = 5) -> Predictions:
    """Classify images.

    Args:
        model: A model as a run writes it.
        images: Image files, and folders whose images are taken with those of the folders below.
        threads: Threads that decode, and compute where there is no GPU.
        top: How many of the most probable classes to keep.

    Returns:
        Predictions, equal to the run's own of the same image up to rounding.

    Raises:
        PipelineError: If the model is none, or a folder cannot be read. An image that cannot be read is
            no error: it is among `failures`.
    """
    classifier, class_names = load_classifier(model)
    device = prepare_device(threads)
    classifier.to(device)
    files, failures = _files(images)
    top = min(top, len(class_names))
    decoded: list[str] = []
    classes, probabilities = [np.empty((0, top), np.int64)], [np.empty((0, top), np.float32)]
    with bar("classifying", "images", len(files)) as progress:
        for part in _decode(files, classifier.description.preprocessing["resize"], threads):
            if part.files:
                ranked, shares = _most_probable(logits_of(classifier, part.pixels, device), top)
                decoded += part.files
                classes.append(ranked)
                probabilities.append(shares)
            failures += part.failures
            progress.update(len(part.files) + len(part.failures))
    return Predictions(
        decoded,
        class_names,
        np.concatenate(classes),
        np.concatenate(probabilities),
        failures,
        _record(model, classifier),
    )


def logits_of(classifier: Backbone, pixels: np.ndarray, device: torch.device) -> np.ndarray:
    """Logits of decoded images, uint8 (n, resize, resize, 3), as float32 (n, classes)."""
    head = classifier.head
    assert head is not None
    normalise = Normalisation(classifier.description.preprocessing)
    rows = np.arange(len(pixels))
    (logits,) = forward_all(
        classifier, lambda inputs: (head(classifier(inputs)),), pixels, rows, normalise, device
    )
    return logits


def _most_probable(logits: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and probabilities of the `top` classes; by logits, since one probability can be all of 1."""
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    probabilities = torch.softmax(torch.from_numpy(logits), 1).numpy()
    return ranked, np.take_along_axis(probabilities, ranked, 1)


def _files(images: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The files that are meant, and messages for what holds none."""
    files: list[str] = []
    failures: list[str] = []
    for path in images:
        inside = [str(path / name) for name in image_files(path)] if path.is_dir() else [str(path)]
        if not inside:
            failures.append(f"{path}: no image in this folder")
        elif not _is_text(inside[0]):
            failures.append(f"{str(path)!a}: a name that is not UTF-8")
        else:
            files += inside
    return files, failures


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class _Decoded:
    """A batch of files: those that are images, as uint8 (n, size, size, 3), and messages for the rest."""

    files: list[str]
    pixels: np.ndarray
    failures: list[str]


def _decode(files: Sequence[str], size: int, threads: int) -> Iterator[_Decoded]:
    """Decode files in batches, ahead of the consumer and in order."""

    def decode(batch: Sequence[str]) -> _Decoded:
        pixels = np.empty((len(batch), size, size, 3), np.uint8)
        read: list[str] = []
        failures: list[str] = []
        for file in batch:
            try:
                pixels[len(read)] = np.asarray(to_square(decode_image(Path(file), file), size))
                read.append(file)
            except PipelineError as error:
                failures.append(str(error))
        return _Decoded(read, pixels[: len(read)], failures)

    batches = (files[start : start + BATCH] for start in range(0, len(files), BATCH))
    return map_in_order(decode, batches, threads)


def _record(model: Path, classifier: Backbone) -> Provenance:
    architecture = f"pipeline.backbones.architectures.{classifier.description.architecture['name']}"
    code = str(code_digest("pipeline.predict", architecture))
    return Provenance("pipeline.predict", {}, code, {"model": digest_of_file(model)})
