"""The stage before fine-tuning: one class for each module of `pipeline.initialisation`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Count, Number, Positive, Settings


class NoInitialisation(Settings):
    """Start from the pre-trained weights."""

    name: Literal["none"]


class Stage(Settings):
    """A stage that takes its share of the recipe's budget; the rest is left for fine-tuning.

    Its projector or head is carried on where the objective has one of the same shape; momentum is not.
    """

    schedule: Literal["joint", "restart"] = Field(
        "joint",
        description="The learning rate runs on over both stages (COIN, section 4.2, has one schedule of all "
        "epochs), or starts anew for each.",
    )


class Coin(Stage):
    """A stage of supervised contrastive loss before fine-tuning (COIN, section 3.2 and Eq. 1)."""

    name: Literal["coin"]
    share: Number = Field(
        0.7, gt=0, lt=1, description="Share of the budget for this stage (alpha, section 4.2)."
    )
    temperature: Positive = Field(0.3, description="Temperature (section 4.2).")
    projection: Count = Field(
        256,
        description="Width of the projector's output; Core-tuning's (supplement C.2), whose settings COIN "
        "takes over (section 4.2).",
    )
    hidden: Count | None = Field(None, description="Width of its hidden layer; the feature's by default.")


class LinearProbe(Stage):
    """The head alone first, then everything (LP-FT; Kumar et al. 2022)."""

    name: Literal["linear_probe"]
    share: Number = Field(0.5, gt=0, lt=1, description="Share of the budget for this stage.")


class NoisyTune(Settings):
    """Noise on every parameter before fine-tuning (NoisyTune; Wu et al. 2022), a rival in COIN's Table 1.

    To each parameter tensor is added uniform noise in plus or minus `noise` / 2 times the standard
    deviation of its values.
    """

    name: Literal["noisy_tune"]
    noise: Positive = Field(0.15, description="Strength lambda of the noise (NoisyTune, section 4.1).")


AnyInitialisation = Annotated[NoInitialisation | Coin | LinearProbe | NoisyTune, Field(discriminator="name")]
