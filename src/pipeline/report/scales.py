"""Where a value lies on an axis that stretches with the page, in percent of its width."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipeline.report.answers import Comparison, Scores

# Left free at both ends, so that marks are whole.
MARGIN = 4.0
# A way lies out of view where the axis without it has less than this share of its length.
OUTLYING = 1 / 3


class Scale(NamedTuple):
    """A linear axis.

    Attributes:
        low: Its least value.
        high: Its largest.
        ticks: Round values between them.
        decimals: That tell the ticks apart, in percent of shares.
    """

    low: float
    high: float
    ticks: Sequence[float]
    decimals: int

    def holds(self, value: float) -> bool:
        """Whether a value lies on it."""
        return self.low - 1e-12 <= value <= self.high + 1e-12

    def at(self, value: float) -> float:
        """Position of a value, 0 to 100; what lies outside is put at the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(MARGIN + (100 - 2 * MARGIN) * min(max(share, 0.0), 1.0), 2)


def scale_of(values: Iterable[float], ticks: int = 6, hundredths: bool = True) -> Scale:
    """The axis from the least to the largest of some values, a little apart where they are equal.

    Args:
        values: One or more.
        ticks: About how many.
        hundredths: Whether they are shares, whose ticks are told in percent.
    """
    from matplotlib.ticker import MaxNLocator

    found = list(values)
    low, high = min(found), max(found)
    if high - low < 1e-9:
        low, high = low - 0.01, high + 0.01
    places = MaxNLocator(ticks, steps=[1, 2, 5, 10]).tick_values(low, high)
    step = float(places[1] - places[0]) * (100 if hundredths else 1)
    decimals = next((digits for digits in range(6) if abs(step - round(step, digits)) < 1e-9), 6)
    return Scale(low, high, [float(place) for place in places if low <= place <= high], decimals)


def seed_scale(comparison: Comparison) -> Scale:
    """Of the strips of one comparison."""
    return scale_of(value for scores in _in_view(comparison.scores) for value in scores.seeds.values())


def difference_scale(comparison: Comparison) -> Scale:
    """Of differences and their intervals; of two or three seeds the interval may run off it."""
    found = [scores.difference for scores in _in_view(comparison.scores) if scores.difference]
    seeds = [0.0, *(value for difference in found for value in difference.values)]
    room = 0.5 * (max(seeds) - min(seeds))
    ends = [end for difference in found for end in difference.interval() or ()]
    kept = [min(max(end, min(seeds) - room), max(seeds) + room) for end in ends]
    return scale_of([*seeds, *kept])


def trial_scale(trials: Sequence[tuple[float, float]]) -> Scale:
    """Of the trials of a search, best first: value and standard error of each."""
    kept = trials[: _holding_together([value for value, _ in trials])]
    return scale_of(end for value, error in kept for end in (value - error, value + error))


def _in_view(ranked: Sequence[Scores]) -> Sequence[Scores]:
    """Without the last ones that would press all others together, as training from scratch can."""
    means = [sum(scores.seeds.values()) / len(scores.seeds) for scores in ranked if scores.seeds]
    return ranked[: _holding_together(means)]


def _holding_together(values: Sequence[float]) -> int:
    """How many values, the highest first, are left without those far below the others."""
    kept = len(values)
    while kept > 3 and values[0] - values[kept - 2] < OUTLYING * (values[0] - values[kept - 1]):
        kept -= 1
    return kept
