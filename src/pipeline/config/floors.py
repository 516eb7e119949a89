"""What every recipe should stand above."""

from pydantic import Field, model_validator

from pipeline.config.base import Between, Count, Positive, Settings


class Floors(Settings):
    """Cheap ways to use a backbone, for every backbone and target of the runs, shown beside the recipes.

    What they choose, they choose on the validation part, or without one on images left out of training.
    """

    enabled: bool = Field(True, description="Whether there are any.")
    neighbours: list[Count] = Field(
        [1, 5, 20, 50],
        description="Numbers k of a k-nearest-neighbour classifier to choose from; none without any.",
    )
    regularisation: list[Positive] = Field(
        [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0],
        description="Strengths C of a linear probe to choose from (its inverse penalty, as in scikit-learn; "
        "features have a mean square norm of 1); no probe without any.",
    )
    interpolation: list[Between] = Field(
        [0.25, 0.5, 0.75],
        description="Shares alpha of the fine-tuned weights in weight interpolation (WiSE-FT, Wortsman et "
        "al. 2022, section 3) to choose from, with the backbone and its linear probe as the other end; "
        "none without any.",
    )

    @model_validator(mode="after")
    def _probe_to_interpolate_with(self) -> "Floors":
        if self.interpolation and not self.regularisation:
            raise ValueError("interpolation starts from the linear probe, and regularisation is empty")
        return self
