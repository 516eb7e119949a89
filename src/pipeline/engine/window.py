"""Which steps of a budget a training makes, and where its schedule is at each."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Window:
    """Which optimiser steps of a budget this training makes.

    Attributes:
        first: The first step, from 0.
        last: One past the last step.
        total: Steps of the whole budget, over which the schedule runs.
        per_epoch: Optimiser steps in an epoch.
        cycles: First steps of the parts over each of which the schedule runs, and one past the last of
            them; empty where it runs once, over the whole budget.
    """

    first: int
    last: int
    total: int
    per_epoch: int
    cycles: tuple[int, ...] = ()

    @classmethod
    def of_budget(
        cls, budget: Mapping[str, Any], batches: int, accumulate: int, share: tuple[float, float] = (0, 1)
    ) -> "Window":
        """The window for a share (from, to) of a budget in epochs or iterations.

        A budget in epochs is cut between whole epochs.

        Raises:
            PipelineError: If the share holds no step.
        """
        per_epoch = -(-batches // accumulate)
        if budget["iterations"] is not None:
            total, unit = budget["iterations"], 1
        else:
            total, unit = budget["epochs"] * per_epoch, per_epoch
        first, last = (round(part * total / unit) * unit for part in share)
        if first == last:
            counted = f"{total // unit} {'iterations' if budget['epochs'] is None else 'epochs'}"
            raise PipelineError(
                f"the part from {share[0]:g} to {share[1]:g} of a budget of {counted} is empty; "
                "train longer, or give the initialisation another share"
            )
        return cls(first, last, total, per_epoch)

    @property
    def epochs(self) -> range:
        """The epochs that it trains, whole or in part, counted from 1."""
        return range(self.first // self.per_epoch + 1, -(-self.last // self.per_epoch) + 1)

    @property
    def ends(self) -> bool:
        """Whether the budget is used up at its end."""
        return self.last == self.total

    def in_cycles(self, count: int) -> "Window":
        """The same with a schedule that starts anew for each of so many equal parts of this window.

        Raises:
            PipelineError: If a part would have no step.
        """
        if self.last - self.first < count:
            raise PipelineError(
                f"a schedule of {count} cycles in {self.last - self.first} steps: train longer"
            )
        starts = (self.first + part * (self.last - self.first) // count for part in range(count + 1))
        return replace(self, cycles=tuple(starts))

    def cycle(self, step: int) -> int:
        """Which cycle a step is in, from 0."""
        return max(0, bisect_right(self.cycles[:-1], step) - 1)

    def place(self, step: int) -> tuple[int, int]:
        """How many steps the schedule has made before a step, and how many it has in all."""
        if not self.cycles:
            return step, self.total
        start, end = self.cycles[self.cycle(step) :][:2]
        return step - start, end - start

    def until(self, share: float) -> "Window":
        """The same from its start to a share of the budget, rounded up to whole epochs of steps.

        What is trained up to there and goes on later is what is trained without a stop.
        """
        epochs = math.ceil(round(share * self.total / self.per_epoch, 9))
        return replace(self, last=min(epochs * self.per_epoch, self.last))
