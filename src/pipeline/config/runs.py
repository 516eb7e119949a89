"""One run: a backbone, target, selection, recipe and seed; and one ranking, what it may reuse."""

from typing import Any, NamedTuple

from pipeline.config.analysis import DomainGap


class Run(NamedTuple):
    """The keys of one run. `source` is None and `selection` is ``none`` without reuse."""

    backbone: str
    source: str | None
    target: str
    selection: str
    recipe: str
    seed: int

    def keys(self) -> dict[str, Any]:
        """The keys by which tables name this run."""
        return {
            "backbone": self.backbone,
            "target": self.target,
            "selection": self.selection,
            "recipe": self.recipe,
            "seed": self.seed,
        }


class Ranking(NamedTuple):
    """The keys of one selection's table: what it ranks, by which backbone, for which target."""

    backbone: str
    source: str
    target: str
    selection: str


class Gap(NamedTuple):
    """What is measured of one run: the domain gap to source images of some selections.

    Attributes:
        run: Its model and data.
        source: What the selections rank.
        selections: Their names.
        recipe: Whose reuse says how source images take part: the run's own or, of a run without, that
            of the recipe it is compared with.
        settings: How to measure.
    """

    run: Run
    source: str
    selections: tuple[str, ...]
    recipe: str
    settings: DomainGap
