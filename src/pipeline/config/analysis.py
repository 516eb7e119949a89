"""What is measured of finished runs beyond their accuracy."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Count, Integer, Positive, Seed, Settings


class DomainGap(Settings):
    """Theorem 1's domain gap (UOT paper, section 3.1) along fine-tuning.

    It is measured at the start, after each of the recipe's `keep_epochs`, and at the end.

    A run with reuse is measured with its own selection, one without with all of the experiment.
    """

    batch_size: Count = Field(
        256,
        description="Source images in a batch, the size that the gap is of (256 in UOT paper, section 4.1).",
    )
    batches: Integer = Field(
        20, ge=3, description="Batches of each side; at most as many as the target has test images."
    )
    head_images: Count = Field(
        100, description="Images of each class that a head is fitted on at most, drawn at random."
    )


class FeatureMap(Settings):
    """Features of test images in the plane, a panel for each recipe (COIN, Figure 2).

    Of each run with the experiment's first seed, and of the untouched backbone.
    """

    method: Literal["tsne", "pca", "none"] = Field(
        "tsne",
        description="t-SNE, principal components, or features of two dimensions as they are and of three on "
        "the unit sphere (Core-tuning, supplement C.1).",
    )
    images: Count = Field(100, description="Test images of each class at most, drawn at random.")
    perplexity: Positive = Field(
        30.0,
        description="Of t-SNE: about how many neighbours count (5 to 50 in van der Maaten and Hinton 2008).",
    )
    seed: Seed = Field(0, description="Seed of the draw and of t-SNE.")
