"""Claims about runs, and how they are answered."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Count, Fraction, Name, Positive, Seed, Settings, Share

# Resamples beyond either end of the widest interval; with fewer its ends are chance.
FEWEST_BEYOND = 5


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
    """`better` is above `baseline`, by more than a margin."""

    kind: Literal["difference"]
    margin: Fraction = Field(0.0, description="Top-1 accuracy, in 0..1, that the difference must exceed.")


class NonInferiority(Claim):
    """`better` is not worse than `baseline` by more than a margin."""

    kind: Literal["non_inferiority"]
    margin: Annotated[Positive, Field(lt=1)] = Field(
        description="Top-1 accuracy, in 0..1, that it may be worse by; 0.01 is a point."
    )


class Trend(Claim):
    """What `better` gains over `baseline` grows as training images become fewer.

    Targets are subsets by number. Draws that have all of their sizes are used: a draw is known by the
    subset's `draw` and the seed.
    """

    kind: Literal["trend"]
    margin: Fraction = Field(
        0.0, description="Top-1 accuracy, in 0..1, by which the gain must grow with each halving."
    )


AnyClaim = Annotated[Difference | NonInferiority | Trend, Field(discriminator="kind")]


class Claims(Settings):
    """What to ask of the runs; answered by intervals over draws and test images (docs/methods.md)."""

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
        if self.resamples < wanted:
            raise ValueError(
                f"resamples: {self.resamples} are too few for {len(self.questions)} claims at level "
                f"{self.level}; expected at least {wanted}"
            )
        return self
