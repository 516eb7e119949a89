"""Differences between two ways of fine-tuning, seed by seed."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """What one way is above another, over the seeds that both have.

    Attributes:
        values: The difference at each shared seed, in the order of the seeds.
        mean: Their mean.
        standard_deviation: Of a sample (over n - 1); None for a single seed.
    """

    values: tuple[float, ...]
    mean: float
    standard_deviation: float | None

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """The t-interval of the mean: mean ± t(n - 1) * standard deviation / sqrt(n).

        None for a single seed, which says nothing of the spread.
        """
        if self.standard_deviation is None:
            return None
        from scipy.special import stdtrit  # the t quantile, without the second that scipy.stats takes

        count = len(self.values)
        half = float(stdtrit(count - 1, (1 + level) / 2)) * self.standard_deviation / count**0.5
        return self.mean - half, self.mean + half


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The difference of `values` to `baseline` over the seeds that both have; None if there is none.

    Two runs of one seed share their order, augmentation and new head, and with them a part of the
    spread, which pairing takes out.
    """
    differences = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    if not differences:
        return None
    deviation = float(np.std(differences, ddof=1)) if len(differences) > 1 else None
    return Difference(tuple(differences), float(np.mean(differences)), deviation)
