"""Leaks as pictures: source images beside the validation and test images that they may be copies of."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as compute

from pipeline.report.data import record_of
from pipeline.report.examples import Dataset
from pipeline.tables import read_table, read_table_metadata

# What each kind means, from the surest.
KINDS = {
    "exact": "equal pixels",
    "perceptual": "hashes that are nearly equal",
    "feature": "neighbours in feature space alone",
}


@dataclass(frozen=True)
class Count:
    """Pairs of one kind, and how many source images and held-out target images are in them."""

    kind: str
    meaning: str
    pairs: int
    source: int
    target: int
    excluded: int


@dataclass(frozen=True)
class Leak:
    """One pair with its pictures as data URIs.

    Attributes:
        source_id: Of the source image.
        target_id: Of the target's.
        split: Its part.
        evidence: Kind and measures in words.
        excluded: Whether the source image is left out by default.
        pictures: The source's and the target's.
    """

    source_id: str
    target_id: str
    split: str
    evidence: str
    excluded: bool
    pictures: list[str]


@dataclass(frozen=True)
class Audit:
    """What was found between a source and a target by one backbone.

    Attributes:
        settings: Thresholds.
        compared: Images of ``source`` and ``target`` that were compared, and of each that were too
            flat to compare (``flat_source``, ``flat_target``).
        counts: By kind, from the surest; only kinds that occur.
        excluded: Source images that reuse leaves out by default.
        shown: The surest pairs.
        total: Of all pairs.
    """

    backbone: str
    source: str
    target: str
    settings: Mapping[str, Any]
    compared: Mapping[str, int]
    counts: list[Count]
    excluded: int
    shown: list[Leak]
    total: int


def read_audit(path: Path, datasets: Mapping[str, Dataset], most: int) -> Audit:
    """An audit by its table, ``.../backbone/source/target.parquet``.

    Args:
        path: A leaks table, the surest pair first.
        datasets: Those of source and target, to take pictures from.
        most: Pairs to show.
    """
    *_, backbone, source, _ = path.parts
    target = path.stem
    table = read_table("leaks", path)
    compared = json.loads(read_table_metadata(path)["compared"])
    rows = table.slice(0, most).to_pylist()
    return Audit(
        backbone,
        source,
        target,
        record_of(table).settings,
        compared,
        [count for kind in KINDS if (count := _count(table, kind)).pairs],
        _distinct(table.filter(table["excluded"]), "source_id"),
        [_leak(row, datasets[source], datasets[target]) for row in rows],
        len(table),
    )


def _count(table: pa.Table, kind: str) -> Count:
    found = table.filter(compute.equal(table["kind"].cast(pa.string()), kind))
    excluded = _distinct(found.filter(found["excluded"]), "source_id")
    source, target = _distinct(found, "source_id"), _distinct(found, "target_id")
    return Count(kind, KINDS[kind], len(found), source, target, excluded)


def _distinct(table: pa.Table, column: str) -> int:
    return int(compute.count_distinct(table[column]).as_py())


def _leak(row: Mapping[str, Any], source: Dataset, target: Dataset) -> Leak:
    bits = f"{row['hamming']} and {row['difference_hamming']} bits apart"
    evidence = row["kind"] if row["kind"] == "exact" else f"{row['kind']}, {bits}"
    pictures = [
        picture
        for dataset, sample in ((source, row["source_id"]), (target, row["target_id"]))
        for picture in dataset.thumbnails([compute.index(dataset.row_of, sample).as_py()])
    ]
    evidence = f"{evidence}, cosine {row['cosine']:.3f}"
    return Leak(row["source_id"], row["target_id"], row["target_split"], evidence, row["excluded"], pictures)
