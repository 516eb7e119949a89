"""How to fine-tune: initialisation stage, objective, reuse and training."""

import math
from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.config.base import Count
from pipeline.config.initialisation import AnyInitialisation, LinearProbe, NoInitialisation, Stage
from pipeline.config.objectives import AnyObjective, CoTuning, CrossEntropy, Delta, L2Sp, Rifle
from pipeline.config.reuse import AnyReuse, LabelledReuse, NoReuse
from pipeline.config.search import Search, Taken, Tuned
from pipeline.config.training import Training
from pipeline.errors import did_you_mean
from pipeline.nested import with_values

# Settings that decide which jobs there are, what they read, and what they run on.
UNSEARCHED = ("from_scratch", "gpu", "fit_on", "reuse.leaks")


class Recipe(Training):
    """How to fine-tune."""

    initialise: AnyInitialisation = Field(NoInitialisation(name="none"), description="The stage before.")
    objective: AnyObjective = Field(
        CrossEntropy(name="cross_entropy"), description="The objective on the target."
    )
    reuse: AnyReuse = Field(NoReuse(name="none"), description="How selected source images take part.")
    trainable: Literal["all", "head"] = Field(
        "all", description="What is trained: everything, or the new layers on a frozen backbone."
    )
    batch_norm: Literal["trained", "frozen"] = Field(
        "trained",
        description="Statistics of batch normalisation: those of the batches, or frozen as pre-training left "
        "them (its weights are trained all the same).",
    )
    from_scratch: bool = Field(False, description="Start from random weights: the floor of pre-training.")
    checkpoint: Literal["last", "best"] = Field(
        "last", description="Weights to keep: the last, or the best on the validation part."
    )
    keep_epochs: list[Count] = Field(
        default_factory=list,
        description="Epochs after which a checkpoint is kept; `domain_gap` is measured there too.",
    )
    fit_on: Literal["train", "train+validation"] = Field(
        "train",
        description="Parts to train on; the UOT paper trains on both once settings are chosen (appendix A).",
    )
    tuned: list[Tuned] = Field(
        default_factory=list, description="Settings that hold for some runs only; the last that fits counts."
    )
    take: Taken | None = Field(None, description="Settings that another recipe's search decides.")
    search: Search | None = Field(
        None,
        description="Settings to choose on the validation part before; the test part sees only the chosen.",
    )

    @model_validator(mode="after")
    def _keeps_what_it_starts_from(self) -> "Recipe":
        if self.from_scratch and self.initialise.name != "none":
            raise ValueError(f"from_scratch would throw away what initialise {self.initialise.name} made")
        if self.from_scratch and isinstance(self.reuse, LabelledReuse) and self.reuse.head == "pretraining":
            raise ValueError("from_scratch does not go with reuse.head pretraining, whose features it lacks")
        if self.from_scratch and isinstance(self.objective, CoTuning):
            raise ValueError(
                "from_scratch does not go with objective co_tuning, which trains pre-training's head"
            )
        if self.from_scratch and isinstance(self.objective, L2Sp | Delta):
            raise ValueError(
                f"from_scratch does not go with objective {self.objective.name}, which stays near the start"
            )
        return self

    @model_validator(mode="after")
    def _trains_what_counts(self) -> "Recipe":
        if self.trainable == "head" and self.from_scratch:
            raise ValueError("trainable head does not go with from_scratch: the backbone would stay random")
        if isinstance(self.objective, Rifle) and isinstance(self.initialise, LinearProbe):
            raise ValueError(
                "objective rifle does not go with initialise linear_probe, whose head it would lose"
            )
        return self

    @model_validator(mode="after")
    def _every_gpu_has_images(self) -> "Recipe":
        if self.batch_size < self.gpu:
            raise ValueError(f"batch_size {self.batch_size} leaves some of gpu {self.gpu} without an image")
        return self

    def _first_epochs(self, epochs: int) -> int:
        """How many epochs of so many the first stage takes."""
        return round(self._share() * epochs)

    def _share(self) -> float:
        """The first stage's share of the budget."""
        return float(getattr(self.initialise, "share", 0))

    @model_validator(mode="after")
    def _both_stages_train(self) -> "Recipe":
        epochs = self.budget.epochs
        if isinstance(self.initialise, Stage) and epochs is not None:
            first = self._first_epochs(epochs)
            if not 0 < first < epochs:
                raise ValueError(
                    f"initialise.share {self._share()} of {epochs} epochs leaves a stage without any"
                )
        return self

    @model_validator(mode="after")
    def _keeps_epochs_that_come(self) -> "Recipe":
        epochs = self.budget.epochs
        if epochs is None:
            return self
        first = self._first_epochs(epochs)
        for epoch in self.keep_epochs:
            if epoch > epochs:
                raise ValueError(f"keep_epochs {epoch} is after the {epochs} epochs of the budget")
            if epoch <= first:
                raise ValueError(
                    f"keep_epochs {epoch} lies in the stage before, which takes {first} of {epochs} epochs"
                )
        return self

    @model_validator(mode="after")
    def _rungs_differ(self) -> "Recipe":
        if self.search is None or self.search.halving is None:
            return self
        if isinstance(self.initialise, Stage):
            raise ValueError(
                f"search.halving does not go with initialise {self.initialise.name}, which takes the first "
                "part of the budget: a trial that stops early would have trained that alone"
            )
        if self.budget.epochs is None:
            raise ValueError("search.halving stops between epochs; give the budget in epochs")
        epochs = [epochs_until(rung.share, self.budget.epochs) for rung in self.search.rungs()]
        if len(set(epochs)) < len(epochs):
            trained = ", ".join(map(str, epochs))
            raise ValueError(
                f"search.halving: its rungs would end after {trained} of {self.budget.epochs} epochs, some "
                "at the same; start with a larger share (first)"
            )
        return self

    @model_validator(mode="after")
    def _search_fits(self) -> "Recipe":
        if self.fit_on == "train+validation" and self.checkpoint == "best":
            raise ValueError("checkpoint best needs a validation part, and fit_on trains on it")
        return self

    @model_validator(mode="after")
    def _decided_settings_fit(self) -> "Recipe":
        """What is decided for single runs: settings that exist, their values, and one decider each."""
        grid = self.search.grid if self.search else {}
        decided = {f"search.grid.{key}": (key, values) for key, values in grid.items()}
        for index, tuned in enumerate(self.tuned):
            for key, value in tuned.values.items():
                decided[f"tuned[{index}].values.{key}"] = key, [value]
        plain = self.model_dump(mode="json", exclude={"search", "take", "tuned"})
        for where, (key, values) in decided.items():
            for value in values:
                self._try(plain, where, key, value)
        self._require_one_decider(grid)
        return self

    def _require_one_decider(self, grid: Collection[str]) -> None:
        taken = set(self.take.keys) if self.take else set()
        tuned = {key for some in self.tuned for key in some.values}
        for first, second, message in (
            (taken, grid, "searched here, and taken from another recipe"),
            (tuned, grid, "searched here, and set by tuned"),
            (tuned, taken, "taken from another recipe, and set by tuned"),
        ):
            both = sorted(first.intersection(second))
            if both:
                raise ValueError(f"{', '.join(both)}: {message}")

    def _try(self, plain: dict[str, Any], where: str, key: str, value: Any) -> None:
        """Whether one value is one that this recipe's setting may have."""
        if not _may_differ(key):
            raise ValueError(f"{where}: decides which jobs there are; make a recipe of each")
        try:
            Recipe.model_validate(with_values(plain, {key: value}))
        except KeyError:
            keys = [path for path in _paths(plain) if _may_differ(path)]
            raise ValueError(f"{where}: this recipe has no such setting{did_you_mean(key, keys)}") from None
        except ValidationError as error:
            raise ValueError(f"{where}: found {value!r}; {error.errors()[0]['msg']}") from None


def _may_differ(path: str) -> bool:
    """Whether the setting at a key path may be searched or tuned: it decides nothing but a run's result."""
    return not {path, path.split(".")[0]}.intersection(UNSEARCHED) and not path.endswith(".name")


def epochs_until(share: float, epochs: int) -> int:
    """Whole epochs of training up to a share of the budget, as the engine rounds them."""
    return math.ceil(round(share * epochs, 9))


def _paths(settings: dict[str, Any], above: str = "") -> list[str]:
    """Key paths of all settings that are no sections."""
    paths = []
    for key, value in settings.items():
        paths += _paths(value, f"{above}{key}.") if isinstance(value, dict) else [f"{above}{key}"]
    return paths
