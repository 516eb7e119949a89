"""The search for a recipe's settings on the validation part."""

from collections.abc import Iterator
from itertools import product

from pydantic import Field, model_validator

from pipeline.config.base import Name, Seed, Settings

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
    seed: Seed = Field(0, description="Seed of the trials.")

    @model_validator(mode="after")
    def _has_values(self) -> "Search":
        for key, values in self.grid.items():
            if not values:
                raise ValueError(f"grid.{key} has no value to try")
            if len(set(map(repr, values))) < len(values):
                raise ValueError(f"grid.{key} has a value twice: {values}")
        return self

    def trials(self) -> Iterator[dict[str, Value]]:
        """Settings of every trial by key path, in the order of the grid."""
        for values in product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))
