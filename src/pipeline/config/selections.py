"""Which units of the source to reuse for a target."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Count, CountFromZero, Positive, Seed, Settings

Distance = Literal["cosine", "l2"]


class Classes(Settings):
    """Units are the source's classes."""

    by: Literal["class"]


class Clusters(Settings):
    """Units are K-means clusters of the source's features by cosine (UOT paper, section 4.1)."""

    by: Literal["cluster"]
    clusters: Count = Field(2000, description="How many clusters are made; 2000 in the paper's Table 2.")
    iterations: Count = Field(50, description="K-means iterations at most.")
    seed: Seed = Field(0, description="Seed of the first centres.")


class Samples(Settings):
    """Every image of the source is a unit of its own: selection at image level, past the paper."""

    by: Literal["sample"]


AnyUnits = Annotated[Classes | Clusters | Samples, Field(discriminator="by")]


class Selection(Settings):
    """What every selection has."""

    units: AnyUnits = Field(Classes(by="class"), description="What is selected.")
    count: Count = Field(
        100, description="How many units are selected (top K); 100 in the paper, section 4.1."
    )
    order: Literal["best", "worst"] = Field(
        "best", description="Which end of the ranking is selected: the best units, or the worst."
    )
    skip: CountFromZero = Field(
        0, description="Units passed over at that end; for parts of a ranking (Figure 4b)."
    )

    @model_validator(mode="after")
    def _enough_clusters(self) -> "Selection":
        if isinstance(self.units, Clusters) and self.last > self.units.clusters:
            skipped = f" after skip {self.skip}" if self.skip else ""
            raise ValueError(
                f"count {self.count}{skipped} is above the number of clusters {self.units.clusters}"
            )
        return self

    @property
    def last(self) -> int:
        """The last rank that is selected for certain, from the end that `order` names."""
        return self.skip + (self.count or 0)


class Label(Selection):
    """Classes by their names, whatever their features (UOT paper, sections 3.2 and 4.2, Figure 3b).

    They are all classes of `concepts`, or those that `mapping` lists for the target's classes; with
    neither, those named as a target class, case, spaces, `_` and `-` aside.
    """

    method: Literal["label"]
    count: Count | None = Field(  # type: ignore[assignment]  # other methods rank all units
        None, description="How many of them, the first in the source's order; all of them by default."
    )
    concepts: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="Concepts of the source whose classes are selected."
    )
    mapping: str | None = Field(
        None, description="CSV file with columns `target` and `source`: names of classes that go together."
    )

    @model_validator(mode="after")
    def _names_of_classes(self) -> "Label":
        if not isinstance(self.units, Classes):
            raise ValueError(f"label selects classes by their names; found units by {self.units.by}")
        if self.concepts is not None and self.mapping is not None:
            raise ValueError("found both of concepts and mapping; give one at most")
        if self.order != "best" or self.skip:
            raise ValueError("label does not rank what it finds; leave order and skip out")
        return self


class Random(Selection):
    """Units drawn uniformly (UOT paper, section 3.2)."""

    method: Literal["random"]
    seed: Seed = Field(0, description="Seed of the draw.")


class Nearest(Selection):
    """Units by the distance to their nearest target class: a baseline that the UOT paper lacks."""

    method: Literal["nearest"]
    distance: Distance = Field("cosine", description="Distance between means.")


class GreedyOt(Selection):
    """Units by their mean distance to all target classes (UOT paper, section 4.1, Greedy-OT)."""

    method: Literal["greedy_ot"]
    distance: Distance = Field("l2", description="Distance between means; l2 in the paper, section 4.1.")


class Uot(Selection):
    """Unbalanced optimal transport between source units and target classes (UOT paper, Eq. 5)."""

    method: Literal["uot"]
    distance: Distance = Field("cosine", description="Distance between means.")
    masses: Literal["unit", "images"] = Field(
        "unit",
        description="Mass of each unit: 1 as in the paper (section 3.2), or in proportion to its images, "
        "with a mean of 1.",
    )
    epsilon: Positive = Field(1.0, description="Weight of the entropy.")
    tau1: Positive = Field(1.0, description="Weight of the source marginal; small selects.")
    tau2: Positive = Field(100.0, description="Weight of the target marginal; large covers all classes.")
    epsilon_c: Positive = Field(0.01, description="Scale of the distance in the cost.")
    tolerance: Positive = Field(1e-10, description="Largest error of log P1 at convergence.")
    iterations: Count = Field(100_000, description="Iterations at most; not converged is an error.")


AnySelection = Annotated[Random | Label | Nearest | GreedyOt | Uot, Field(discriminator="method")]


class Explanation(Settings):
    """How a selection is explained: its stability under a bootstrap of the target's images."""

    draws: Count = Field(
        20, description="Times that the target's images are drawn again, within their classes."
    )
    seed: Seed = Field(0, description="Seed of the draws.")
