"""How many images each part of a dataset has, before the dataset is made."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.config.datasets import AnyDataset, ClassMeans, Published, TorchvisionSet
from pipeline.config.resolve import to_json
from pipeline.datasets.manifest import arrange
from pipeline.datasets.sets import load_set
from pipeline.datasets.splits import PARTS
from pipeline.datasets.subsets import wanted_sizes
from pipeline.provenance import read_provenance
from pipeline.tables import read_table

# Keys of an entry that decide no image, or that a manifest does not record.
WITHOUT_EFFECT = {"metric", "shards", "concepts", "path", "root"}
# Sets of torchvision whose counts are known here (Krizhevsky 2009, *Learning Multiple Layers of Features*).
TORCHVISION = {
    "CIFAR10": {"classes": 10, "train": 50_000, "test": 10_000},
    "CIFAR100": {"classes": 100, "train": 50_000, "test": 10_000},
}
PRINTED = "published counts, split and subset applied to classes of equal size"


class Count(NamedTuple):
    """Images of each part of a dataset, and where the numbers are from."""

    parts: dict[str, int]
    origin: str

    def of(self, parts: Iterable[str]) -> int:
        """Images of these parts together."""
        return sum(self.parts[part] for part in parts)


def count_images(name: str, entry: AnyDataset, results: Path) -> Count | None:
    """The images of a dataset; None where nothing at hand says.

    Its manifest is asked first, then local files, listed as the dataset's job would list them. Of a
    published set, and of CIFAR, the printed counts are taken, with `split` and `subset` applied as if all
    classes were of one size: a few images off, since shares are rounded class by class.

    Args:
        name: Of the entry.
        entry: A dataset of the config.
        results: The results folder.

    Raises:
        PipelineError: If local files are not as the entry says.
    """
    manifest = results / "datasets" / name / "manifest.parquet"
    if manifest.exists() and _is_of(manifest, entry):
        return _count(read_table("manifest", manifest, ["split"])["split"].to_pylist(), "manifest")
    if isinstance(entry, Published | TorchvisionSet):
        counts = _printed(entry)
        return None if counts is None else Count(_parts(entry, counts), PRINTED)
    if isinstance(entry, ClassMeans) or not Path(entry.path).exists():
        return None
    settings = entry.plain()
    rows, _ = arrange(importlib.import_module(f"pipeline.datasets.{entry.format}").read(settings), settings)
    return _count(rows["split"].to_pylist(), "files")


def _count(splits: list[str], origin: str) -> Count:
    return Count({part: splits.count(part) for part in PARTS}, origin)


def _is_of(manifest: Path, entry: AnyDataset) -> bool:
    """Whether a manifest was made by this entry, wherever the files lay."""
    record = read_provenance(manifest)
    return record is not None and _deciding(entry.plain()) == _deciding(dict(record.settings))


def _deciding(settings: dict[str, Any]) -> str:
    return to_json({k: value for k, value in settings.items() if k not in {*WITHOUT_EFFECT, "content"}})


def _printed(entry: Published | TorchvisionSet) -> dict[str, int] | None:
    """Classes and images of a set's parts as its counter printed them; None where nothing here says."""
    if isinstance(entry, TorchvisionSet):
        return TORCHVISION.get(entry.name)
    known = load_set(entry.name)
    counts = known.expected("official") | known.expected(entry.counts)
    if known.train_per_class:
        counts = {"train": known.train_per_class * counts["classes"]} | counts
    return counts


def _parts(entry: Published | TorchvisionSet, counts: dict[str, int]) -> dict[str, int]:
    """Images by part, `split` and `subset` applied."""
    classes, train = counts["classes"], counts.get("train", 0)
    validation = counts.get("validation", 0)
    test = counts["test"] if "test" in counts else max(counts.get("images", 0) - train - validation, 0)
    parts = {"train": train, "validation": validation, "test": test}
    shares = {"test": entry.split.test, "validation": entry.split.validation} if entry.split else {}
    cut = {part: int(train * share + 0.5) for part, share in shares.items() if not parts[part]}
    parts |= {**cut, "train": train - sum(cut.values())}
    if entry.subset is None:
        return parts
    thinned = ["train"] if entry.subset.by == "number" else ["train", "validation"]
    available = sum(parts[part] for part in thinned)
    even = np.full(classes, available // classes)
    even[: available % classes] += 1
    kept = sum(wanted_sizes(entry.subset.plain(), even, [str(label) for label in range(classes)]))
    of_validation = round(kept * parts["validation"] / available) if "validation" in thinned else 0
    return parts | {"train": kept - of_validation} | ({"validation": of_validation} if thinned[1:] else {})
