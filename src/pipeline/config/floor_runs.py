"""Which floors stand beside the runs, and what their steps are told."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline.config.datasets import ClassMeans
from pipeline.config.model import NO_SELECTION, Config
from pipeline.config.recipes import Recipe
from pipeline.config.runs import Run

NEIGHBOURS, PROBE, INTERPOLATION = "neighbours", "linear_probe", "interpolation"
PENULTIMATE = "penultimate"


class Floor(NamedTuple):
    """The keys of one floor.

    Attributes:
        backbone: Whose features or weights.
        target: What is classified.
        floor: Its folder: a kind, and of an interpolation also the recipe of the run.
        seed: Of that run; 0 of the others, in which nothing is drawn.
        run: The run that is interpolated with.
    """

    backbone: str
    target: str
    floor: str
    seed: int
    run: Run | None = None

    def keys(self) -> dict[str, Any]:
        """The keys by which paths name this floor."""
        return {"backbone": self.backbone, "target": self.target, "floor": self.floor, "seed": self.seed}

    def row(self) -> dict[str, Any]:
        """The keys of its metrics. No recipe can have its name, since names have no spaces."""
        names = {NEIGHBOURS: "k-nearest neighbours", PROBE: "linear probe"}
        name = f"{self.run.recipe}, interpolated" if self.run else names[self.floor]
        return {
            "backbone": self.backbone,
            "target": self.target,
            "selection": NO_SELECTION,
            "recipe": name,
            "seed": self.seed,
        }


def is_baseline(recipe: Recipe) -> bool:
    """Whether a recipe is plain fine-tuning: of the whole backbone, with neither a first stage nor reuse."""
    parts = (recipe.initialise.name, recipe.objective.name, recipe.reuse.name)
    plain = parts == ("none", "cross_entropy", "none")
    return plain and recipe.trainable == "all" and not recipe.from_scratch


def baselines(config: Config) -> list[str]:
    """Recipes of runs that others are measured against, in the order of the runs."""
    names = dict.fromkeys(run.recipe for run in config.runs())
    return [name for name in names if is_baseline(config.recipes[name])]


def floors(config: Config) -> list[Floor]:
    """Every floor: of each backbone and target of the runs, and of each run of its baseline."""
    pairs = dict.fromkeys((run.backbone, run.target) for run in config.runs())
    return [floor for pair in pairs for floor in _floors_of(config, *pair)] if config.floors.enabled else []


def _floors_of(config: Config, backbone: str, target: str) -> Iterator[Floor]:
    for kind, grid in ((NEIGHBOURS, config.floors.neighbours), (PROBE, config.floors.regularisation)):
        if grid:
            yield Floor(backbone, target, kind, 0)
    runs = [run for run in config.runs() if (run.backbone, run.target) == (backbone, target)]
    names = [name for name in baselines(config) if any(run.recipe == name for run in runs)]
    for run in runs if config.floors.interpolation else []:
        if run.recipe in names[:1]:
            yield Floor(backbone, target, f"{INTERPOLATION}-{run.recipe}", run.seed, run)


def interpolated_run(config: Config, backbone: str, target: str, recipe: str, seed: int) -> Run:
    """The run that an interpolation is of."""
    return next(
        floor.run
        for floor in floors(config)
        if floor.run and (*floor[:2], floor.run.recipe, floor.seed) == (backbone, target, recipe, seed)
    )


def classifier_settings(config: Config, backbone: str, target: str) -> dict[str, Any]:
    """What classifiers of features are told beside their grid: parts and the metric to choose by.

    They are fitted on the validation part too where every recipe is.
    """
    runs = [run for run in config.runs() if (run.backbone, run.target) == (backbone, target)]
    fit_on = {config.recipes[run.recipe].fit_on for run in runs}
    parts = fit_on.pop().split("+") if len(fit_on) == 1 else ["train"]
    predict = [part for part in ("validation", "test") if part not in parts]
    return {"fit_on": parts, "predict": predict, "metric": metric(config, target)}


def interpolation_settings(config: Config, run: Run) -> dict[str, Any]:
    """What an interpolation is told."""
    recipe = config.recipes[run.recipe]
    fit_on = recipe.fit_on.split("+")
    return {
        "interpolation": list(config.floors.interpolation),
        "predict": [part for part in ("validation", "test") if part not in fit_on],
        "metric": metric(config, run.target),
        "threads": recipe.threads,
    }


def metric(config: Config, target: str) -> str:
    """The accuracy that counts on a target of runs."""
    entry = config.datasets[target]
    assert not isinstance(entry, ClassMeans)
    return entry.metric


def has_features(config: Config, backbone: str) -> bool:
    """Whether the features that units are made of are those that floors classify, the penultimate ones."""
    return getattr(config.backbones[backbone], "feature_layer", None) == PENULTIMATE
