"""Both sides of a selection as its methods read them, and what a method answers."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from pipeline.errors import PipelineError, listed
from pipeline.tables import read_table, read_vectors

# Means that are looked at together, so that what is known of each number stays small.
ROWS = 65_536


@dataclass(frozen=True)
class Units:
    """The units of one dataset.

    Attributes:
        path: The units table, for messages.
        ids: unit_id of each, int32 (K,).
        names: Name of each, (K,).
        images: Images in each, int64 (K,), at least one.
        means: Mean feature of each, float32 (K, d), finite.
        concepts: Concept of each, None where it has none; None where the table has no concepts.
    """

    path: Path
    ids: np.ndarray
    names: pa.ChunkedArray
    images: np.ndarray
    means: np.ndarray
    concepts: list[str | None] | None = None

    def rows(self, ids: pa.ChunkedArray) -> np.ndarray:
        """Row of each of these unit_ids, int64."""
        return compute.index_in(ids, pa.array(self.ids)).to_numpy().astype(np.int64)

    def called(self, bad: np.ndarray) -> str:
        """The units where `bad`, bool (K,), holds, as an error lists them: unit_id and name."""
        rows = np.flatnonzero(bad)
        lines = [f"unit {self.ids[row]}, {self.names[row].as_py()!r}" for row in rows[:10]]
        return listed(lines, len(rows))


@dataclass(frozen=True)
class Scores:
    """What a method answers.

    Attributes:
        values: Score of each source unit, float64 (K_g,); higher for what is better reused.
        facts: How they were come by, such as the number of iterations, or a warning.
        found: How many units the method finds at all, the first of the ranking; None where it ranks all.
    """

    values: np.ndarray
    facts: Mapping[str, int | float | str] = field(default_factory=dict)
    found: int | None = None


def read_units(path: Path) -> Units:
    """Read a units table and refuse what no method can work with.

    Raises:
        PipelineError: If there are no units, one id is there twice, or a unit has no image or a mean
            that is not finite; it names the units.
    """
    means = read_vectors("units", path, "mean")
    others = [name for name in parquet.read_schema(path).names if name != "mean"]
    table = read_table("units", path, others)
    units = Units(
        Path(path),
        table["unit_id"].to_numpy(),
        table["name"],
        table["images"].to_numpy(),
        means,
        table["concept"].to_pylist() if "concept" in table.column_names else None,
    )
    if not len(table):
        raise PipelineError(f"{path}: this units table has no units")
    _, first = np.unique(units.ids, return_index=True)
    repeated = ~np.isin(np.arange(len(units.ids)), first)
    for problem, bad in (
        ("a unit_id that an earlier unit has", repeated),
        ("no images", units.images < 1),
        ("a mean that is not finite", _not_finite(means)),
    ):
        if bad.any():
            raise PipelineError(
                f"{path}: {bad.sum()} of {len(bad)} units with {problem}:\n{units.called(bad)}"
            )
    return units


def _not_finite(means: np.ndarray) -> np.ndarray:
    parts = [means[first : first + ROWS] for first in range(0, len(means), ROWS)]
    return np.concatenate([~np.isfinite(part).all(axis=1) for part in parts])


def levelled(values: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Give units that are equal in all `columns` the score of the first of them.

    Sums over the same numbers in another place of a matrix differ in their last bit, which would rank
    identical units by chance.

    Args:
        values: float64 (K,).
        columns: What a score depends on, each (K,) or (K, d).
    """
    first: dict[bytes, int] = {}
    same = np.empty(len(values), np.int64)
    for row in range(len(values)):
        digest = hashlib.blake2b(digest_size=16)
        for column in columns:
            digest.update(np.ascontiguousarray(column[row]).data)
        same[row] = first.setdefault(digest.digest(), row)
    return values[same]
