"""From labels as the data has them to 0 .. K-1 with a name each."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipeline.datasets.listing import Listing
from pipeline.errors import PipelineError, listed


def dense_labels(listing: Listing, expected: int | None) -> tuple[np.ndarray | None, list[str]]:
    """Number the classes that occur 0 .. K-1: integers in their order, names by name.

    Args:
        listing: The rows; integers take their names from its ``class_name`` column, else from its
            `class_names`, else from themselves.
        expected: How many classes there should be, where that is known.

    Returns:
        int32 labels of shape (rows,) and the K class names; None and no names where unlabelled.

    Raises:
        PipelineError: If labels are missing, negative, outside the declared names or named in two
            ways, or if there is one class only, or another number than `expected`.
    """
    column = listing.column("label")
    if column is None:
        if expected is not None:
            raise PipelineError(f"the dataset has no labels, and classes: {expected} was expected")
        return None, []
    _refuse_rows(listing, compute.is_null(column), "has no label")
    values, labels = np.unique(column.to_numpy(), return_inverse=True)
    names = _names(listing, column, values, labels)
    if expected is not None and len(names) != expected:
        raise PipelineError(f"found {len(names)} classes, expected classes: {expected} ({_some(names)})")
    if len(names) < 2:
        raise PipelineError(f"found one class only ({names[0]!r}); a labelled dataset needs at least two")
    return labels.astype(np.int32), names


def _names(listing: Listing, column: pa.ChunkedArray, values: np.ndarray, labels: np.ndarray) -> list[str]:
    if pa.types.is_string(column.type):
        return [str(value) for value in values]
    _refuse_rows(listing, compute.less(column, 0), "has a negative label")
    given = listing.column("class_name")
    if given is not None:
        return _names_of_rows(listing, given, values, labels)
    if listing.class_names is None:
        return [str(value) for value in values]
    count = len(listing.class_names)
    _refuse_rows(listing, compute.greater_equal(column, count), f"has a label above the {count} class names")
    return [listing.class_names[value] for value in values]


def _names_of_rows(
    listing: Listing, given: pa.ChunkedArray, values: np.ndarray, labels: np.ndarray
) -> list[str]:
    """The name that all rows of a label agree on."""
    _refuse_rows(listing, compute.is_null(given), "has a label and no class name")
    found, codes = np.unique(given.to_numpy(), return_inverse=True)
    pairs = np.unique(np.stack([labels, codes], axis=1), axis=0)
    ambiguous = pairs[1:][pairs[1:, 0] == pairs[:-1, 0]]
    if len(ambiguous):
        label = ambiguous[0, 0]
        names = [str(found[code]) for code in pairs[pairs[:, 0] == label, 1]]
        raise PipelineError(f"label {values[label]} has {len(names)} class names: {_some(names)}")
    return [str(name) for name in found[pairs[:, 1]]]


def _refuse_rows(listing: Listing, bad: pa.ChunkedArray, problem: str) -> None:
    rows = np.flatnonzero(bad.to_numpy())
    if len(rows):
        label = listing.rows["label"]
        places = [f"{listing.locate(row)}: {problem} (found {label[row].as_py()})" for row in rows[:10]]
        raise PipelineError(f"{len(rows)} images have no usable label:\n{listed(places, len(rows))}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
