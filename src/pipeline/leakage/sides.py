"""The images on both sides of an audit: those of the source to reuse, those of the target to test on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipeline.errors import PipelineError
from pipeline.provenance import read_provenance
from pipeline.tables import feature_matrix, feature_width, read_batches, read_table


@dataclass(frozen=True)
class SideFiles:
    """Hashes and features of a dataset."""

    hashes: Path
    features: Path


@dataclass(frozen=True)
class Side:
    """The images of a dataset that take part.

    Attributes:
        table: Their hashes, n rows.
        perceptual: pHash of each, uint64 (n,).
        difference: dHash of each, uint64 (n,).
        rows: Row of each in the dataset, int64 (n,), ascending.
        total: Images of the dataset.
        flat: Images of these parts that are left out, since nothing is to be seen on them.
        features: The dataset's features.
    """

    table: pa.Table
    perceptual: np.ndarray
    difference: np.ndarray
    rows: np.ndarray
    total: int
    flat: int
    features: Path

    def __len__(self) -> int:
        return len(self.rows)


def read_side(files: SideFiles, splits: list[str]) -> Side:
    """The images of these parts that are not flat.

    Raises:
        PipelineError: If features and hashes are not of the same images in the same order.
    """
    table = read_table("hashes", files.hashes)
    ids = read_table("features", files.features, ["sample_id"])["sample_id"]
    if not ids.equals(table["sample_id"]):
        raise PipelineError(
            f"{files.features}: its {len(ids)} images are not the {len(table)} of {files.hashes}, "
            "in this order"
        )
    wanted = compute.is_in(table["split"].cast(pa.string()), pa.array(splits))
    seen = compute.and_(wanted, compute.is_valid(table["perceptual"]))
    rows = np.flatnonzero(seen.to_numpy())
    kept = table.filter(seen)
    return Side(
        kept,
        kept["perceptual"].to_numpy(),
        kept["difference"].to_numpy(),
        rows,
        len(table),
        int(compute.sum(wanted).as_py() or 0) - len(rows),
        files.features,
    )


def directions(side: Side, batch: int) -> Iterator[tuple[int, np.ndarray]]:
    """Features of a side's images at unit length, in blocks.

    Args:
        side: The images.
        batch: Rows of the file in a block.

    Yields:
        Position in the side of a block's first image, and float32 (block, d); the positions of a
        block follow each other.
    """
    start, position = 0, 0
    for table in read_batches(side.features, ["feature"], batch):
        matrix = feature_matrix(table)
        stop = int(np.searchsorted(side.rows, start + len(matrix)))
        if stop > position:
            yield position, _unit_length(matrix[side.rows[position:stop] - start])
        start, position = start + len(matrix), stop


def all_directions(side: Side) -> np.ndarray:
    """All of them at once, float32 (n, d)."""
    blocks = [block for _, block in directions(side, 4096)]
    return np.concatenate(blocks) if blocks else np.empty((0, feature_width(side.features)), np.float32)


def check_comparable(source: Path, target: Path) -> None:
    """Raise PipelineError unless both features are of one backbone."""
    records = [read_provenance(path) for path in (source, target)]
    weights = [record.inputs.get("weights") if record else None for record in records]
    widths = [feature_width(path) for path in (source, target)]
    if weights[0] != weights[1] or widths[0] != widths[1]:
        raise PipelineError(
            f"{source} has features of {widths[0]} numbers by weights {weights[0]}, {target} of {widths[1]} "
            f"by {weights[1]}; expected both by one backbone"
        )


def _unit_length(matrix: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.maximum(lengths, np.finfo(np.float32).tiny)
