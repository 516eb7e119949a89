"""Which source images count as copies of what a target is judged by."""

from pydantic import Field, model_validator

from pipeline.config.base import Integer, Settings, Share


class Leakage(Settings):
    """Which source images count as copies of a target's validation or test images.

    They take no part in reuse unless a recipe keeps them; docs/leakage.md has the figures behind the
    defaults.
    """

    hamming: Integer = Field(8, ge=0, le=64, description="Bits of 64 in which pHashes may differ.")
    difference_hamming: Integer = Field(
        16, ge=0, le=64, description="Bits of 64 in which dHashes may differ as well."
    )
    cosine: Share = Field(
        0.95, description="Cosine of features from which an image's nearest neighbour is listed."
    )
    exclude_cosine: Share | None = Field(
        None, description="Cosine from which images are excluded by features alone; null for never."
    )

    @model_validator(mode="after")
    def _excludes_what_is_listed(self) -> "Leakage":
        if self.exclude_cosine is not None and self.exclude_cosine < self.cosine:
            raise ValueError(f"exclude_cosine {self.exclude_cosine} is below cosine {self.cosine}")
        return self
