"""Small synthetic datasets, settings and records that many tests share."""

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from PIL import Image

# Before torch is imported: other threads give other bits, and tests often share their cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Cores are often shared, so that a slow example says nothing.
hypothesis_settings.register_profile("graftune", deadline=None)
hypothesis_settings.load_profile("graftune")

SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    """How hard to try what chance decides."""
    parser.addoption("--kills", type=int, default=10, help="Random kills of training steps (ten by default).")


@dataclass(frozen=True)
class Dataset:
    """A dataset as training reads it, with what the files hold.

    Attributes:
        manifest: Its manifest.
        images: Its decoded images (.npy).
        pixels: What `images` holds, uint8 (n, size, size, 3).
        labels: int64 (n,).
        split: Part of each image, str (n,).
        ids: sample_id of each.
    """

    manifest: Path
    images: Path
    pixels: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    ids: list[str]

    @property
    def paths(self) -> tuple[Path, Path]:
        """Manifest and images, as the steps take them."""
        return self.manifest, self.images


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference values, images and class means; skips where there is none."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip(f"no reference data: ../{SHARED.name} is not beside this checkout")
    return data


@pytest.fixture(scope="session")
def record() -> Any:
    """The record of a file that a test makes."""
    from pipeline.provenance import Provenance

    return Provenance("test", {"made": "here"}, "test=0", {}, {})


@pytest.fixture(scope="session")
def make_dataset(record: Any) -> Callable[..., Dataset]:
    """A function that writes a manifest and its image cache; see `write_dataset`."""

    def make(folder: Path, **values: Any) -> Dataset:
        return write_dataset(folder, record, **values)

    return make


@pytest.fixture(scope="session")
def training() -> Callable[..., dict[str, Any]]:
    """A function that gives the training settings as a step gets them, with some changed."""

    def settings(**changes: Any) -> dict[str, Any]:
        return {
            "budget": {"epochs": 3, "iterations": None},
            "batch_size": 8,
            "accumulate": 1,
            "precision": "float32",
            "compile": False,
            "threads": 1,
            "gpu": 1,
            "optimiser": SGD,
            "schedule": {"name": "cosine", "warmup": 0.0, "final": 0.0},
            "augmentation": PLAIN_AUGMENTATION,
            "evaluate_every": 10,
            **changes,
        }

    return settings


@pytest.fixture(scope="session")
def tuning(training: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A function that gives the settings of plain fine-tuning as a step gets them, with some changed."""

    def settings(**changes: Any) -> dict[str, Any]:
        plain = {
            "initialise": {"name": "none"},
            "objective": {"name": "cross_entropy", "label_smoothing": 0.0},
            "reuse": {"name": "none"},
            "trainable": "all",
            "batch_norm": "trained",
            "from_scratch": False,
            "checkpoint": "last",
            "fit_on": ["train"],
            "predict": ["validation", "test"],
            "may_diverge": False,
            "until": 1.0,
            "keep_epochs": [],
            "run": {"seed": 0},
        }
        return training(**plain | changes)

    return settings


@pytest.fixture
def torch_as_before() -> Iterator[None]:
    """Takes back what a step sets in this process: determinism and threads."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_deterministic_debug_mode("default")
    torch.set_num_threads(threads)


SGD = {
    "name": "sgd",
    "learning_rate": 0.05,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-4,
    "head_ratio": 1.0,
    "groups": {},
    "layer_decay": 1.0,
}
PLAIN_AUGMENTATION = {
    "resized_crop": None,
    "padding": 0,
    "fill": 0,
    "flip": False,
    "colour_jitter": 0.0,
    "grey": 0.0,
    "blur": 0.0,
}


def write_dataset(
    folder: Path,
    record: Any,
    classes: int = 3,
    parts: tuple[int, int, int] = (8, 3, 3),
    size: int = 10,
    seed: int = 0,
    row_groups: Sequence[int] = (),
    labelled: bool = True,
) -> Dataset:
    """Write images of classes that differ in colour, rows shuffled over classes and parts.

    Args:
        folder: Gets ``manifest.parquet`` and ``images.npy``.
        record: Provenance of the manifest.
        classes: How many.
        parts: Images of each class for training, validation and test.
        size: Side of the square images.
        seed: Of the noise and the order.
        row_groups: Sizes of the manifest's first row groups; the last takes the rest.
        labelled: Whether the manifest has labels.
    """
    from pipeline.tables import table_writer

    random = np.random.default_rng(seed)
    split = np.tile(np.repeat(["train", "validation", "test"], parts), classes)
    labels = np.repeat(np.arange(classes), sum(parts))
    order = random.permutation(len(labels))
    split, labels = split[order], labels[order]
    colours = np.random.default_rng(1).integers(60, 196, (classes, 1, 1, 3))
    noise = random.integers(-60, 60, (len(labels), size, size, 3))
    pixels = (colours[labels] + noise).astype(np.uint8)
    ids = [f"image {row:04}" for row in range(len(labels))]
    names = [f"class {label}" for label in range(classes)]
    columns: dict[str, Any] = {
        "sample_id": ids,
        "image": [{"bytes": _png(image), "path": None} for image in pixels],
        "split": split.tolist(),
        "label": labels.tolist() if labelled else [None] * len(ids),
        "class_name": [names[label] if labelled else None for label in labels],
        "width": [size] * len(ids),
        "height": [size] * len(ids),
    }
    extra = {"class_names": json.dumps(names)} if labelled else {}
    cuts = [*np.cumsum([0, *row_groups]), len(ids)]
    with table_writer("manifest", folder / "manifest.parquet", record, extra) as write:
        for first, last in pairwise(cuts):
            if first < last:
                write({name: column[first:last] for name, column in columns.items()})
    np.save(folder / "images.npy", pixels)
    return Dataset(folder / "manifest.parquet", folder / "images.npy", pixels, labels, split, ids)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
