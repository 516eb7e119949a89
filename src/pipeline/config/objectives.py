"""What fine-tuning minimises on the target: one class for each module of `pipeline.objectives`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Fraction, Integer, Positive, Settings


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


class Rifle(Settings):
    """RIFLE (Li et al. 2020): the head is drawn anew at regular intervals.

    The seeds do not say when. Here the budget falls into `cycles` equal parts, each with a whole schedule
    of the learning rate (a cyclic rate); every part but the first begins with a new head.
    """

    name: Literal["rifle"]
    cycles: Integer = Field(3, ge=2, description="Parts of the budget.")


AnyObjective = Annotated[CrossEntropy | CoTuning | Rifle, Field(discriminator="name")]
