"""Distances between the means of source units and target classes, a block of rows at a time."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from pipeline.errors import PipelineError
from pipeline.selection.units import Units

# Entries of a block: 8 MB of float64.
BLOCK = 1 << 20
# |b - a|² as |b|² + |a|² - 2 ba is exact to twelve digits above this share of |b|² + |a|².
CANCELLED = 1e-3


class RowBlocks(Protocol):
    """A float64 matrix that gives some of its rows when asked; an array is one, too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """These rows, float64."""
        ...


class Distances:
    """Distances between two sets of means, computed by rows, so that all of them need not be held.

    Args:
        source: b, (K_g, d), finite.
        target: a, (K_f, d), finite.
        distance: ``cosine`` for 1 - cos (no mean may be zero), ``l2`` for the Euclidean distance.
        scale: All distances are divided by it.
    """

    def __init__(self, source: np.ndarray, target: np.ndarray, distance: str, scale: float = 1.0):
        self.shape = (len(source), len(target))
        self._source, self._distance, self._scale = source, distance, scale
        target = target.astype(np.float64)
        self._centre = target.mean(axis=0)
        self._target = _directions(target) if distance == "cosine" else target - self._centre

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray:
        """The distances of these source means, float64 (rows, K_f)."""
        source = self._source[rows].astype(np.float64)
        if self._distance == "cosine":
            found = _cosine(source, self._target)
        else:
            found = _l2(source - self._centre, self._target)
        if self._scale != 1:
            found /= self._scale
        return found


def distances(source: Units, target: Units, distance: str, scale: float = 1.0) -> Distances:
    """The distances between the means of two sets of units.

    Raises:
        PipelineError: If a mean is zero, so has no direction, and `distance` is cosine.
    """
    if distance == "cosine":
        for units in (source, target):
            zero = np.abs(units.means).max(axis=1) == 0
            if zero.any():
                raise PipelineError(
                    f"{units.path}: {zero.sum()} of {len(zero)} units with a mean of zero, which has no "
                    f"cosine; distance: l2 takes them:\n{units.called(zero)}"
                )
    return Distances(source.means, target.means, distance, scale)


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows that together are all rows of a matrix, each of at most `BLOCK` entries."""
    rows = max(1, BLOCK // max(1, shape[1]))
    for first in range(0, shape[0], rows):
        yield slice(first, min(first + rows, shape[0]))


def _directions(means: np.ndarray) -> np.ndarray:
    # By the largest entry first: squares of very small or large ones under- or overflow.
    means = means / np.abs(means).max(axis=1, keepdims=True)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def _cosine(source: np.ndarray, directions: np.ndarray) -> np.ndarray:
    found = _directions(source) @ directions.T
    return np.subtract(1.0, found, out=found)


def _l2(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Euclidean distances, by a product of matrices where none is too small for that."""
    lengths = np.square(source).sum(axis=1)[:, None] + np.square(target).sum(axis=1)
    squares = lengths - 2 * (source @ target.T)
    if (squares >= CANCELLED * lengths).all():
        return np.sqrt(squares, out=squares)
    from scipy.spatial.distance import cdist

    return cdist(source, target)
