"""Unbiased estimates of the domain gap and its parts from independent gradients of batches."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline.errors import PipelineError

# Gradients of fewer batches leave nothing when one is left out of a difference of two.
FEWEST = 3
# Columns that are turned to float64 at a time, so that a second copy of all gradients is never held.
COLUMNS = 1 << 18


class Estimate(NamedTuple):
    r"""The domain gap and its parts; errors are standard errors.

    Attributes:
        gap: :math:`\delta^2 = E \|\nabla F - \nabla h(\xi)\|^2`, the sum of the next two.
        gap_error: Of `gap`.
        difference: :math:`\Delta^2 = \|\nabla F - \nabla H\|^2` with :math:`H = E_\xi h`.
        difference_error: Of `difference`.
        variance: :math:`E \|\nabla h(\xi) - \nabla H\|^2`, tr Var / batch size where the images of a
            batch are drawn independently.
        variance_error: Of `variance`.
        target_norm: :math:`\|\nabla F\|^2`.
        source_norm: :math:`\|\nabla H\|^2`.
    """

    gap: float
    gap_error: float
    difference: float
    difference_error: float
    variance: float
    variance_error: float
    target_norm: float
    source_norm: float


class Products(NamedTuple):
    """Inner products of gradients, float64.

    Attributes:
        target: Of the target's batches with each other, (A, A).
        source: Of the source's, (B, B).
        across: Of the target's with the source's, (A, B).
    """

    target: np.ndarray
    source: np.ndarray
    across: np.ndarray


def estimate(target: np.ndarray, source: np.ndarray) -> Estimate:
    r"""Estimate Theorem 1's gap (UOT paper, section 3.1 and appendix B) from gradients of batches.

    With :math:`f_a` of the target and :math:`g_b` of the source, every squared norm of a mean is the
    average of the products of two *different* batches, whose errors are independent:

    .. math::
        \hat\Delta^2 = \frac{\sum_{a \ne a'} f_a f_{a'}}{A (A-1)} + \frac{\sum_{b \ne b'} g_b g_{b'}}{B (B-1)}
                       - \frac{2}{AB} \sum_{a,b} f_a g_b

    and :math:`\hat\delta^2` has the mean of :math:`\|g_b\|^2` as its second term. Both are unbiased,
    so an estimate of a small difference may be negative. Standard errors are the jackknife's over
    batches of each side, whose variance is too large on average, never too small (Efron and Stein 1981).

    Args:
        target: Gradients of independent target batches of equal size, float (A, parameters).
        source: Gradients of independent source batches of the size in question, float (B, parameters).

    Raises:
        PipelineError: If a side has fewer than three batches, or a gradient is not finite.
    """
    for side, gradients in (("target", target), ("source", source)):
        if len(gradients) < FEWEST:
            raise PipelineError(
                f"found gradients of {len(gradients)} {side} batches; expected {FEWEST} or more"
            )
    products = Products(
        inner_products(target, target), inner_products(source, source), inner_products(target, source)
    )
    for side, own in (("target", products.target), ("source", products.source)):
        bad = np.flatnonzero(~np.isfinite(np.diag(own)))
        if len(bad):
            raise PipelineError(f"the gradient of {side} batch {bad[0]} is not finite: has the run diverged?")
    return Estimate(
        _gap(products),
        _jackknife(_gap, products),
        _difference(products),
        _jackknife(_difference, products),
        _variance(products),
        _jackknife(_variance, products),
        _off_diagonal(products.target),
        _off_diagonal(products.source),
    )


def inner_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Products of all rows of two matrices, added in float64.

    Args:
        first: float (m, parameters).
        second: float (n, parameters).

    Returns:
        float64 (m, n).
    """
    total = np.zeros((len(first), len(second)))
    for start in range(0, first.shape[1], COLUMNS):
        some = slice(start, start + COLUMNS)
        total += first[:, some].astype(np.float64) @ second[:, some].astype(np.float64).T
    return total


def _gap(products: Products) -> float:
    squares = np.diag(products.source).mean()
    return float(_off_diagonal(products.target) + squares - 2 * products.across.mean())


def _difference(products: Products) -> float:
    means = _off_diagonal(products.target) + _off_diagonal(products.source)
    return float(means - 2 * products.across.mean())


def _variance(products: Products) -> float:
    return float(np.diag(products.source).mean() - _off_diagonal(products.source))


def _off_diagonal(products: np.ndarray) -> float:
    """The mean of the products of two different batches."""
    count = len(products)
    return float((products.sum() - np.trace(products)) / (count * (count - 1)))


def _jackknife(statistic: Callable[[Products], float], products: Products) -> float:
    """Standard error of a statistic of two independent samples of batches."""
    variance = 0.0
    for without_each in (_without_each_target, _without_each_source):
        left_out = np.array([statistic(fewer) for fewer in without_each(products)])
        variance += (len(left_out) - 1) * left_out.var()
    return float(np.sqrt(variance))


def _without_each_target(products: Products) -> Iterator[Products]:
    for kept in _all_but_one(len(products.target)):
        yield products._replace(target=products.target[np.ix_(kept, kept)], across=products.across[kept])


def _without_each_source(products: Products) -> Iterator[Products]:
    for kept in _all_but_one(len(products.source)):
        yield products._replace(source=products.source[np.ix_(kept, kept)], across=products.across[:, kept])


def _all_but_one(count: int) -> Iterator[np.ndarray]:
    for left_out in range(count):
        yield np.delete(np.arange(count), left_out)
