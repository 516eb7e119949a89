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

    stored: Literal["resized", "original"] = Field(
        "resized",
        description="What random resized crops of training are cut from: squares of `resize` pixels, which "
        "are stored anyway, or the images at their own sizes, as papers do, which takes far more disk.",
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


class TimmModel(Settings):
    """A model of timm, an optional dependency, by its name."""

    name: Literal["timm"]
    model: str = Field(description="Its name, such as `convnext_tiny`.")


class ResNet(Settings):
    """A ResNet or ResNeXt with torchvision's names of its parts."""

    name: Literal["resnet"]
    depth: Literal[18, 34, 50, 101, 152] = Field(50, description="Layers with weights.")
    groups: Count = Field(1, description="Groups of the 3x3 convolutions; 32 in ResNeXt 32x8d.")
    width_per_group: Count = Field(
        64, description="Channels of a group in the first stage; 8 in ResNeXt 32x8d."
    )
    max_pool: Literal["symmetric", "same"] = Field(
        "symmetric",
        description="Padding of the stem's pooling: as PyTorch's networks have it, or `same` as those of "
        "TensorFlow, such as SimCLR-v2's.",
    )

    @model_validator(mode="after")
    def _basic_blocks_are_plain(self) -> "ResNet":
        if self.depth < 50 and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError(
                f"depth {self.depth} takes groups 1 and width_per_group 64, since its blocks are basic; "
                f"found {self.groups} and {self.width_per_group}"
            )
        return self


class VisionTransformer(Settings):
    """A vision transformer with torchvision's names of its parts; ViT-B/16 by default."""

    name: Literal["vit"]
    image_size: Count = Field(224, description="Side of the input in pixels, the `crop` of preprocessing.")
    patch_size: Count = Field(16, description="Side of a patch in pixels; divides `image_size`.")
    width: Count = Field(768, description="Width of tokens and features.")
    depth: Count = Field(12, description="Blocks.")
    heads: Count = Field(12, description="Heads of attention in a block; divides `width`.")
    mlp_width: Count = Field(3072, description="Width of the hidden layer of a block's MLP.")
    pooling: Literal["class_token", "mean"] = Field(
        "class_token",
        description="The feature: the class token, or the mean of the patches with a norm of its own, as "
        "MAE fine-tunes (He et al. 2022).",
    )

    @model_validator(mode="after")
    def _divisible(self) -> "VisionTransformer":
        for whole, part in (("image_size", "patch_size"), ("width", "heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole} {getattr(self, whole)} is no multiple of {part} {getattr(self, part)}"
                )
        return self


AnyArchitecture = Annotated[
    SmallResNet | ResNet | VisionTransformer | TorchvisionModel | TimmModel, Field(discriminator="name")
]


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
    format: Literal["plain", "mae", "pycontrast", "simclr_v2"] = Field(
        "plain",
        description="How the file names its tensors: as the network does, or as MAE, PyContrast (InsDis, "
        "PIRL, MoCo-v2, InfoMin) or the converter of SimCLR-v2 to PyTorch do.",
    )
    prefix: str = Field("", description="Prefix of the backbone's keys in a `plain` checkpoint, removed.")
    projection: Projection | None = Field(
        None, description="Projection head in a `plain` checkpoint, where it has one."
    )

    @model_validator(mode="after")
    def _one_place(self) -> "Checkpoint":
        self._require_one("path", "url")
        return self

    @model_validator(mode="after")
    def _own_names(self) -> "Checkpoint":
        if self.format != "plain" and (self.prefix or self.projection):
            raise ValueError(f"format {self.format} takes neither prefix nor projection, which are of plain")
        return self


class Elsewhere(Settings):
    """A backbone that is not at hand, only class means that it made (datasets of format `class_means`)."""

    origin: Literal["elsewhere"]


AnyBackbone = Annotated[
    PretrainedHere | KeptEpoch | TorchvisionWeights | Checkpoint | Elsewhere, Field(discriminator="origin")
]
