"""What is measured of finished runs beyond their accuracy."""

from pydantic import Field

from pipeline.config.base import Count, Integer, Settings


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
