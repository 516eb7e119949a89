"""Claims about the runs, with their answers."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pipeline.claims.measures import HUNDREDTHS, decimals_of, factor_of, unit_in_words
from pipeline.report.data import record_of
from pipeline.report.numbers import MINUS, number
from pipeline.report.scales import Scale, scale_of
from pipeline.tables import read_table

# In the order that they are counted in.
ANSWERS = ("replicated", "not replicated", "undecided")


class Claim(NamedTuple):
    """A row of the table of claims; effects are in its unit.

    Attributes:
        claim: In words.
        kind: Of the question.
        measure: What runs are compared by.
        backbone: Of its runs.
        better: The arm that is claimed to be ahead.
        baseline: The other arm.
        draws: Pairs of runs, or in a trend sets of pairs, that the interval is over.
        images: Test images that it is over as well; None where it is over draws alone.
        unit: Of the numbers below.
        side: Of `line` that the effect must be on, ``above`` or ``below``.
        line: What the effect must be on that side of.
        estimate: The effect.
        level: Of its interval.
        low: Lower end of that; None without one, as `high` and `detectable`.
        high: Upper end.
        detectable: How far beyond the line an effect would probably have been decided.
        answer: One of `ANSWERS`.
        reason: Why there is no interval.
    """

    claim: str
    kind: str
    measure: str
    backbone: str
    better: str
    baseline: str
    draws: int
    images: int | None
    unit: str
    side: str
    line: float
    estimate: float
    level: float
    low: float | None
    high: float | None
    detectable: float | None
    answer: str
    reason: str | None

    @property
    def effect(self) -> str:
        """What was measured."""
        difference = f"{self.better} {MINUS} {self.baseline}"
        if self.kind == "trend":
            return f"growth of ({difference}) with each halving of the training images"
        return difference

    @property
    def in_words(self) -> str:
        """What effects are told in."""
        return unit_in_words(self.measure, self.unit)

    @property
    def ends(self) -> list[float]:
        """Values that an axis must hold."""
        return [found for found in (self.line, self.estimate, self.low, self.high) if found is not None]

    def told(self, value: float, signed: bool = True) -> str:
        """An effect as it is read, as precise as the claim's others."""
        shown = [factor_of(self.unit) * found for found in self.ends]
        return number(factor_of(self.unit) * value, decimals_of(self.unit, shown), signed)


@dataclass(frozen=True)
class Group:
    """Claims that share their unit, and with it an axis.

    Attributes:
        in_words: What their effects are told in.
        claims: In the order of the config.
    """

    in_words: str
    claims: list[Claim]

    @property
    def hundredths(self) -> bool:
        """Whether effects are shares that are told in hundredths."""
        return self.claims[0].unit in HUNDREDTHS

    @cached_property
    def scale(self) -> Scale:
        """The axis of every interval, every line and zero."""
        ends = (end for claim in self.claims for end in claim.ends)
        return scale_of([0.0, *ends], hundredths=self.hundredths)


@dataclass(frozen=True)
class Claims:
    """All claims.

    Attributes:
        level: Of all answers together.
        claims: In the order of the config.
    """

    level: float
    claims: list[Claim]

    @property
    def counts(self) -> dict[str, int]:
        """How many have each answer; only answers that occur."""
        found = [claim.answer for claim in self.claims]
        return {answer: found.count(answer) for answer in ANSWERS if answer in found}

    @cached_property
    def groups(self) -> list[Group]:
        """Claims by what they are told in, in the order of the config."""
        words = dict.fromkeys(claim.in_words for claim in self.claims)
        return [Group(unit, [claim for claim in self.claims if claim.in_words == unit]) for unit in words]


def read_claims(path: Path) -> Claims:
    """The table of claims; its record has the level."""
    table = read_table("claims", path)
    rows = table.select(Claim._fields).to_pylist()
    return Claims(record_of(table).settings["level"], [Claim(**row) for row in rows])
