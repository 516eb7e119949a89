"""Where images come from."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.base import Count, Fraction, Positive, Ratio, Seed, Settings, Share
from pipeline.datasets.sets import NAMES, load_set

# Stands for the backbone's name in the path of class means.
PLACEHOLDER = "{backbone}"


class SplitRule(Settings):
    """How to cut the parts that the data does not bring: seeded, stratified by class.

    A part that the data brings is never touched; a missing one is taken from its training images.
    """

    validation: Fraction = Field(0.1, description="Share of each class for validation.")
    test: Fraction = Field(0.2, description="Share of each class for testing.")
    seed: Seed = Field(0, description="Seed of the cut.")

    @model_validator(mode="after")
    def _some_left(self) -> "SplitRule":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        return self


ClassCount = Annotated[
    Count | None, Field(description="Expected number of classes; data with another number is refused.")
]
Rounding = Literal["floor", "ceiling", "nearest"]


class Subset(Settings):
    """What every subset has."""

    draw: Seed = Field(0, description="Which draw: another number keeps other images.")


class NumberPerClass(Subset):
    """So many training images of each class (few-shot); validation stays whole."""

    by: Literal["number"]
    per_class: Count = Field(description="Training images of each class.")


class ShareOfClasses(Subset):
    """The same share of each class, of train and validation (UOT paper, section 4.3 and Figure 3a)."""

    by: Literal["share"]
    share: Share = Field(description="Share of each class; 0.2, 0.4, 0.6 and 0.8 in the paper.")
    rounding: Rounding = Field(
        "floor", description="To whole images, one at least; `nearest` takes the even one of two halves."
    )


class LongTail(Subset):
    """Classes of falling size, of train and validation (UOT paper, section 4.3 and Table 3).

    The paper's definition contradicts itself ("a Pareto distribution [42] as in [43]", and [43] is
    exponential), so the profile is a setting.
    """

    by: Literal["long_tail"]
    profile: Literal["exponential", "pareto", "pareto_draw"] = Field(
        "exponential",
        description="How sizes fall: as in the paper's [43]; by quantiles of a Pareto distribution bounded "
        "to the ratio; or by draws from that, stretched to the ratio.",
    )
    ratio: Ratio = Field(10.0, description="Largest class to smallest before rounding; 10 in the paper.")
    shape: Positive = Field(1.0, description="Exponent of the Pareto distribution; the paper gives none.")
    largest: Count | None = Field(
        None, description="Images of the largest class; by default the most that any class has."
    )
    rounding: Rounding = Field("floor", description="To whole images, one at least; `floor` as in [43].")


AnySubset = Annotated[NumberPerClass | ShareOfClasses | LongTail, Field(discriminator="by")]


class Dataset(Settings):
    """What every dataset of images has."""

    classes: ClassCount = None
    metric: Literal["top1", "mean_per_class"] = Field(
        "top1", description="The accuracy that papers report for this set."
    )
    split: SplitRule | None = Field(
        None, description="How to cut the parts that are missing; none by default."
    )
    subset: AnySubset | None = Field(
        None, description="Train on less: which images stay; all by default. Those for testing always do."
    )
    shards: Count = Field(1, description="Parts in which features are extracted; changes no result.")
    concepts: str | None = Field(
        None,
        description="CSV file with columns `class_name` and `concept`, for `label` selections and recall.",
    )


class ImageFolder(Dataset):
    """A folder of class folders, or of ``train``, ``validation`` (or ``val``) and ``test`` with these."""

    format: Literal["image_folder"]
    path: str = Field(description="The folder.")


class ParquetImages(Dataset):
    """A Parquet file, or a folder of Parquet files, with Hugging Face image columns."""

    format: Literal["parquet"]
    path: str = Field(description="The file, or a folder of `*.parquet` files.")
    image: str = Field("image", description="Column of images: `struct<bytes, path>` or binary.")
    label: str | None = Field(
        "label", description="Column of labels (integers or names); null if unlabelled."
    )
    class_name: str | None = Field(
        "class_name", description="Column of class names, used where the file has it."
    )
    split_column: str = Field("split", description="Column that names the part, used where the file has it.")
    where: dict[str, list[str]] = Field(
        default_factory=dict, description="Keep only rows whose column holds one of these values."
    )


class CsvImages(Dataset):
    """A CSV file of image paths and labels."""

    format: Literal["csv"]
    path: str = Field(description="The CSV file, with a header.")
    root: str | None = Field(None, description="Folder that paths are relative to; the CSV's own by default.")
    image: str = Field("path", description="Column of image paths.")
    label: str | None = Field(
        "label", description="Column of labels (names or integers); null if unlabelled."
    )
    split_column: str = Field("split", description="Column that names the part, used where the file has it.")


class Published(Dataset):
    """A published set, read from its official archive with its official parts.

    `metric` and `classes` are those of the set unless given, and `test` in `split` is 0.
    """

    format: Literal["published"]
    name: Literal[
        "aircraft",
        "caltech101",
        "cars",
        "cub200",
        "dogs",
        "dtd",
        "flowers_kaggle",
        "imagenet",
        "imagenet20",
        "pets",
        "sun397",
    ] = Field(description="Which set.")
    path: str = Field("data/published", description="Folder that holds the set's own, as archives have it.")
    counts: Literal["official", "uot", "core_tuning"] = Field(
        "official", description="Whose counts to hold the set to: its archive's, or a paper's."
    )
    split: SplitRule = Field(
        SplitRule(validation=0.1, test=0.0),
        description="How to cut a missing validation part: by default a seeded tenth of each class. The "
        "seed also draws the 30 training images per class of `caltech101`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _known_of_the_set(cls, data: Any) -> Any:
        """Fill in what the set's entry says; a wrong name or counter is reported by its own key."""
        if not isinstance(data, dict) or data.get("name") not in NAMES:
            return data
        entry = load_set(data["name"])
        counted = entry.counts.get(str(data.get("counts", "official")), {})
        filled = {"metric": entry.metric, "classes": counted.get("classes"), **data}
        if isinstance(data.get("split"), dict):
            filled["split"] = {"test": 0.0, **data["split"]}
        return filled

    @model_validator(mode="after")
    def _counted(self) -> "Published":
        known = load_set(self.name).counts
        if self.counts not in known:
            raise ValueError(
                f"counts: {self.counts!r} gives none of {self.name}; those there are: {', '.join(known)}"
            )
        return self


