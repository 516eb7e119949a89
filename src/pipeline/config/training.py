"""What training needs, before and during fine-tuning: budget, optimiser, schedule, augmentation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Count, Fraction, Integer, Number, Positive, Settings, Share


class Budget(Settings):
    """How long to train: in epochs or in iterations (optimiser steps), one of them."""

    epochs: Count | None = Field(None, description="Passes over the training images.")
    iterations: Count | None = Field(None, description="Optimiser steps.")

    @model_validator(mode="after")
    def _one_of_them(self) -> "Budget":
        self._require_one("epochs", "iterations")
        return self


HeadRatio = Annotated[Positive, Field(description="Learning rate of heads over that of the backbone.")]
GroupRatios = Annotated[
    dict[str, Positive],
    Field(description="Further ratios to `learning_rate`, by prefix of parameter name in the backbone."),
]
LayerDecay = Annotated[
    Share,
    Field(
        description="Layer-wise decay: the rate falls by this factor from each block of the backbone to "
        "the one below; 1 is without. 0.75 in MAE (He et al. 2022, Table 9), 0.65 in its code for ViT-B."
    ),
]


class Sgd(Settings):
    """Stochastic gradient descent with Nesterov momentum (UOT paper, section 4.1)."""

    name: Literal["sgd"]
    learning_rate: Positive = Field(0.01, description="Learning rate of the backbone.")
    momentum: Fraction = Field(0.9, description="Momentum.")
    nesterov: bool = Field(True, description="Nesterov momentum.")
    weight_decay: Number = Field(1e-4, ge=0, description="L2 penalty on all weights.")
    head_ratio: HeadRatio = 1.0
    groups: GroupRatios = Field(default_factory=dict)
    layer_decay: LayerDecay = 1.0


class Adam(Settings):
    """Adam with decoupled weight decay."""

    name: Literal["adam"]
    learning_rate: Positive = Field(1e-3, description="Learning rate of the backbone.")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="Decay of the two moments.")
    weight_decay: Number = Field(0.0, ge=0, description="Decoupled weight decay.")
    head_ratio: HeadRatio = 1.0
    groups: GroupRatios = Field(default_factory=dict)
    layer_decay: LayerDecay = 1.0


class Schedule(Settings):
    """What every schedule has: the learning rate is a factor on each group's own rate."""

    warmup: Number = Field(0.0, ge=0, description="Epochs of linear warm-up from zero.")


class StepSchedule(Schedule):
    """Multiply by `factor` at each milestone; 60 and 80 of 100 epochs in the UOT paper, section 4.1."""

    name: Literal["step"]
    milestones: list[Fraction] = Field([0.6, 0.8], description="Shares of the whole budget.")
    factor: Positive = Field(0.1, description="Factor at each milestone.")


class CosineSchedule(Schedule):
    """Half a cosine from 1 to `final`."""

    name: Literal["cosine"]
    final: Number = Field(0.0, ge=0, le=1, description="Factor at the end.")


class PolySchedule(Schedule):
    """``(1 - progress) ** power``, as segmentation uses it."""

    name: Literal["poly"]
    power: Positive = Field(0.9, description="Exponent.")


class ExponentialSchedule(Schedule):
    """Multiply by `gamma` each epoch."""

    name: Literal["exponential"]
    gamma: Share = Field(0.95, description="Factor per epoch.")


AnyOptimiser = Annotated[Sgd | Adam, Field(discriminator="name")]
AnySchedule = Annotated[
    StepSchedule | CosineSchedule | PolySchedule | ExponentialSchedule, Field(discriminator="name")
]


class Augmentation(Settings):
    """Random changes of a training image, drawn from (seed, epoch, sample)."""

    resized_crop: tuple[Share, Share] | None = Field(
        None, description="Share of the area that a random resized crop keeps, from and to."
    )
    padding: Integer = Field(0, ge=0, description="Pixels of padding before a random crop.")
    fill: Integer = Field(0, ge=0, le=255, description="Grey level of the padding.")
    flip: bool = Field(True, description="Mirror half of the images.")
    colour_jitter: Number = Field(
        0.0, ge=0, le=1, description="Strength of brightness, contrast and saturation jitter."
    )
    grey: Fraction = Field(0.0, description="Share of images turned grey.")
    blur: Fraction = Field(0.0, description="Share of images blurred.")

    @model_validator(mode="after")
    def _from_small_to_large(self) -> "Augmentation":
        if self.resized_crop and self.resized_crop[0] > self.resized_crop[1]:
            smallest, largest = self.resized_crop
            raise ValueError(f"resized_crop goes from {smallest} to {largest}; write the smaller first")
        return self


class Training(Settings):
    """The part of pre-training and recipes that the engine reads."""

    budget: Budget = Field(description="How long to train.")
    batch_size: Count = Field(256, description="Images in a batch (of the target, where data is reused).")
    accumulate: Count = Field(
        1,
        description="Batches whose gradients are added before a step. What compares the images of a batch, "
        "such as a contrastive loss, sees those of one of them.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Arithmetic of the forward pass."
    )
    compile: bool = Field(
        False,
        description="Compile the backbone's forward pass and its gradient (torch.compile): faster after a "
        "minute or more; needs a C++ compiler, on GPUs Triton. Results are others within rounding.",
    )
    threads: Count = Field(1, description="CPU threads of the arithmetic; another number gives other bits.")
    gpu: Count = Field(
        1, description="GPUs of one machine that train together, each on its part of every batch."
    )
    optimiser: AnyOptimiser = Field(Sgd(name="sgd"), description="The optimiser.")
    schedule: AnySchedule = Field(CosineSchedule(name="cosine"), description="The learning rate over time.")
    augmentation: Augmentation = Field(Augmentation(), description="Random changes of training images.")
    evaluate_every: Count = Field(10, description="Epochs between evaluations on the validation part.")
