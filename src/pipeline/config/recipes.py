"""How to fine-tune: initialisation stage, objective, reuse and training."""

import math
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.config.base import Count, Fraction, Integer, Number, Positive, Seed, Settings, Share
from pipeline.config.search import Search, Taken, Tuned
from pipeline.config.training import Training
from pipeline.errors import did_you_mean
from pipeline.nested import with_values

# Sections whose value decides which jobs there are.
UNSEARCHED = ("initialise", "from_scratch")


class NoInitialisation(Settings):
    """Start from the pre-trained weights."""

    name: Literal["none"]


class Coin(Settings):
    """A stage of supervised contrastive loss before fine-tuning (COIN, section 3.2 and Eq. 1).

    It takes its share of the recipe's budget; the schedule runs on over the joint budget.
    """

    name: Literal["coin"]
    share: Number = Field(
        0.7, gt=0, lt=1, description="Share of the budget for this stage (alpha, section 4.2)."
    )
    temperature: Positive = Field(0.3, description="Temperature (section 4.2).")
    projection: Count = Field(128, description="Width of the projector's output.")
    hidden: Count | None = Field(None, description="Width of its hidden layer; the feature's by default.")


AnyInitialisation = Annotated[NoInitialisation | Coin, Field(discriminator="name")]


class CrossEntropy(Settings):
    """Plain fine-tuning."""

    name: Literal["cross_entropy"]
    label_smoothing: Fraction = Field(0.0, description="Label smoothing.")


class CoTuning(Settings):
    """Co-Tuning (You et al. 2020): pre-training's head is trained too, on soft labels of the source.

    For a backbone with a head of pre-training. In the released code new heads train ten times as
    fast as what comes pre-trained: set `optimiser.head_ratio` to 10.
    """

    name: Literal["co_tuning"]
    weight: Positive = Field(2.3, description="Weight lambda of the source head's loss (released code).")
    relationship: Literal["calibrated", "direct"] = Field(
        "calibrated",
        description="How source classes follow from target classes: by calibrated regression, which "
        "needs a validation part, or by the mean prediction for each class.",
    )
    logit_scale: Positive = Field(
        1.0,
        description="Calibration of pre-training: its logits are multiplied by this; 0.884 for "
        "torchvision's ResNet-50 in the released code.",
    )
    regularisation: list[Positive] = Field(
        [1e4, 3e3, 1e3, 3e2, 1e2, 3e1, 1e1, 3.0, 1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4],
        min_length=1,
        description="Values of C of the calibrated regression; the first that is best on the "
        "validation part is taken (released code).",
    )


AnyObjective = Annotated[CrossEntropy | CoTuning, Field(discriminator="name")]


class NoReuse(Settings):
    """Fine-tune on the target alone."""

    name: Literal["none"]


class Reuse(Settings):
    """What every kind of reuse has."""

    weight: Positive = Field(1.0, description="Weight lambda of the source loss.")
    batch_size: Count | None = Field(
        None,
        description="Source images in a batch; as many as of the target by default (UOT paper, section 4.1).",
    )
    share: Share = Field(
        1.0,
        description="Share of the images of each selected unit; as much as of the target in the paper's "
        "Figure 3a (appendix A).",
    )
    draw: Seed = Field(0, description="Which draw of that share.")
    batch_norm: Literal["joint", "separate"] = Field(
        "joint",
        description="Target and source pass the network together, so that batch normalisation sees both "
        "(the total batch of UOT paper, section 4.1), or apart, with running statistics of the target alone.",
    )
    leaks: Literal["exclude", "keep"] = Field(
        "exclude", description="Source images that are (nearly) validation or test images of the target."
    )


class LabelledReuse(Reuse):
    """Train on target and selected source images together, with two heads (UOT paper, Eq. 6)."""

    name: Literal["labelled"]
    head: Literal["random", "pretraining"] = Field(
        "random",
        description="Source head: drawn at random (as in the paper), or started from pre-training's.",
    )


class PseudoLabelledReuse(Reuse):
    """Reuse without labels: what the target head says of a weakly changed source image is the soft
    label of the strongly changed one (UOT paper, Eq. 7).

    Weak is the recipe's `augmentation`; strong is the same, then RandAugment (Cubuk et al. 2020),
    whose two settings the paper leaves open: these are torchvision's.
    """

    name: Literal["pseudo_labelled"]
    operations: Count = Field(2, description="Operations of RandAugment, one after the other.")
    magnitude: Integer = Field(9, ge=0, le=30, description="Strength of its operations.")


AnyReuse = Annotated[NoReuse | LabelledReuse | PseudoLabelledReuse, Field(discriminator="name")]


class Recipe(Training):
    """How to fine-tune."""

    initialise: AnyInitialisation = Field(NoInitialisation(name="none"), description="The stage before.")
    objective: AnyObjective = Field(
        CrossEntropy(name="cross_entropy"), description="The objective on the target."
    )
    reuse: AnyReuse = Field(NoReuse(name="none"), description="How selected source images take part.")
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
        return self

    def _first_epochs(self, epochs: int) -> int:
        """How many epochs of so many the first stage takes."""
        return round(self.initialise.share * epochs) if isinstance(self.initialise, Coin) else 0

    @model_validator(mode="after")
    def _both_stages_train(self) -> "Recipe":
        epochs = self.budget.epochs
        if isinstance(self.initialise, Coin) and epochs is not None:
            first = self._first_epochs(epochs)
            if not 0 < first < epochs:
                raise ValueError(
                    f"initialise.share {self.initialise.share} of {epochs} epochs leaves a stage without any"
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
        if self.fit_on == "train+validation":
            if self.checkpoint == "best":
                raise ValueError("checkpoint best needs a validation part, and fit_on trains on it")
            if self.initialise.name != "none":
                raise ValueError(f"initialise {self.initialise.name} trains on train alone; so must fit_on")
        return self

    @model_validator(mode="after")
    def _decided_settings_fit(self) -> "Recipe":
        """What is decided for single runs: settings that exist, their values, and one decider each."""
        grid = self.search.grid if self.search else {}
        decided = {f"search.grid.{key}": (key, values) for key, values in grid.items()}
        for index, tuned in enumerate(self.tuned):
            for key, value in tuned.values.items():
                decided[f"tuned[{index}].values.{key}"] = key, [value]
        if self.initialise.name != "none" and (decided or self.take):
            raise ValueError(
                f"search, take and tuned do not go with initialise {self.initialise.name}: that stage would "
                "need each run's settings; set what was found in a recipe of its own"
            )
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
    return path.split(".")[0] not in UNSEARCHED and not path.endswith(".name")


def epochs_until(share: float, epochs: int) -> int:
    """Whole epochs of training up to a share of the budget, as the engine rounds them."""
    return math.ceil(round(share * epochs, 9))


def _paths(settings: dict[str, Any], above: str = "") -> list[str]:
    """Key paths of all settings that are no sections."""
    paths = []
    for key, value in settings.items():
        paths += _paths(value, f"{above}{key}.") if isinstance(value, dict) else [f"{above}{key}"]
    return paths
