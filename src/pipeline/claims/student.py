"""Uncertainty of a mean over draws alone, of numbers that each run has one of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from pipeline.claims.intervals import Estimate

# Of two, Student's quantile is 12.7 at 95 % and more once corrected: such an interval tells nothing.
FEWEST_DRAWS = 3


@dataclass(frozen=True)
class Student(Estimate):
    """A mean of independent effects; of an infinite standard error where nothing is known of it."""

    def interval(self, level: float) -> tuple[float, float]:
        """Student's t-interval: mean ± t(n - 1) * standard error."""
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.standard_error
        return self.mean - half, self.mean + half

    def p_value(self, line: float) -> float:
        """Two-sided, of the paired t-test for the true mean being at `line`."""
        distance = abs(self.mean - line)
        if distance == 0:
            return 1.0
        if self.standard_error == 0:
            return 0.0
        return float(2 * stdtr(self.freedom, -distance / self.standard_error))


def student(effects: Sequence[float], comparable: bool = True) -> Student:
    """The mean of paired differences over draws, as the paired t-test has it.

    Args:
        effects: Of each draw, one or more.
        comparable: Whether they can decide anything.
    """
    draws = len(effects)
    error = np.inf
    if comparable and draws >= FEWEST_DRAWS:
        error = float(np.std(effects, ddof=1) / draws**0.5)
    return Student(float(np.mean(effects)), error, float(max(draws - 1, 1)))
