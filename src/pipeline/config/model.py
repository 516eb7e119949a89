"""The whole config: named entries, and experiments that cross them."""

from collections.abc import Iterator
from itertools import product
from typing import Annotated

from pydantic import Field, PrivateAttr

from pipeline.config.analysis import DomainGap, FeatureMap
from pipeline.config.backbones import AnyBackbone, KeptEpoch, PretrainedHere
from pipeline.config.base import Count, Name, Seed, Settings
from pipeline.config.claims import Claims
from pipeline.config.datasets import AnyDataset
from pipeline.config.floors import Floors
from pipeline.config.leakage import Leakage
from pipeline.config.recipes import Recipe
from pipeline.config.runs import Gap, Ranking, Run
from pipeline.config.selections import AnySelection, Explanation

# Stands for the selection of a run that reuses nothing, in tables and paths.
NO_SELECTION = "none"


class Experiment(Settings):
    """Every backbone x target x recipe x seed; recipes with reuse also x selection.

    Without recipes it only selects: every backbone x target x selection.
    """

    name: str = Field(description="Shown in the report.")
    backbones: list[Name] = Field(min_length=1, description="Names in `backbones`.")
    source: Name | None = Field(
        None,
        description="Data to reuse, a name in `datasets`; what the backbone was pre-trained on by default.",
    )
    targets: list[Name] = Field(min_length=1, description="Names in `datasets`.")
    selections: list[Name] = Field(
        default_factory=list, description="Names in `selections`, for recipes with reuse or without recipes."
    )
    recipes: list[Name] = Field(default_factory=list, description="Names in `recipes`; none to select only.")
    seeds: list[Seed] = Field([0], min_length=1, description="Seeds of head, order and augmentation.")
    recall: dict[Name, Annotated[list[str], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Concepts of the source that a selection for a target should find, by target; "
        "how many it finds is told (UOT paper, section 4.4).",
    )
    domain_gap: DomainGap | None = Field(
        None, description="How to measure the domain gap of its selections; not measured by default."
    )
    feature_map: FeatureMap | None = Field(
        None, description="How to draw its runs' features; not drawn by default."
    )


class Features(Settings):
    """How features are extracted."""

    batch_size: Count = Field(256, description="Images in a forward pass.")
    threads: Count = Field(1, description="CPU threads of the arithmetic; another number gives other bits.")


class Tracking(Settings):
    """Where runs are logged."""

    uri: str = Field("sqlite:///results/mlflow.db", description="MLflow's tracking URI.")
    experiment: Name = Field("graftune", description="MLflow's experiment.")


class Config(Settings):
    """config.yaml."""

    datasets: dict[Name, AnyDataset] = Field(description="Where images come from.")
    backbones: dict[Name, AnyBackbone] = Field(description="Encoders with their weights.")
    selections: dict[Name, AnySelection] = Field(
        default_factory=dict, description="Which units of the source to reuse."
    )
    recipes: dict[Name, Recipe] = Field(default_factory=dict, description="How to fine-tune.")
    experiments: list[Experiment] = Field(min_length=1, description="What to cross.")
    features: Features = Field(Features(), description="How features are extracted.")
    floors: Floors = Field(Floors(), description="What every recipe should stand above.")
    leakage: Leakage = Field(Leakage(), description="Which source images count as copies.")
    explanation: Explanation = Field(Explanation(), description="How selections are explained.")
    claims: Claims = Field(Claims(), description="What to ask of the runs.")
    tracking: Tracking = Field(Tracking(), description="Where runs are logged.")

    _runs: list[Run] = PrivateAttr(default_factory=list)

    def runs(self) -> list[Run]:
        """Every run of every experiment, once, in the order of the config."""
        if not self._runs:
            crossed = (run for experiment in self.experiments for run in self.runs_of(experiment))
            self._runs.extend(dict.fromkeys(crossed))
        return self._runs

    def runs_of(self, experiment: Experiment) -> Iterator[Run]:
        """Every run of one experiment."""
        reusing = self.reusing(experiment)
        for backbone, target, recipe in product(experiment.backbones, experiment.targets, experiment.recipes):
            reuses = recipe in reusing
            source = (experiment.source or self.source_of(backbone)) if reuses else None
            selections = experiment.selections if reuses else [NO_SELECTION]
            for selection, seed in product(selections, experiment.seeds):
                yield Run(backbone, source, target, selection, recipe, seed)

    def gaps(self) -> list[Gap]:
        """The domain gaps to measure, one entry for each run; experiments that share a run agree on how."""
        found: dict[Run, Gap] = {}
        for gap in (gap for experiment in self.experiments for gap in self.gaps_of(experiment)):
            earlier = found.get(gap.run, gap).selections
            found[gap.run] = gap._replace(selections=tuple(dict.fromkeys([*earlier, *gap.selections])))
        return list(found.values())

    def gaps_of(self, experiment: Experiment) -> Iterator[Gap]:
        """What one experiment measures of each of its runs; its names fit together."""
        reusing = self.reusing(experiment)
        if experiment.domain_gap is None or not reusing:
            return
        for run in self.runs_of(experiment):
            source = run.source or experiment.source or self.source_of(run.backbone)
            if source is not None:
                own = run.recipe in reusing
                selections = [run.selection] if own else experiment.selections
                recipe = run.recipe if own else reusing[0]
                yield Gap(run, source, tuple(selections), recipe, experiment.domain_gap)

    def mapped(self) -> list[Run]:
        """Every run whose features are drawn, once."""
        return list(dict.fromkeys(run for entry in self.experiments for run in self.mapped_by(entry)))

    def mapped_by(self, experiment: Experiment) -> list[Run]:
        """The runs of one experiment whose features are drawn: those with its first seed."""
        if experiment.feature_map is None:
            return []
        return [run for run in self.runs_of(experiment) if run.seed == experiment.seeds[0]]

    def rankings(self) -> list[Ranking]:
        """Every selection for a target that an experiment makes, once, in the order of the config."""
        return list(dict.fromkeys(made for entry in self.experiments for made in self.rankings_of(entry)))

    def rankings_of(self, experiment: Experiment) -> Iterator[Ranking]:
        """Every selection for a target that one experiment makes; its names fit together."""
        for backbone, target in product(experiment.backbones, experiment.targets):
            source = experiment.source or self.source_of(backbone)
            if source is not None:
                for selection in experiment.selections:
                    yield Ranking(backbone, source, target, selection)

    def reusing(self, experiment: Experiment) -> list[str]:
        """The experiment's recipes that reuse source data."""
        return [name for name in experiment.recipes if self.recipes[name].reuse.name != "none"]

    def origin(self, backbone: str) -> AnyBackbone:
        """The entry whose weights a backbone has: itself, or the one whose epoch it keeps."""
        entry = self.backbones[backbone]
        return self.backbones[entry.of] if isinstance(entry, KeptEpoch) else entry

    def source_of(self, backbone: str) -> str | None:
        """The dataset that a backbone was pre-trained on here; None for fetched weights."""
        entry = self.origin(backbone)
        return entry.dataset if isinstance(entry, PretrainedHere) else None
