"""The search for a recipe's settings on the validation part."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from pydantic import Field, model_validator

from pipeline.config.base import Integer, Name, Number, Seed, Settings

Value = bool | int | float | str


class Taken(Settings):
    """Settings that another recipe's search decides, for the same backbone and target."""

    recipe: Name = Field(description="The recipe whose search decides; it has one, and reuses nothing.")
    keys: list[str] = Field(min_length=1, description="Keys of its grid.")


class Tuned(Settings):
    """Settings that hold for some runs of a recipe only, such as what a paper found for each target."""

    backbone: Name | None = Field(None, description="For runs of this backbone; of any by default.")
    target: Name | None = Field(None, description="For runs on this target; on any by default.")
    selection: Name | None = Field(None, description="For runs with this selection; with any by default.")
    values: dict[str, Value] = Field(
        min_length=1, description="Settings of the recipe by key path, such as `optimiser.learning_rate`."
    )


class Rung(NamedTuple):
    """One round of successive halving.

    Attributes:
        trials: How many take part.
        share: Of the budget, that they are trained for by its end.
    """

    trials: int
    share: float


class Halving(Settings):
    """Successive halving (Jamieson and Talwalkar 2016): of the trials only the better go on.

    Every trial is trained for the share `first` of its budget; the best of them, one in `factor`, go on
    to `factor` times that share, and so on, until one is left or the budget is used up. The learning
    rate follows the schedule of the whole budget, so what goes on is trained as in the full grid.
    """

    factor: Integer = Field(3, ge=2, description="One trial in so many goes on.")
    first: Number = Field(gt=0, lt=1, description="Share of the budget that every trial is trained for.")

    def rungs(self, trials: int) -> list[Rung]:
        """The rounds for so many trials; the best of the last one is chosen."""
        rungs = [Rung(trials, self.first)]
        while rungs[-1].share < 1 and rungs[-1].trials // self.factor > 1:
            rungs.append(Rung(rungs[-1].trials // self.factor, min(1.0, rungs[-1].share * self.factor)))
        return rungs


class Search(Settings):
    """A grid of trials, each trained on the training part; the best on the validation part is taken.

    The UOT paper (appendix A) searches learning rate, weight decay and lambda for each backbone, target,
    selection and recipe, and the ratio of head to backbone once for each target.
    """

    grid: dict[str, list[Value]] = Field(
        min_length=1,
        description="Values to try of each setting of the recipe, by its key path, such as "
        "`optimiser.learning_rate`; every combination is a trial.",
    )
    halving: Halving | None = Field(
        None, description="Train most trials for a part of the budget; all of them in full by default."
    )
    seed: Seed = Field(0, description="Seed of the trials.")

    @model_validator(mode="after")
    def _has_values(self) -> "Search":
        for key, values in self.grid.items():
            if not values:
                raise ValueError(f"grid.{key} has no value to try")
            if len(set(map(repr, values))) < len(values):
                raise ValueError(f"grid.{key} has a value twice: {values}")
        return self

    def rungs(self) -> list[Rung]:
        """The rounds of its halving; none without."""
        return self.halving.rungs(len(list(self.trials()))) if self.halving else []

    def trials(self) -> Iterator[dict[str, Value]]:
        """Settings of every trial by key path, in the order of the grid."""
        for values in product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))
