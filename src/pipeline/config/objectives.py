"""What fine-tuning minimises on the target: one class for each module of `pipeline.objectives`."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Count, Fraction, Integer, Number, Positive, Settings


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


HeadPenalty = Annotated[
    Number, Field(ge=0, description="Weight beta of half the squared norm of the head (released code).")
]


class L2Sp(Settings):
    """L2-SP (Li et al. 2018): a penalty on how far the weights move from where fine-tuning starts.

    It takes the place of weight decay: set `optimiser.weight_decay` to 0.
    """

    name: Literal["l2_sp"]
    alpha: Positive = Field(
        0.01,
        description="Weight alpha of half the squared distance to the start (Transfer Learning Library; "
        "the authors search it, and their script for Stanford Dogs has 0.1).",
    )
    beta: HeadPenalty = 0.01


class Delta(Settings):
    """DELTA (Li et al. 2019): a penalty on how far the maps of some layers move from those of the start.

    In the released code weight decay is off: set `optimiser.weight_decay` to 0.
    """

    name: Literal["delta"]
    alpha: Positive = Field(0.01, description="Weight alpha of the penalty on the maps (released code).")
    beta: HeadPenalty = 0.01
    layers: list[str] | None = Field(
        None,
        min_length=1,
        description="Paths of modules in the network that give maps (n, c, h, w) or tokens (n, t, c). By "
        "default a ResNet's last convolution in each stage (released code), or a vision transformer's last "
        "block in each quarter.",
    )
    normalise: Literal["sum", "mean"] = Field(
        "sum",
        description="The penalty is summed over the images of a batch, so that it grows with `batch_size` "
        "(the released code, with 64), or their mean.",
    )
    attention: bool = Field(
        True,
        description="Weigh channels by how much the loss grows without them (section 3.3), or all alike.",
    )
    attention_images: Count = Field(
        320,
        description="Training images that the growth is measured on, with a pass for each channel "
        "(Transfer Learning Library: 10 batches of 32).",
    )
    fitting_images: Count = Field(
        10_000,
        description="Training images that the classifier of that loss is fitted on, spread over all.",
    )


class Bss(Settings):
    """Batch spectral shrinkage (Chen et al. 2019): the smallest singular values of a batch's features."""

    name: Literal["bss"]
    weight: Positive = Field(1e-3, description="Weight eta (the paper's experiments).")
    singular_values: Count = Field(1, description="How many of the smallest are penalised, k (the same).")


class MixAndMatch(Settings):
    """Mix-and-Match (Zhan et al. 2018), as the Core-tuning paper compares with it: a triplet loss beside.

    How it was carried over from segmentation is printed nowhere: these two are a common choice.
    """

    name: Literal["mix_and_match"]
    weight: Positive = Field(1.0, description="Weight of the triplet loss.")
    margin: Positive = Field(0.3, description="Its margin, between features of unit length.")


class SupervisedContrastiveLearning(Settings):
    """SCL (Gunel et al. 2021): cross-entropy and a supervised contrastive loss; defaults are COIN's.

    Core-tuning's values are `temperature` 0.07, `projection` 256 and a `weight` searched over 0.1, 1, 10.
    """

    name: Literal["scl"]
    weight: Positive = Field(0.1, description="Weight lambda of the contrastive loss (COIN, section 3.2).")
    temperature: Positive = Field(0.3, description="Temperature (COIN, section 4.2).")
    projection: Count = Field(256, description="Width of the projector's output, as in COIN's stage.")
    hidden: Count | None = Field(None, description="Width of its hidden layer; the feature's by default.")


class CoreTuning(Settings):
    """Core-tuning: focal contrast with hard pairs mixed from features, and a smoother classifier.

    Rows of its Table 2: `contrast` none, plain, none, plain, focal with `mixup` none, none, manifold, hard,
    hard.
    """

    name: Literal["core_tuning"]
    weight: Positive = Field(
        1.0, description="Weight eta of the contrastive loss; searched over 0.1, 1, 10 (section 5.1)."
    )
    alpha: Positive = Field(
        1.0,
        description="Parameter of Beta(alpha, alpha), which lambda is drawn from; searched over 0.1, 1, 10 "
        "(section 5.1).",
    )
    positive_threshold: Number = Field(
        0.8, ge=0, le=1, description="Least lambda of hard positives (section 4.2)."
    )
    negative_threshold: Number = Field(
        0.8, ge=0, le=1, description="Least lambda of hard negatives (section 4.2)."
    )
    temperature: Positive = Field(0.07, description="Temperature (section 5.1).")
    projection: Count = Field(256, description="Width of the projector's output (supplement C.2).")
    depth: Count = Field(2, description="Linear layers of the projector (section 4.3).")
    hidden: Count | None = Field(None, description="Width of its hidden layers; the feature's by default.")
    contrast: Literal["focal", "plain", "none"] = Field(
        "focal",
        description="Contrastive loss: weighted by 1 - p (section 4.3), unweighted, or none (Table 2).",
    )
    mixup: Literal["hard", "manifold", "none"] = Field(
        "hard", description="Mixing of features: hard pairs (section 4.2), manifold mixup, or none (Table 2)."
    )
    pairs: Literal[
        "per_anchor",
        "per_anchor_as_printed",
        "pooled",
        "pooled_positive_anchors",
        "pooled_soft_labels",
        "pooled_hard_labels",
    ] = Field(
        "per_anchor",
        description="Whom mixed features are contrasted with, which the paper leaves open (docs/methods.md).",
    )
    focal_gradient: Literal["flow", "detach"] = Field(
        "flow",
        description="Whether the gradient passes the focal weight, which the paper leaves open; it does in "
        "the released code.",
    )


class BiTuning(Settings):
    """Bi-tuning (Zhong et al. 2021): classifier and projections contrasted with queues of older keys.

    Defaults are those of its authors' Transfer Learning Library (TLL).
    """

    name: Literal["bi_tuning"]
    weight: Positive = Field(1.0, description="Weight of the two contrastive losses (TLL).")
    temperature: Positive = Field(0.07, description="Temperature (TLL).")
    queue: Count = Field(40, description="Keys K that are kept of each class (TLL).")
    momentum: Fraction = Field(0.999, description="How much of the key encoder stays at each step (TLL).")
    projection: Count = Field(128, description="Width of the projection (TLL).")


AnyObjective = Annotated[
    CrossEntropy
    | CoTuning
    | Rifle
    | L2Sp
    | Delta
    | Bss
    | MixAndMatch
    | SupervisedContrastiveLearning
    | CoreTuning
    | BiTuning,
    Field(discriminator="name"),
]
