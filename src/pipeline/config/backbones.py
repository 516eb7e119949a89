"""Encoders: architecture, where the weights come from, preprocessing, feature layer."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from pipeline.config.base import Count, Fraction, Name, Number, Positive, Seed, Settings
from pipeline.config.training import Training

SHA256_PATTERN = "^[0-9a-f]{64}$"
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]


class Preprocessing(Settings):
    """From an image of any size to what the network takes."""

    resize: Count = Field(
        description="The shorter side becomes so many pixels, then the square centre is kept."
    )
    crop: Count = Field(description="Side of the centre crop that the network sees; at most `resize`.")
    mean: tuple[Number, Number, Number] = Field(
        (0.485, 0.456, 0.406), description="Mean of each channel, in 0..1."
    )
    std: tuple[Positive, Positive, Positive] = Field(
        (0.229, 0.224, 0.225), description="Standard deviation of each channel, in 0..1."
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> "Preprocessing":
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        return self


class SmallResNet(Settings):
    """A ResNet of basic blocks for small images."""

    name: Literal["small_resnet"]
    widths: list[Count] = Field([16, 32, 64], min_length=1, description="Channels of each stage.")
    blocks: Count = Field(1, description="Basic blocks in each stage.")
    stem_stride: Literal[1, 2] = Field(2, description="Stride of the first convolution.")


class TorchvisionModel(Settings):
    """A model of torchvision by its function's name."""

    name: Literal["torchvision"]
    model: str = Field(description="Name of its function, such as `resnet18`.")


AnyArchitecture = Annotated[SmallResNet | TorchvisionModel, Field(discriminator="name")]


class Projection(Settings):
    """A projection head that belongs to the backbone, as MoCo-v2's does."""

    hidden: Count | None = Field(None, description="Width of the hidden layer; the feature's by default.")
    dimensions: Count = Field(128, description="Width of the output.")


class Supervised(Training):
    """Pre-training by cross-entropy on the source's labels."""

    name: Literal["supervised"]


class MoCoV2(Training):
    """Momentum contrast with an MLP head (Chen et al. 2020), as the UOT paper's second backbone."""

    name: Literal["moco_v2"]
    projection: Projection = Field(Projection(), description="The MLP head.")
    queue: Count = Field(4096, description="Negatives kept from earlier batches.")
    momentum: Fraction = Field(0.999, description="Momentum of the key encoder.")
    temperature: Positive = Field(0.2, description="Temperature of the softmax.")

    @model_validator(mode="after")
    def _whole_batches(self) -> "MoCoV2":
        if self.queue % self.batch_size:
            raise ValueError(f"queue {self.queue} is no multiple of batch_size {self.batch_size}")
        return self


AnyMethod = Annotated[Supervised | MoCoV2, Field(discriminator="name")]


class Backbone(Settings):
    """What every backbone has."""

    feature_layer: str = Field(
        "penultimate",
        description="Where features are read: penultimate, projection, or a module's path.",
    )


class PretrainedHere(Backbone):
    """Pre-trained by this pipeline."""

    origin: Literal["pretraining"]
    dataset: Name = Field(description="The source, a name in `datasets`.")
    architecture: AnyArchitecture = Field(description="The network.")
    preprocessing: Preprocessing = Field(description="From image to input.")
    method: AnyMethod = Field(description="How to pre-train.")
    keep_epochs: list[Count] = Field(
        default_factory=list, description="Epochs after which a checkpoint is kept."
    )
    seed: Seed = Field(0, description="Seed of weights, order and augmentation.")

    @model_validator(mode="after")
    def _keeps_epochs_that_come(self) -> "PretrainedHere":
        epochs = self.method.budget.epochs
        late = [epoch for epoch in self.keep_epochs if epochs is not None and epoch > epochs]
        if late:
            raise ValueError(f"keep_epochs {late[0]} is after the {epochs} epochs of the budget")
        return self


class KeptEpoch(Backbone):
    """A checkpoint that another backbone's pre-training kept."""

    origin: Literal["kept_epoch"]
    of: Name = Field(description="The backbone that was pre-trained here.")
    epoch: Count = Field(description="One of its `keep_epochs`.")


class TorchvisionWeights(Backbone):
    """Weights that torchvision publishes."""

    origin: Literal["torchvision"]
    weights: str = Field(description="Enum name, such as `ResNet18_Weights.IMAGENET1K_V1`.")
    preprocessing: Preprocessing = Field(
        Preprocessing(resize=256, crop=224), description="From image to input; ImageNet's by default."
    )


class Checkpoint(Backbone):
    """A checkpoint from a file or a URL, checked by SHA-256."""

    origin: Literal["checkpoint"]
    architecture: AnyArchitecture = Field(description="The network.")
    preprocessing: Preprocessing = Field(description="From image to input.")
    path: str | None = Field(None, description="A local file.")
    url: str | None = Field(None, description="Where to download it.")
    sha256: Sha256 = Field(description="Digest of the file.")
    prefix: str = Field("", description="Prefix of the backbone's keys in the checkpoint, removed.")
    projection: Projection | None = Field(
        None, description="Projection head in the checkpoint, where it has one."
    )

    @model_validator(mode="after")
    def _one_place(self) -> "Checkpoint":
        self._require_one("path", "url")
        return self


class Elsewhere(Settings):
    """A backbone that is not at hand, only class means that it made (datasets of format `class_means`)."""

    origin: Literal["elsewhere"]


AnyBackbone = Annotated[
    PretrainedHere | KeptEpoch | TorchvisionWeights | Checkpoint | Elsewhere, Field(discriminator="origin")
]
