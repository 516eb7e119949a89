"""S_Dbw: how compact classes are, and how empty the space between them is; lower is better.

With c classes, spread vectors ``sigma`` (a number for each dimension) and centres v_i,
``S_Dbw = Scat + Dens_bw`` (Halkidi and Vazirgiannis, "Clustering validity assessment: finding the optimal
partitioning of a data set", ICDM 2001):

- ``Scat = 1/c sum_i |sigma(i)| / |sigma(all)|``
- ``Dens_bw = 1/(c (c - 1)) sum_{i != j} density(u_ij) / max(density(v_i), density(v_j))``, where u_ij is
  the middle between two centres, and a density the number of features of these two classes within
  ``radius = 1/c sqrt(sum_i |sigma(i)|)``.

Released code differs in what sigma is, in whose features count at a centre, and in what a centre is: each
is an argument of `s_dbw`. `s_dbw_of_tong` is the index that COIN's released code computes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

# Dimensions that are looked at together where features are sought in boxes: most lie outside in the first.
DIMENSIONS = 16
# Pairs of a feature and a point that are looked at together.
PAIRS = 100_000


class SDbw(NamedTuple):
    """The index and what it is made of.

    Attributes:
        scat: Spread of the classes relative to that of all features.
        dens_bw: Density between classes relative to that at their centres.
        radius: Of a neighbourhood; None where it is a box.
        densities: Features of each class near its own centre, int64 (c,).
        empty: Ordered pairs of classes with no feature near either centre; they add nothing.
    """

    scat: float
    dens_bw: float
    radius: float | None
    densities: np.ndarray
    empty: int

    @property
    def value(self) -> float:
        """``scat + dens_bw``."""
        return self.scat + self.dens_bw


class UndefinedError(ValueError):
    """The index has no value for these features; the message says why."""


@dataclass(frozen=True)
class _Class:
    """A class: rows of the features, int (n,), with their mean and variances, float64 (d,)."""

    features: np.ndarray
    rows: np.ndarray
    mean: np.ndarray
    variances: np.ndarray

    def deviations(self, points: int) -> Iterator[np.ndarray]:
        """The features less their mean, float64 (m, d), so many at a time as `points` points allow."""
        for rows in np.array_split(self.rows, len(self.rows) * points // PAIRS + 1):
            yield self.features[rows] - self.mean

    @property
    def nearest(self) -> np.ndarray:
        """The feature nearest to the mean, less the mean."""
        distances = [np.einsum("nd,nd->n", part, part) for part in self.deviations(1)]
        return self.features[self.rows[np.concatenate(distances).argmin()]] - self.mean


def s_dbw(
    features: np.ndarray,
    labels: np.ndarray,
    sigma: Literal["variance", "deviation"] = "variance",
    counted: Literal["union", "own"] = "union",
    centre: Literal["mean", "nearest"] = "mean",
) -> SDbw:
    """The index of 2001, or one of its variants.

    Args:
        features: Floats (n, d), finite.
        labels: int (n,).
        sigma: What spread vectors hold: population variances, as in 2001, or standard deviations.
        counted: Whose features count at a centre: those of both classes of the pair, as in 2001, or
            those of its own class.
        centre: Of a class: its mean, as in 2001, or its feature nearest to that.

    Returns:
        The index, computed in float64 with little memory beside the features' and c numbers of each class.

    Raises:
        UndefinedError: If there are fewer than two classes, or all features are equal.
    """
    classes = _classes(features, labels)
    power = 1.0 if sigma == "variance" else 0.5
    norms = np.array([np.linalg.norm(part.variances**power) for part in classes])
    scat = norms.mean() / np.linalg.norm(_total_variances(classes) ** power)
    radius = np.sqrt(norms.sum()) / len(classes)
    near, between = _near_centres_and_middles(classes, radius, centre)
    own = near.diagonal().copy()
    # Of centre i in its pair with class j.
    at_centre = own[:, None] + (near * ~np.eye(len(own), dtype=bool) if counted == "union" else 0 * near)
    dens_bw, empty = _dens_bw(between, np.maximum(at_centre, at_centre.T))
    return SDbw(float(scat), dens_bw, float(radius), own, empty)


def s_dbw_where_defined(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """``s_dbw`` of 2001 as a metric; none where it is undefined.

    Args:
        features: As in `s_dbw`.
        labels: As in `s_dbw`.
    """
    try:
        return {"s_dbw": s_dbw(features, labels).value}
    except UndefinedError:
        return {}


def s_dbw_of_tong(features: np.ndarray, labels: np.ndarray) -> SDbw:
    """The index of Tong and Tan (Journal of Electronics (China) 26, 2009), with members as centres.

    COIN's released code calls it so, by way of the package s-dbw. Scat is ``1/(c - 1) sum_i
    (1 - n_i/n) |sigma(i)| / |sigma(all)|`` with standard deviations. The density of a point is the number
    of features in a box around it, ``1.96 sigma / sqrt(m)`` to each side: of a centre with sigma, size m
    and features of its class, of the point between two centres with the mean of their sigmas and the size
    and features of both classes. That point is ``0.7 (n_j v_i + n_i v_j)/(n_i + n_j) + 0.3 (d_i v_i + d_j
    v_j)/(d_i + d_j)`` with the densities d of the centres.

    Args:
        features: As in `s_dbw`.
        labels: As in `s_dbw`.

    Raises:
        UndefinedError: As in `s_dbw`.
    """
    classes = _classes(features, labels)
    sizes = np.array([len(part.rows) for part in classes])
    sigmas = np.sqrt(np.stack([part.variances for part in classes]))
    shares = 1 - sizes / sizes.sum()
    total = np.linalg.norm(np.sqrt(_total_variances(classes)))
    scat = (shares * np.linalg.norm(sigmas, axis=1)).sum() / total / (len(classes) - 1)
    nearest = np.stack([part.nearest for part in classes])
    halves = 1.96 * sigmas / np.sqrt(sizes)[:, None]
    own = np.array(
        [
            _in_boxes(part, centre[None], half[None])[0]
            for part, centre, half in zip(classes, nearest, halves, strict=True)
        ]
    )
    between = _between_of_tong(classes, nearest, sigmas, sizes, own)
    dens_bw, empty = _dens_bw(between + between.T, np.maximum(own[:, None], own))
    return SDbw(float(scat), dens_bw, None, own, empty)


def _between_of_tong(
    classes: Sequence[_Class],
    nearest: np.ndarray,
    sigmas: np.ndarray,
    sizes: np.ndarray,
    densities: np.ndarray,
) -> np.ndarray:
    """How many features of class i lie in the box between i and j, int64 (c, c)."""
    centres = np.stack([part.mean for part in classes]) + nearest
    counts = []
    for number, part in enumerate(classes):
        both, dense = sizes[number] + sizes, densities[number] + densities
        share = (0.7 * sizes[number] / both + 0.3 * densities / dense)[:, None]
        # From the mean of this class, as its deviations are.
        boxes = nearest[number] + share * (centres - centres[number])
        halves = 1.96 * (sigmas[number] + sigmas) / 2 / np.sqrt(both)[:, None]
        counts.append(_in_boxes(part, boxes, halves))
    return np.stack(counts)


def _classes(features: np.ndarray, labels: np.ndarray) -> list[_Class]:
    found = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        part = features[rows].astype(np.float64)
        found.append(_Class(features, rows, part.mean(axis=0), part.var(axis=0)))
    if len(found) < 2:
        raise UndefinedError("there are fewer than two classes")
    if not _total_variances(found).any():
        raise UndefinedError("all features are equal")
    return found


def _total_variances(classes: Sequence[_Class]) -> np.ndarray:
    """Variances of all features together, float64 (d,)."""
    shares = np.array([len(part.rows) for part in classes], float)
    shares /= shares.sum()
    means = np.stack([part.mean for part in classes])
    within = shares @ np.stack([part.variances for part in classes])
    return within + shares @ (means - shares @ means) ** 2


def _near_centres_and_middles(
    classes: Sequence[_Class], radius: float, centre: str
) -> tuple[np.ndarray, np.ndarray]:
    """Features within the radius: of class j around centre i, and of i and j around their middle.

    Both int64 (c, c). The squared distance of x = mean + deviation of a class to a point p is that of
    the deviation to p - mean, whose inner products with all deviations are one product of matrices.
    """
    means = np.stack([part.mean for part in classes])
    # Small numbers have small errors.
    means -= means.mean(axis=0)
    offsets = np.stack([part.nearest for part in classes]) if centre == "nearest" else np.zeros_like(means)
    centres = means + offsets
    near, between = [], []
    for number, part in enumerate(classes):
        middles = (centres[number] + centres) / 2 - means[number]
        near.append(_within(part, centres - means[number], radius))
        between.append(_within(part, middles, radius))
    counts = np.stack(between)
    return np.stack(near).T, counts + counts.T


def _within(members: _Class, points: np.ndarray, radius: float) -> np.ndarray:
    """How many deviations of a class lie within the radius of each point, int64 (c,)."""
    counts = np.zeros(len(points), np.int64)
    norms = np.einsum("cd,cd->c", points, points)
    for part in members.deviations(len(points)):
        squares = np.einsum("nd,nd->n", part, part)[:, None] + norms - 2 * part @ points.T
        counts += (squares <= radius**2).sum(axis=0)
    return counts


def _in_boxes(members: _Class, centres: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """How many deviations of a class lie in each box, borders included, int64 (c,)."""
    counts = np.zeros(len(centres), np.int64)
    for part in members.deviations(len(centres)):
        rows, boxes = (grid.ravel() for grid in np.indices((len(part), len(centres))))
        for first in range(0, part.shape[1], DIMENSIONS):
            some = slice(first, first + DIMENSIONS)
            apart = np.abs(part[rows, some] - centres[boxes, some])
            inside = (apart <= halves[boxes, some]).all(axis=1)
            rows, boxes = rows[inside], boxes[inside]
        counts += np.bincount(boxes, minlength=len(centres))
    return counts


def _dens_bw(between: np.ndarray, highest: np.ndarray) -> tuple[float, int]:
    """Dens_bw and how many ordered pairs have no feature near either centre, int64 (c, c) both."""
    classes = len(between)
    pairs = ~np.eye(classes, dtype=bool)
    dense = pairs & (highest > 0)
    shares = np.divide(between, highest, out=np.zeros(between.shape), where=dense)
    return float(shares.sum() / (classes * (classes - 1))), int((pairs & ~dense).sum())
