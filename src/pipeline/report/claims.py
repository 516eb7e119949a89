"""Claims about the runs, with their answers."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pipeline.report.data import record_of
from pipeline.report.numbers import MINUS
from pipeline.report.scales import Scale, scale_of
from pipeline.tables import read_table

# In the order that they are counted in.
ANSWERS = ("replicated", "not replicated", "undecided")


class Claim(NamedTuple):
    """A row of the table of claims; effects are shares of one.

    Attributes:
        claim: In words.
        kind: Of the question.
        backbone: Of its runs.
        better: The arm that is claimed to be ahead.
        baseline: The other arm.
        draws: Pairs of runs, or in a trend sets of pairs, that were resampled.
        images: Test images that were resampled.
        line: What the effect must be above.
        estimate: The effect.
        level: Of its interval.
        low: Lower end of that.
        high: Upper end.
        detectable: How far beyond the line an effect would probably have been decided.
        answer: One of `ANSWERS`.
    """

    claim: str
    kind: str
    backbone: str
    better: str
    baseline: str
    draws: int
    images: int
    line: float
    estimate: float
    level: float
    low: float
    high: float
    detectable: float
    answer: str

    @property
    def effect(self) -> str:
        """What was measured."""
        difference = f"{self.better} {MINUS} {self.baseline}"
        if self.kind == "trend":
            return f"growth of ({difference}) with each halving of the training images"
        return difference


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
    def scale(self) -> Scale:
        """The axis of every interval, every line and zero."""
        return scale_of([0.0, *(end for claim in self.claims for end in (claim.low, claim.high, claim.line))])


def read_claims(path: Path) -> Claims:
    """The table of claims; its record has the level."""
    table = read_table("claims", path)
    rows = table.select(Claim._fields).to_pylist()
    return Claims(record_of(table).settings["level"], [Claim(**row) for row in rows])
