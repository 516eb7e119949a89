"""Uncertainty of a mean over draws and test images, both of which are samples.

Of D draws (training images, and all that the seed decides) and I test images, draw d measures x_di on
image i. Model: x_di = mu + a_d + b_i + e_di with independent a, b and e (crossed random effects).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtrinc, ndtri, stdtrit

# Resamples at a time: their weights of the images take memory.
CHUNK = 500


@dataclass(frozen=True)
class Estimate(ABC):
    """A mean, and what it may deviate by.

    Attributes:
        mean: Of the effects.
        standard_error: Of the mean.
        freedom: Its degrees of freedom.
    """

    mean: float
    standard_error: float
    freedom: float

    @abstractmethod
    def interval(self, level: float) -> tuple[float, float]:
        """It excludes just the lines whose p-value is at most 1 - level."""

    @abstractmethod
    def p_value(self, line: float) -> float:
        """Two-sided, of the true mean being at `line`."""

    def detectable(self, level: float, power: float = 0.8) -> float:
        """The smallest true effect that an interval of that level excludes 0 for, with that power.

        The noncentrality at which Student's distribution exceeds the critical value with probability
        `power`, times the standard error.
        """
        critical = stdtrit(self.freedom, (1 + level) / 2)
        return float(nctdtrinc(self.freedom, 1 - power, critical)) * self.standard_error


@dataclass(frozen=True)
class Resampled(Estimate):
    """A mean over draws and images, `standard_error` by the function of that name.

    Attributes:
        deviations: Resampled means less the mean, sorted, of that standard error; float64 (resamples,).
    """

    deviations: np.ndarray

    def interval(self, level: float) -> tuple[float, float]:
        """The percentile interval."""
        beyond = int((1 - level) * (len(self.deviations) + 1) / 2)
        return self.mean + float(self.deviations[beyond - 1]), self.mean + float(self.deviations[-beyond])

    def p_value(self, line: float) -> float:
        """Two-sided, of the true mean being at `line`, by how many resamples lie beyond it."""
        count = len(self.deviations) + 1
        below = 1 + int(np.sum(self.mean + self.deviations <= line))
        above = 1 + int(np.sum(self.mean + self.deviations >= line))
        return min(1.0, 2 * min(below, above) / count)


def estimate(values: np.ndarray, random: np.random.Generator, resamples: int) -> Resampled:
    """The mean of `values` with its two-way bootstrap, of the right variance and tails.

    Resampling two crossed factors counts the noise of single cells three times (Owen 2007, The pigeonhole
    bootstrap, section 3), and takes ten draws for the whole distribution of draws. So the
    deviations keep the shape that resampling gives them, are scaled to the standard error, and
    stretched at each rank by the ratio of Student's quantile to the normal one.

    Args:
        values: float64 (draws, images), at least 2 of each.
        random: Draws the resamples.
        resamples: How many.
    """
    error, freedom = standard_error(values)
    deviations = np.sort(two_way_deviations(values, random, resamples))
    spread = float(deviations.std())
    if spread > 0:
        ranks = np.arange(1, resamples + 1) / (resamples + 1)
        normal = ndtri(ranks)
        middle = np.abs(normal) < 1e-9
        stretch = np.where(middle, 1.0, stdtrit(freedom, ranks) / np.where(middle, 1.0, normal))
        deviations = np.sort(deviations * stretch * (error / spread))
    return Resampled(float(values.mean()), error, freedom, deviations)


def two_way_deviations(values: np.ndarray, random: np.random.Generator, resamples: int) -> np.ndarray:
    """Means of resampled draws and resampled images, less the mean; float64 (resamples,)."""
    centred = values - values.mean()
    draws, images = values.shape
    found = []
    for start in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - start)
        of_draws = random.multinomial(draws, np.full(draws, 1 / draws), count) / draws
        of_images = random.multinomial(images, np.full(images, 1 / images), count) / images
        found.append(np.einsum("ri,ri->r", of_draws @ centred, of_images))
    return np.concatenate(found)


def standard_error(values: np.ndarray) -> tuple[float, float]:
    """The standard error of the mean under crossed random effects, and its degrees of freedom.

    With the mean squares of draws, images and residuals, (MS_draws + MS_images - MS_residuals) / (D I) is
    unbiased for the variance of the mean (Cornfield and Tukey 1956). It is held to at least
    MS_draws / (D I) and MS_images / (D I), which it exceeds in expectation. Degrees of freedom are
    Satterthwaite's.

    Args:
        values: float64 (draws, images), at least 2 of each.
    """
    draws, images = values.shape
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    residuals = values - rows[:, None] - columns[None, :] + values.mean()
    squares = np.array([images * rows.var(ddof=1), draws * columns.var(ddof=1), np.sum(residuals**2)])
    freedom = np.array([draws - 1, images - 1, (draws - 1) * (images - 1)], dtype=float)
    squares[2] /= freedom[2]
    used = np.array([True, True, True])
    if squares[2] > squares[:2].min():
        used = np.arange(3) == np.argmax(squares[:2])
    variance = float(squares[used] @ np.array([1, 1, -1])[used])
    if variance <= 0:
        return 0.0, float(draws - 1)
    satterthwaite = variance**2 / np.sum(squares[used] ** 2 / freedom[used])
    return float(np.sqrt(variance / (draws * images))), float(satterthwaite)
