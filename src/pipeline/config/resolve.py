"""What each rule is told: the settings, files and components that a config means for one job."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.backbones import AnyBackbone, Checkpoint, Elsewhere, KeptEpoch, Preprocessing
from pipeline.config.datasets import AnyDataset, ClassMeans, Published
from pipeline.config.floor_runs import Floor, floors
from pipeline.config.model import NO_SELECTION, Config, Experiment
from pipeline.config.runs import Gap, Ranking, Run
from pipeline.config.search import Rung
from pipeline.config.selections import AnyUnits, Clusters, Samples
from pipeline.datasets.sets import load_set
from pipeline.datasets.sets.archive import Archive
from pipeline.nested import with_values

TRAINING = (
    "budget",
    "batch_size",
    "accumulate",
    "precision",
    "compile",
    "threads",
    "gpu",
    "optimiser",
    "schedule",
    "augmentation",
)
# What the stage before fine-tuning depends on.
STAGE = (*TRAINING, "initialise", "batch_norm", "fit_on", "evaluate_every", "may_diverge")


class Stage(NamedTuple):
    """The stage before fine-tuning of a run or trial; equal ones are one job for each seed.

    Attributes:
        key: Its folder's name.
        settings: What it is told, without the seed.
        searches: Selection and recipe of each search that decides some of them.
    """

    key: str
    settings: dict[str, Any]
    searches: tuple[tuple[str, str], ...]


def to_json(value: Any) -> str:
    """Settings as rules pass them on: keys sorted, so that their order changes nothing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Resolver:
    """Answers the rules' questions about one config."""

    def __init__(self, config: Config):
        self.config = config
        self._runs = {tuple(run.keys().values()): run for run in config.runs()}
        self._gaps = {gap.run: gap for gap in config.gaps()}
        self._stages: dict[str, Stage] | None = None

    def run(self, backbone: str, target: str, selection: str, recipe: str, seed: str | int) -> Run:
        """The run with these keys."""
        return self._runs[backbone, target, selection, recipe, int(seed)]

    def trial_run(self, backbone: str, target: str, selection: str, recipe: str) -> Run:
        """What a trial of a recipe's search trains, with the seed of the search."""
        search = self.config.recipes[recipe].search
        assert search is not None
        same = (
            run for run in self._runs.values() if run[0:1] + run[2:5] == (backbone, target, selection, recipe)
        )
        run = next(same, Run(backbone, None, target, selection, recipe, 0))
        return run._replace(seed=search.seed)

    def used_entries(self) -> Iterator[tuple[str, str, AnyDataset | AnyBackbone]]:
        """Section, name and entry of every dataset and backbone that a run or ranking needs, each once."""
        needing: list[Run | Ranking] = [*self.config.runs(), *self.config.rankings()]
        backbones = list(dict.fromkeys(one.backbone for one in needing))
        sources = [self.config.source_of(name) for name in backbones]
        datasets = dict.fromkeys([*sources, *(name for one in needing for name in (one.source, one.target))])
        for dataset in filter(None, datasets):
            yield "datasets", dataset, self.config.datasets[dataset]
        for backbone in backbones:
            yield "backbones", backbone, self.config.backbones[backbone]

    def used_files(self) -> Iterator[tuple[str, str]]:
        """Key path and path of every local file and folder that a run or ranking needs."""
        for section, name, entry in self.used_entries():
            if isinstance(entry, ClassMeans):
                for backbone in self._backbones_with(name):
                    yield f"{section}.{name}.path", entry.file(backbone)
                continue
            for key in ("path", "concepts"):
                path = getattr(entry, key, None)
                if path and not (key == "path" and isinstance(entry, Published)):
                    yield f"{section}.{name}.{key}", path
        for selection in dict.fromkeys(ranking.selection for ranking in self.config.rankings()):
            mapping = getattr(self.config.selections[selection], "mapping", None)
            if mapping:
                yield f"selections.{selection}.mapping", mapping

    def used_archives(self) -> Iterator[tuple[str, Archive]]:
        """Key path and archive of every published set that a run or ranking needs."""
        for section, name, entry in self.used_entries():
            if isinstance(entry, Published):
                yield f"{section}.{name}.path", Archive(load_set(entry.name), Path(entry.path))

    def _backbones_with(self, dataset: str) -> list[str]:
        """Backbones that a dataset is ranked by, on either side."""
        rankings = self.config.rankings()
        return list(dict.fromkeys(r.backbone for r in rankings if dataset in (r.source, r.target)))

    def architecture_module(self, backbone: str) -> str:
        """Module of the backbone's network."""
        entry = self.config.origin(backbone)
        architecture = getattr(entry, "architecture", None)
        name = architecture.name if architecture else "torchvision"
        return f"pipeline.backbones.architectures.{name}"

    def weights_components(self, backbone: str) -> list[str]:
        """Modules that the settings of a backbone's weights name."""
        entry = self.config.backbones[backbone]
        formats = [f"pipeline.backbones.formats.{entry.format}"] if isinstance(entry, Checkpoint) else []
        return [self.architecture_module(backbone), *formats]

    def resize(self, backbone: str) -> int:
        """Stored size of images for a backbone, in pixels."""
        return self._preprocessing(backbone).resize

    def crops_originals(self, backbone: str) -> bool:
        """Whether a backbone's training cuts its crops from images of their own sizes."""
        return self._preprocessing(backbone).stored == "original"

    def _preprocessing(self, backbone: str) -> Preprocessing:
        entry = self.config.origin(backbone)
        assert not isinstance(entry, KeptEpoch | Elsewhere)
        return entry.preprocessing

    def weights_settings(self, backbone: str) -> dict[str, Any]:
        """What a backbone's weights depend on: its entry, less the layer that features are read from."""
        return self.config.backbones[backbone].model_dump(mode="json", exclude={"feature_layer"})

    def features_settings(self, backbone: str) -> dict[str, Any]:
        """What a backbone's features depend on beside its weights."""
        entry = self.config.backbones[backbone]
        assert not isinstance(entry, Elsewhere)
        return {**self.config.features.plain(), "feature_layer": entry.feature_layer}

    def selection_settings(self, selection: str) -> dict[str, Any]:
        """A selection entry without its units, which have a rule of their own."""
        return self.config.selections[selection].model_dump(mode="json", exclude={"units"})

    def explainable(self) -> list[Ranking]:
        """Every ranking of images for images; of class means the images are not there to be drawn again."""
        return [
            ranking
            for ranking in self.config.rankings()
            if not any(
                isinstance(self.config.datasets[name], ClassMeans)
                for name in (ranking.source, ranking.target)
            )
        ]

    def recalled(self) -> list[Ranking]:
        """Every ranking whose recall is told, once."""
        told = (made for entry in self.config.experiments for made, _ in self._recalled_by(entry))
        return list(dict.fromkeys(told))

    def recall_settings(self) -> dict[str, Any]:
        """By experiment, the rankings whose recall is told, and of which concepts."""
        experiments = [
            {
                "name": experiment.name,
                "rankings": [
                    {**made._asdict(), "concepts": concepts}
                    for made, concepts in self._recalled_by(experiment)
                ],
            }
            for experiment in self.config.experiments
            if experiment.recall
        ]
        return {"experiments": experiments}

    def _recalled_by(self, experiment: Experiment) -> Iterator[tuple[Ranking, list[str]]]:
        for ranking in self.config.rankings_of(experiment):
            if ranking.target in experiment.recall:
                yield ranking, experiment.recall[ranking.target]

    def units_key(self, selection: str) -> str:
        """Folder name of the units that a selection is over."""
        return units_key(self.config.selections[selection].units)

    def units_settings(self, key: str) -> dict[str, Any]:
        """Settings of the units of that folder name."""
        if key == "classes":
            return {"by": "class"}
        for selection in self.config.selections.values():
            if units_key(selection.units) == key:
                return selection.units.plain()
        raise KeyError(key)

    def stage(self, run: Run, trial: str | None = None) -> Stage | None:
        """The stage before fine-tuning of a run, or of a trial of its recipe's search; None without one."""
        settings = self.finetuning_settings(run) if trial is None else self.trial_settings(run, trial)
        if settings["initialise"]["name"] == "none":
            return None
        own = {key: settings[key] for key in STAGE}
        own["chosen"] = [key for key in settings["chosen"] if key.split(".")[0] in own]
        taken = [key for key in own["chosen"] if key in self._taken_keys(run.recipe)]
        searches = []
        if taken:
            searches.append((NO_SELECTION, self.config.recipes[run.recipe].take.recipe))  # type: ignore[union-attr]
        if len(taken) < len(own["chosen"]):
            searches.append((run.selection, run.recipe))
        name = own["initialise"]["name"]
        return Stage(f"{name}-{_short([own, searches])}", own, tuple(searches))

    def stage_of(self, key: str) -> Stage:
        """The stage of that folder name."""
        if self._stages is None:
            stages = [self.stage(run, trial) for run, trial in self.trained()]
            self._stages = {stage.key: stage for stage in stages if stage}
        return self._stages[key]

    def trained(self) -> Iterator[tuple[Run, str | None]]:
        """Every run, and every trial of the searches that decide settings of runs."""
        for run in self.config.runs():
            yield run, None
            recipe = self.config.recipes[run.recipe]
            searched = [(run.selection, run.recipe)] if recipe.search else []
            searched += [(NO_SELECTION, recipe.take.recipe)] if recipe.take else []
            for selection, name in searched:
                tried = self.trial_run(run.backbone, run.target, selection, name)
                yield from ((tried, trial) for trial in self.trials(name))

    def finetuning_settings(self, run: Run) -> dict[str, Any]:
        """A run's recipe and keys, the parts it is fitted on and those it predicts."""
        recipe = self.config.recipes[run.recipe]
        plain = recipe.model_dump(mode="json", exclude={"search", "take", "tuned"})
        for tuned in recipe.tuned:
            named = [
                (tuned.backbone, run.backbone),
                (tuned.target, run.target),
                (tuned.selection, run.selection),
            ]
            if all(wanted in (None, found) for wanted, found in named):
                plain = with_values(plain, tuned.values)
        fit_on = recipe.fit_on.split("+")
        return {
            **plain,
            "run": run.keys(),
            "fit_on": fit_on,
            "predict": [part for part in ("validation", "test") if part not in fit_on],
            "chosen": [*(recipe.search.grid if recipe.search else {}), *self._taken_keys(run.recipe)],
            "may_diverge": False,
            "until": 1.0,
        }

    def trials(self, recipe: str) -> dict[str, dict[str, Any]]:
        """Name and values of every trial of a recipe's search; the name is of the values alone."""
        search = self.config.recipes[recipe].search
        return {_short(values): values for values in search.trials()} if search else {}

    def trial_settings(self, run: Run, trial: str, rung: int | None = None) -> dict[str, Any]:
        """What a trial trains: fitted on the training part alone, judged on validation.

        Args:
            run: As `trial_run` has it.
            trial: Its name.
            rung: How far, of successive halving; in full by default.
        """
        settings = with_values(self.finetuning_settings(run), self.trials(run.recipe)[trial])
        return {
            **settings,
            "fit_on": ["train"],
            "predict": ["validation"],
            "keep_epochs": [],
            "chosen": self._taken_keys(run.recipe),
            "may_diverge": True,
            "until": 1.0 if rung is None else self.rungs(run.recipe)[rung].share,
        }

    def rungs(self, recipe: str) -> list[Rung]:
        """The rounds of a recipe's search by successive halving; none where trials are trained in full."""
        search = self.config.recipes[recipe].search
        return search.rungs() if search else []

    def search_settings(self, target: str, recipe: str, rung: int | None = None) -> dict[str, Any]:
        """What ranks trials: the metric, the grid in its order, how many go on, and how far they are."""
        dataset, rungs = self.config.datasets[target], self.rungs(recipe)
        assert not isinstance(dataset, ClassMeans)
        return {
            "metric": dataset.metric,
            "trials": [{"trial": name, "values": values} for name, values in self.trials(recipe).items()],
            "keep": rungs[rung + 1].trials if rung is not None and rung + 1 < len(rungs) else 1,
            "rung": rung,
            "share": rungs[rung].share if rung is not None else 1.0,
        }

    def _taken_keys(self, recipe: str) -> list[str]:
        take = self.config.recipes[recipe].take
        return take.keys if take else []

    def gaps(self) -> list[Gap]:
        """The domain gaps to measure, one entry for each run."""
        return list(self._gaps.values())

    def gap(self, run: Run) -> Gap:
        """What is measured of one run."""
        return self._gaps[run]

    def gap_settings(self, gap: Gap) -> dict[str, Any]:
        """How to measure; of a run without reuse also how source images would take part.

        What the run was trained with otherwise, searches' choices too, its model says.
        """
        reuse = {name: self._measured_reuse(gap, name) for name in gap.selections}
        return {
            **gap.settings.plain(),
            "threads": self.config.recipes[gap.run.recipe].threads,
            "selections": list(gap.selections),
            "reuse": None if gap.run.source else reuse,
        }

    def _measured_reuse(self, gap: Gap, selection: str) -> dict[str, Any]:
        """How a selection's images take part in a run of the recipe that reuses them, as far as it counts."""
        run = gap.run._replace(source=gap.source, selection=selection, recipe=gap.recipe)
        reuse = self.finetuning_settings(run)["reuse"]
        unmeasured = {"weight", "batch_size", "batch_norm", "head", "leaks"}
        return {key: value for key, value in reuse.items() if key not in unmeasured}

    def gap_components(self, gap: Gap) -> list[str]:
        """Modules that the measurement of a gap loads by name."""
        reuse = self.config.recipes[gap.recipe].reuse.name
        return [self.architecture_module(gap.run.backbone), f"pipeline.reuse.{reuse}"]

    def mapped_pairs(self) -> dict[tuple[str, str], list[Run]]:
        """By backbone and target, the runs whose features are drawn side by side."""
        pairs: dict[tuple[str, str], list[Run]] = {}
        for run in self.config.mapped():
            pairs.setdefault((run.backbone, run.target), []).append(run)
        return pairs

    def map_settings(self, backbone: str, target: str) -> dict[str, Any]:
        """How the features of a backbone and its runs on a target are drawn; all experiments agree."""
        experiment = next(
            entry
            for entry in self.config.experiments
            if entry.feature_map and backbone in entry.backbones and target in entry.targets
        )
        assert experiment.feature_map is not None
        return experiment.feature_map.plain()

    def map_floors(self) -> dict[tuple[str, str], Floor]:
        """By backbone and target of drawn runs, the floor whose metrics are of the untouched features."""
        pairs = self.mapped_pairs()
        # A linear probe comes after nearest neighbours, and is the one where there are both.
        return {
            (floor.backbone, floor.target): floor
            for floor in floors(self.config)
            if floor.run is None and (floor.backbone, floor.target) in pairs
        }

    def map_panels(self) -> list[dict[str, Any]]:
        """Each drawn model: of each pair the untouched backbone, then its runs.

        Keys, method and ``measured``, the name that its metrics have for a recipe; None without metrics.
        """
        panels = []
        for pair, runs in self.mapped_pairs().items():
            method, floor = self.map_settings(*pair)["method"], self.map_floors().get(pair)
            untouched = {"backbone": pair[0], "target": pair[1], "selection": None, "recipe": None}
            measured = floor.row()["recipe"] if floor else None
            panels.append({**untouched, "seed": None, "method": method, "measured": measured})
            panels += [{**run.keys(), "method": method, "measured": run.recipe} for run in runs]
        return panels

    def finetuning_components(self, run: Run) -> list[str]:
        """Modules that a run's settings name."""
        recipe = self.config.recipes[run.recipe]
        components = [
            self.architecture_module(run.backbone),
            f"pipeline.objectives.{recipe.objective.name}",
        ]
        if recipe.reuse.name != "none":
            components.append(f"pipeline.reuse.{recipe.reuse.name}")
        return components


def units_key(units: AnyUnits) -> str:
    """``classes``, ``samples``, or ``clusters<K>-<digest of the settings>``."""
    if isinstance(units, Clusters):
        return f"clusters{units.clusters}-{_short(units.plain())}"
    return "samples" if isinstance(units, Samples) else "classes"


def _short(value: Any) -> str:
    return hashlib.sha256(to_json(value).encode()).hexdigest()[:8]