class TorchvisionSet(Dataset):
    """A classification set of torchvision, with its official split."""

    format: Literal["torchvision"]
    name: Literal[
        "CIFAR10",
        "CIFAR100",
        "Caltech101",
        "Caltech256",
        "Country211",
        "DTD",
        "EuroSAT",
        "FGVCAircraft",
        "FashionMNIST",
        "Flowers102",
        "Food101",
        "GTSRB",
        "Imagenette",
        "KMNIST",
        "MNIST",
        "OxfordIIITPet",
        "STL10",
        "SUN397",
        "SVHN",
        "StanfordCars",
        "USPS",
    ] = Field(description="Class name in `torchvision.datasets`.")
    root: str = Field("data/torchvision", description="Where torchvision keeps its files.")
    download: bool = Field(True, description="Download where torchvision can.")


class ClassMeans(Settings):
    """Mean features of classes, without images, for selection alone.

    The file is Parquet, a row per class: `class_index`, `images` (how many were averaged) and `mean`;
    `name` and `concept` where they are known.
    """

    format: Literal["class_means"]
    path: str = Field(description="The file; `{backbone}` stands for the name of the backbone.")
    classes: ClassCount = None

    @field_validator("path")
    @classmethod
    def _one_placeholder(cls, path: str) -> str:
        others = [part for part in re.findall(r"{[^}]*}", path) if part != PLACEHOLDER]
        if others:
            raise ValueError(f"found {others[0]}; only {PLACEHOLDER} stands for something")
        return path

    def file(self, backbone: str) -> str:
        """The means that a backbone made."""
        return self.path.replace(PLACEHOLDER, backbone)


AnyDataset = Annotated[
    ImageFolder | ParquetImages | CsvImages | Published | TorchvisionSet | ClassMeans,
    Field(discriminator="format"),
]


def is_labelled(dataset: AnyDataset) -> bool:
    """Whether the dataset says that it has labels."""
    return getattr(dataset, "label", "") is not None
