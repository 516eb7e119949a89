"""What a claim compares runs by: which way is better, the effect of a pair, and its unit.

Neither numpy nor scipy is imported here, since the settings read `MEASURES`.
"""

from collections.abc import Iterable, Mapping
from math import expm1, floor, log, log1p, log10
from typing import Any, NamedTuple

from pipeline.evaluation.catalogue import METRICS, NATS, PURE, SHARE, Metric

TOP1, SECONDS = "top1", "seconds"
TIME = "s"
MEASURES = {**METRICS, SECONDS: Metric("training time", TIME, lower_is_better=True)}
# The unit of an effect that is told as a share of what the baseline has.
OF_BASELINE = "share of baseline"
IN_WORDS = {
    SHARE: "points of {}",
    NATS: "nats of {}",
    TIME: "seconds of {}",
    PURE: "{}",
    OF_BASELINE: "% of the baseline's {}",
}
HUNDREDTHS = (SHARE, OF_BASELINE)
ABOVE, BELOW = "above", "below"


class Measured(NamedTuple):
    """A measure, and how two runs are compared by it.

    Effects are differences of `better` to `baseline`, or where `relative` the logarithms of their ratio:
    so their mean is the same, sign apart, whichever arm is divided by the other, which that of ratios
    is not. `shown` turns a log ratio into the share of the baseline that `better` has more.
    """

    metric: Metric
    relative: bool

    @classmethod
    def of(cls, claim: Mapping[str, Any]) -> "Measured":
        """As a claim of the step's settings has it."""
        return cls(MEASURES[claim["measure"]], claim.get("relative_margin") is not None)

    @property
    def unit(self) -> str:
        """What shown effects are in: ``share``, ``nats``, ``s``, ``1`` or ``share of baseline``."""
        return OF_BASELINE if self.relative else self.metric.unit

    @property
    def side(self) -> str:
        """On which side of its line an effect must be."""
        return BELOW if self.metric.lower_is_better else ABOVE

    def effect(self, better: float, baseline: float) -> float:
        """The effect of a pair; where relative, both are above 0."""
        return log(better / baseline) if self.relative else better - baseline

    def line(self, claim: Mapping[str, Any]) -> float:
        """What the true effect must be on the good side of for a claim to hold."""
        margin = claim["relative_margin"] if self.relative else claim["margin"]
        towards = margin if self.side == ABOVE else -margin
        change = -towards if claim["kind"] == "non_inferiority" else towards
        return log1p(change) if self.relative else change

    def shown(self, effect: float) -> float:
        """An effect in the measure's own unit, or as a share of the baseline."""
        return expm1(effect) if self.relative else effect

    def distance(self, line: float, effect: float) -> float:
        """How far beyond a line an effect of that size lies, as shown; above 0."""
        beyond = line + (effect if self.side == ABOVE else -effect)
        return abs(self.shown(beyond) - self.shown(line))


def unit_in_words(measure: str, unit: str) -> str:
    """What the effects of a claim are told in, such as ``points of top-1 accuracy``."""
    return IN_WORDS[unit].format(MEASURES[measure].words)


def factor_of(unit: str) -> int:
    """By what effects are multiplied to be told in that: shares in hundredths."""
    return 100 if unit in HUNDREDTHS else 1


def decimals_of(unit: str, values: Iterable[float]) -> int:
    """Decimals to tell numbers of a claim with: two for points and %, else three digits of the largest."""
    largest = max(map(abs, values), default=0.0)
    if unit in HUNDREDTHS or largest == 0:
        return 2
    return max(2 - floor(log10(largest)), 0)
