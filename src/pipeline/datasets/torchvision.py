"""Classification sets of torchvision, with their official parts."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torchvision

from pipeline.datasets.listing import Listing
from pipeline.errors import PipelineError, did_you_mean
from pipeline.tables.schemas import IMAGE

TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
TRAIN_VAL = {"train": {"split": "train"}, "validation": {"split": "val"}}
TRAIN_VAL_TEST = TRAIN_VAL | TRAIN_TEST
ONE_PART: dict[str, dict[str, Any]] = {"train": {}}
# Class in torchvision.datasets, and the arguments that give each of its parts.
SETS: dict[str, dict[str, dict[str, Any]]] = {
    "CIFAR10": TRAIN_FLAG,
    "CIFAR100": TRAIN_FLAG,
    "Caltech101": ONE_PART,
    "Caltech256": ONE_PART,
    "Country211": TRAIN_TEST | {"validation": {"split": "valid"}},
    "DTD": TRAIN_VAL_TEST,
    "EuroSAT": ONE_PART,
    "FGVCAircraft": TRAIN_VAL_TEST,
    "FashionMNIST": TRAIN_FLAG,
    "Flowers102": TRAIN_VAL_TEST,
    "Food101": TRAIN_TEST,
    "GTSRB": TRAIN_TEST,
    "Imagenette": TRAIN_VAL,
    "KMNIST": TRAIN_FLAG,
    "MNIST": TRAIN_FLAG,
    "OxfordIIITPet": TRAIN_TEST | {"train": {"split": "trainval"}},
    "STL10": TRAIN_TEST,
    "SUN397": ONE_PART,
    "SVHN": TRAIN_TEST,
    "StanfordCars": TRAIN_TEST,
    "USPS": TRAIN_FLAG,
}
# Images are held as PNG between reader and manifest, so few at a time.
BATCH = 100


def read(settings: Mapping[str, Any]) -> Listing:
    """Open every official part of a set, downloading it where that is allowed and needed.

    Raises:
        PipelineError: If there is no such set, or it is not there and cannot be downloaded.
    """
    name = settings["name"]
    if name not in SETS:
        raise PipelineError(
            f"name: {name!r} is no classification set of torchvision known here; allowed: "
            f"{', '.join(SETS)}{did_you_mean(name, SETS)}"
        )
    parts = {part: _opened(settings, arguments) for part, arguments in SETS[name].items()}
    rows = [(part, number) for part, dataset in parts.items() for number in range(len(dataset))]
    labels = [label for dataset in parts.values() for label in _labels(dataset)]
    return Listing(
        rows=pa.table(
            {
                "sample_id": [f"{part}/{number:07d}" for part, number in rows],
                "split": [part for part, _ in rows],
                "label": pa.array(labels, pa.int64()),
            }
        ),
        images=lambda order, scratch: _images(parts, [rows[row] for row in order]),
        locate=lambda row: f"{name} {rows[row][0]} image {rows[row][1]}",
        class_names=_class_names(parts["train"]),
    )


def _opened(settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    kind = getattr(torchvision.datasets, settings["name"])
    root = Path(settings["root"])
    # What is already there is used first: some sets refuse to be downloaded twice.
    for download in [False, True] if settings["download"] else [False]:
        try:
            return kind(root, download=download, **arguments)
        except (RuntimeError, OSError, ImportError) as error:
            problem = error
    means = "cannot be downloaded here" if settings["download"] else "is not there, and download is false"
    raise PipelineError(
        f"{settings['name']} in {root}: {means} ({problem}). On a machine with access run: python -c "
        f'"import torchvision; torchvision.datasets.{settings["name"]}({str(root)!r}, download=True)", '
        f"and copy {root} here."
    ) from problem


def _labels(dataset: Any) -> list[int]:
    """Labels in the order of the images, without decoding these where torchvision keeps them apart."""
    for attribute in ("targets", "labels", "_labels"):
        labels = getattr(dataset, attribute, None)
        if labels is not None and len(labels) == len(dataset):
            return [int(label) for label in labels]
    return [int(dataset[number][1]) for number in range(len(dataset))]


def _class_names(dataset: Any) -> list[str] | None:
    names: Sequence[Any] | None = getattr(dataset, "classes", getattr(dataset, "categories", None))
    if names is None:
        return None
    return [name if isinstance(name, str) else ", ".join(name) for name in names]


def _images(parts: Mapping[str, Any], rows: list[tuple[str, int]]) -> Iterator[pa.StructArray]:
    for start in range(0, len(rows), BATCH):
        structs = [{"bytes": _png(parts[part], number)} for part, number in rows[start : start + BATCH]]
        yield pa.array(structs, IMAGE)


def _png(dataset: Any, number: int) -> bytes | None:
    """One image as PNG, and None for one that cannot be read, which the check of images reports."""
    try:
        image = dataset[number][0]
    except OSError:
        return None
    encoded = io.BytesIO()
    (image if image.mode in ("L", "RGB") else image.convert("RGB")).save(encoded, "PNG")
    return encoded.getvalue()
