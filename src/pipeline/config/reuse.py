"""How selected source images take part in fine-tuning: one class for each module of `pipeline.reuse`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Count, Integer, Positive, Seed, Settings, Share


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
