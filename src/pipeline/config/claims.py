"""Claims about runs, and how they are answered."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.claims.measures import MEASURES, TOP1
from pipeline.config.base import Between, Count, Fraction, Name, Number, Positive, Seed, Settings, Share
from pipeline.evaluation.catalogue import SHARE

# Resamples beyond either end of the widest interval; with fewer its ends are chance.
FEWEST_BEYOND = 5
Measure = Literal[
    "top1",
    "top5",
    "mean_per_class",
    "negative_log_likelihood",
    "expected_calibration_error",
    "s_dbw",
    "scat",
    "dens_bw",
    "s_dbw_coin",
    "intra_class_spread",
    "inter_class_spread",
    "seconds",
]
COMPARED_BY = (
    "What runs are compared by: top-1 accuracy, over draws and test images; or over draws alone another "
    "metric of the test part, or `seconds` of training of all of a run's stages. Less is better of "
    "`seconds`, `negative_log_likelihood`, `expected_calibration_error`, S_Dbw and its terms, and "
    "`intra_class_spread`."
)


class Arm(Settings):
    """One side of a comparison: the runs of a recipe, with what they reuse."""

    recipe: Name = Field(description="A name in `recipes`.")
    selections: list[Name] = Field(
        default_factory=list,
        description="Names in `selections`; several where draws have one each, such as random ones of "
        "different seeds; none for a recipe without reuse.",
    )


class Claim(Settings):
    """What every claim has."""

    claim: str = Field(min_length=1, description="The claim in words; shown with its answer.")
    backbone: Name = Field(description="A name in `backbones`.")
    targets: list[Name] = Field(
        min_length=1,
        description="Names in `datasets`, with the same test images: the draws of training images.",
    )
    better: Arm = Field(description="The arm that the claim is in favour of.")
    baseline: Arm = Field(description="The arm that it is compared with, draw by draw.")


class Difference(Claim):
    """`better` is ahead of `baseline` by more than a margin: above it, or below it where less is better."""

    kind: Literal["difference"]
    measure: Measure = Field("top1", description=COMPARED_BY)
    margin: Number = Field(
        0.0,
        ge=0,
        description="What the difference must exceed, in the measure's unit: accuracies in 0..1, seconds.",
    )
    relative_margin: Fraction | None = Field(
        None,
        description="Instead, as a share of what `baseline` has, by paired ratios; 0.05 is 5 %. Not of "
        "`top1`.",
    )

    @model_validator(mode="after")
    def _margin_fits(self) -> "Difference":
        _require_fitting(self)
        return self


class NonInferiority(Claim):
    """`better` is not worse than `baseline` by more than a margin."""

    kind: Literal["non_inferiority"]
    measure: Measure = Field("top1", description=COMPARED_BY)
    margin: Positive | None = Field(
        None,
        description="What it may be worse by, in the measure's unit: accuracies in 0..1 (0.01 is a point), "
        "seconds. Either this or `relative_margin`.",
    )
    relative_margin: Between | None = Field(
        None,
        description="The same as a share of what `baseline` has, by paired ratios; 0.05 is 5 %. Not of "
        "`top1`.",
    )

    @model_validator(mode="after")
    def _margin_fits(self) -> "NonInferiority":
        self._require_one("margin", "relative_margin")
        _require_fitting(self)
        return self


def _require_fitting(claim: Difference | NonInferiority) -> None:
    """Raise ValueError where a margin does not go with the measure."""
    margin, relative = claim.margin, claim.relative_margin
    if relative is not None and claim.measure == TOP1:
        raise ValueError("relative_margin: top1 is compared image by image, not by ratios; give margin")
    if relative is not None and margin:
        raise ValueError("found both of margin and relative_margin; give one")
    if margin is not None and margin >= 1 and MEASURES[claim.measure].unit == SHARE:
        raise ValueError(f"margin: found {margin:g}; expected a number below 1 for {claim.measure}")


class Trend(Claim):
    """What `better` gains over `baseline` grows as training images become fewer.

    Targets are subsets by number. Draws that have all of their sizes are used: a draw is known by the
    subset's `draw` and the seed.
    """

    kind: Literal["trend"]
    measure: Literal["top1"] = Field("top1", description="Trends are of top-1 accuracy.")
    margin: Fraction = Field(
        0.0, description="Top-1 accuracy, in 0..1, by which the gain must grow with each halving."
    )


AnyClaim = Annotated[Difference | NonInferiority | Trend, Field(discriminator="kind")]


class Claims(Settings):
    """What to ask of the runs; answered by intervals (docs/methods.md, Claims)."""

    questions: list[AnyClaim] = Field(default_factory=list, description="The claims, answered together.")
    level: Annotated[Share, Field(lt=1)] = Field(
        0.95, description="Confidence that no answer to any of the claims is wrong (Holm's correction)."
    )
    resamples: Annotated[Count, Field(ge=1000)] = Field(
        10_000, description="Times that draws and test images are drawn again."
    )
    seed: Seed = Field(0, description="Seed of these.")

    @model_validator(mode="after")
    def _enough_resamples(self) -> "Claims":
        wanted = round(2 * FEWEST_BEYOND * len(self.questions) / (1 - self.level))
        if self.resamples < wanted and any(question.measure == TOP1 for question in self.questions):
            raise ValueError(
                f"resamples: {self.resamples} are too few for {len(self.questions)} claims at level "
                f"{self.level}; expected at least {wanted}"
            )
        return self
