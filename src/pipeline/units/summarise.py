"""Mean features of classes, of K-means clusters, and of images alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.tables import (
    check_finite,
    feature_column,
    feature_matrix,
    feature_width,
    read_batches,
    read_samples,
    read_table,
    table_writer,
    write_table,
)
from pipeline.units.concepts import concepts_of

# Features that are read at a time.
ROWS = 65_536
# Features that are summed at a time: in float64 they fit in a cache.
ROWS_SUMMED = 2_048


class Units(NamedTuple):
    """Units of one dataset.

    Attributes:
        names: Name of each unit, K.
        images: Images in each, int64 (K,).
        means: Mean feature of each, float32 (K, d).
        assignment: Unit of each training image, int32 (n,).
    """

    names: list[str]
    images: np.ndarray
    means: np.ndarray
    assignment: np.ndarray


def summarise(
    manifest: Path,
    features: Path,
    units: Path,
    membership: Path,
    settings: Mapping[str, Any],
    provenance: Provenance,
    concepts: Path | None = None,
) -> None:
    """Write the units of a dataset's training part, and which image is in which.

    Args:
        manifest: For class names.
        features: Features of the dataset.
        units: The units table to write.
        membership: The membership table to write.
        settings: ``by: class``, ``by: sample``, or ``by: cluster`` with ``clusters``, ``iterations``
            and ``seed``.
        provenance: Kept in both tables.
        concepts: CSV file with columns ``class_name`` and ``concept``, kept in the units table.
    """
    rows = read_table("features", features, ["sample_id", "label"], filters=[("split", "=", "train")])
    if not len(rows):
        raise PipelineError(f"{features}: no training images to make units of")
    if settings["by"] == "sample":
        _write_samples(features, rows["sample_id"], units, membership, provenance)
        return
    if settings["by"] == "class":
        found = by_class(features, rows, read_samples(manifest).class_names)
    else:
        found = by_cluster(features, len(rows), settings)
    columns = {
        "unit_id": np.arange(len(found.names), dtype=np.int32),
        "name": found.names,
        "images": found.images,
        "mean": feature_column(found.means),
    }
    if concepts is not None:
        columns["concept"] = concepts_of(concepts, found.names)
    write_table("units", units, columns, provenance)
    assigned = {"sample_id": rows["sample_id"], "unit_id": found.assignment}
    write_table("membership", membership, assigned, provenance)


def by_class(features: Path, rows: pa.Table, class_names: list[str]) -> Units:
    """Class means (a_i and b_j of the UOT paper, section 3.2).

    Raises:
        PipelineError: If an image has no label, a class no image, or a feature is not finite.
    """
    if rows["label"].null_count:
        raise PipelineError(f"{features}: {rows['label'].null_count} images have no label")
    labels = rows["label"].to_numpy().astype(np.int32)
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if empty:
        raise PipelineError(f"{features}: no training image of class {', '.join(empty[:10])}")
    return Units(class_names, counts, _means(features, labels, counts), labels)


def by_cluster(features: Path, images: int, settings: Mapping[str, Any]) -> Units:
    """K-means of the unit-length features, so that distance is by cosine (UOT paper, section 4.1).

    Clusters that stay empty are left out; the rest are numbered by size, largest first.

    Args:
        features: Features of the dataset.
        images: How many of them are for training.
        settings: ``clusters``, ``iterations`` and ``seed``.

    Raises:
        PipelineError: If there are fewer images than clusters, or a feature is not finite.
    """
    from pipeline.units.kmeans import cluster

    if images < settings["clusters"]:
        raise PipelineError(f"{features}: {settings['clusters']} clusters wanted of {images} training images")
    found = cluster(_directions(features, images), settings)
    sizes = np.bincount(found, minlength=settings["clusters"])
    order = np.argsort(-sizes, kind="stable")[: int((sizes > 0).sum())]
    number = np.empty(settings["clusters"], np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    assignment = number[found]
    means = _means(features, assignment, sizes[order])
    return Units([f"cluster {n}" for n in range(len(order))], sizes[order], means, assignment)


def _means(features: Path, assignment: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean training feature of each unit, float32 (K, d), summed in float64 a few rows at a time.

    Args:
        features: Features of the dataset.
        assignment: Unit of each training image, (n,).
        counts: Images of each unit, (K,).
    """
    from scipy.sparse import csr_matrix

    sums = np.zeros((len(counts), feature_width(features)))
    first = 0
    for table in _training_batches(features, [], ROWS_SUMMED):
        units, place = np.unique(assignment[first : first + len(table)], return_inverse=True)
        first += len(table)
        entries = (np.ones(len(table)), (place, np.arange(len(table))))
        members = csr_matrix(entries, shape=(len(units), len(table)))
        sums[units] += members @ feature_matrix(table).astype(np.float64)
    if not np.isfinite(sums).all():
        _check_training_finite(features)
    return (sums / counts[:, None]).astype(np.float32)


def _directions(features: Path, images: int) -> np.ndarray:
    """The training features at unit length, float32 (images, d); one of length zero stays."""
    directions = np.empty((images, feature_width(features)), np.float32)
    first = 0
    for table in _training_batches(features, [], ROWS):
        block = directions[first : first + len(table)]
        block[:] = feature_matrix(table)
        first += len(table)
        if not np.isfinite(block).all():
            _check_training_finite(features)
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        block /= np.maximum(lengths, np.finfo(np.float32).tiny)
    return directions


def _write_samples(
    features: Path, sample_ids: pa.ChunkedArray, units: Path, membership: Path, provenance: Provenance
) -> None:
    """Every training image a unit: its feature is the mean, its sample_id the name. In batches.

    Raises:
        PipelineError: If a feature is not finite.
    """
    _check_training_finite(features)
    first = 0
    with table_writer("units", units, provenance) as write:
        for table in _training_batches(features, ["sample_id"], ROWS):
            columns = {
                "unit_id": np.arange(first, first + len(table), dtype=np.int32),
                "name": table["sample_id"],
                "images": np.ones(len(table), np.int64),
                "mean": table["feature"],
            }
            write(columns)
            first += len(table)
    assigned = {"sample_id": sample_ids, "unit_id": np.arange(first, dtype=np.int32)}
    write_table("membership", membership, assigned, provenance)


def _check_training_finite(features: Path) -> None:
    """Raise PipelineError with the rows of training images whose features are not finite."""
    check_finite(features, read_batches(features, ["sample_id", "split", "feature"], ROWS), "train")


def _training_batches(features: Path, columns: list[str], rows: int) -> Iterator[pa.Table]:
    """The features of training images with other columns of theirs, some rows at a time."""
    for table in read_batches(features, ["split", *columns, "feature"], rows):
        training = compute.equal(table["split"].cast(pa.string()), "train")
        if not compute.all(training).as_py():
            table = table.filter(training)
        if len(table):
            yield table
