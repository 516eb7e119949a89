"""Every job of a config that a GPU works on, and how many images pass the network in it."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.backbones import PretrainedHere
from pipeline.config.datasets import ClassMeans
from pipeline.config.floor_runs import floors, has_features, interpolation_settings
from pipeline.config.model import NO_SELECTION, Config
from pipeline.config.resolve import Resolver
from pipeline.config.runs import Gap, Run
from pipeline.config.selections import Classes
from pipeline.engine.streams import Shuffled
from pipeline.engine.window import Window
from pipeline.estimate.images import Count

PRETRAINING, FEATURES, INITIALISATION = "pre-training", "feature extraction", "initialisation"
TRIALS, FINETUNING, GAPS = "trials of searches", "fine-tuning", "domain gap"
FLOOR_FEATURES, INTERPOLATION = "features for floors", "weight interpolation"
KINDS = (
    *(PRETRAINING, FEATURES, INITIALISATION, TRIALS, FINETUNING),
    *(FLOOR_FEATURES, INTERPOLATION, GAPS),
)
# A backward pass takes the gradients of weights and of inputs: as much work as two forward passes.
TRAINED = 3

Counts = Callable[[str], Count | None]


@dataclass(frozen=True)
class Job:
    """A job that a GPU works on.

    Attributes:
        kind: One of `KINDS`.
        backbone: Whose network.
        dataset: Whose images; the target, where source images take part too.
        images: Images that pass the network, every view of them; None where nothing says how many the
            dataset has.
        forwards: The same in forward passes of one image, of which training takes three.
        folder: Where its timings will be, below the results; empty where it keeps none.
        settings: What it is told, as its timings record it.
    """

    kind: str
    backbone: str
    dataset: str
    images: float | None
    forwards: float | None
    folder: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def gpu_jobs(resolver: Resolver, counts: Counts) -> list[Job]:
    """Every job of a fresh run of the config, in the order of `KINDS`.

    Where a search decides a setting, the recipe's own value stands for it, and of successive halving any
    trials go on. Evaluation on held-out parts is left out: a few percent, which timings leave out as well.

    Args:
        resolver: Of the config.
        counts: Images of a dataset.
    """
    kinds = (_pretraining, _features, _initialisations, _trials, _runs, _floor_features, _mixtures, _gaps)
    return [job for kind in kinds for job in kind(resolver, counts)]


def trained_images(
    training: Mapping[str, Any], count: int, share: tuple[float, float] = (0, 1), until: float = 1.0
) -> tuple[int, int]:
    """Images that a share of a budget trains on, and the batches that they come in.

    Args:
        training: ``budget``, ``batch_size``, ``accumulate``.
        count: Images of an epoch.
        share: From and to.
        until: Where a training that goes on stops, as a share of the whole budget.

    Raises:
        PipelineError: If the share holds no step.
    """
    size, accumulate = training["batch_size"], training["accumulate"]
    batches = Shuffled(count, size, seed=0).batches
    window = Window.of_budget(training["budget"], batches, accumulate, share).until(until)
    epochs, steps = divmod(window.last - window.first, window.per_epoch)
    rest = steps * accumulate
    # A last batch of a single image is left out.
    return epochs * min(count, batches * size) + rest * size, epochs * batches + rest


def _pretraining(resolver: Resolver, counts: Counts) -> Iterator[Job]:
    config = resolver.config
    names = [name for section, name, _ in resolver.used_entries() if section == "backbones"]
    origins = dict.fromkeys(getattr(config.backbones[name], "of", name) for name in names)
    for name in origins:
        entry = config.backbones[name]
        if not isinstance(entry, PretrainedHere):
            continue
        settings, count = resolver.weights_settings(name), counts(entry.dataset)
        views = importlib.import_module(f"pipeline.pretraining.{entry.method.name}").VIEWS
        images = count and trained_images(settings["method"], count.parts["train"])[0]
        # The momentum encoder's views pass it forward only.
        forwards = None if images is None else images * (TRAINED + views - 1)
        folder = f"backbones/{name}"
        yield Job(PRETRAINING, name, entry.dataset, images and images * views, forwards, folder, settings)


def _features(resolver: Resolver, counts: Counts) -> Iterator[Job]:
    """The shards of every dataset whose units a ranking reads, or whose features are classified or drawn."""
    config, rankings = resolver.config, resolver.config.rankings()
    pairs = dict.fromkeys((r.backbone, name) for r in rankings for name in (r.source, r.target))
    pairs |= dict.fromkeys(pair for pair in _classified(config) if has_features(config, pair[0]))
    for backbone, name in pairs:
        entry = resolver.config.datasets[name]
        if isinstance(entry, ClassMeans):
            continue
        count = counts(name)
        images = count and sum(count.parts.values()) / entry.shards
        yield from [Job(FEATURES, backbone, name, images, images)] * entry.shards


def _classified(config: Config) -> list[tuple[str, str]]:
    """Backbones and targets whose features floors classify, or figures show."""
    pairs = [(floor.backbone, floor.target) for floor in floors(config)]
    return list(dict.fromkeys([*pairs, *((run.backbone, run.target) for run in config.mapped())]))


def _floor_features(resolver: Resolver, counts: Counts) -> Iterator[Job]:
    """Penultimate features of targets, where others are cached."""
    for backbone, target in _classified(resolver.config):
        if not has_features(resolver.config, backbone):
            count = counts(target)
            images = count and sum(count.parts.values())
            yield Job(FLOOR_FEATURES, backbone, target, images, images)


def _mixtures(resolver: Resolver, counts: Counts) -> Iterator[Job]:
    """Predictions by each mixture and both ends, and by the chosen one again."""
    for floor in floors(resolver.config):
        if floor.run is not None:
            settings, count = interpolation_settings(resolver.config, floor.run), counts(floor.target)
            passes = len(settings["interpolation"]) + 3
            images = count and passes * count.of(settings["predict"])
            yield Job(INTERPOLATION, floor.backbone, floor.target, images, images)


def _initialisations(resolver: Resolver, counts: Counts) -> Iterator[Job]:
    """First stages; equal ones of several recipes are one job."""
    made: set[str] = set()
    for run, trial in resolver.trained():
        stage = resolver.stage(run, trial)
        if stage is None:
            continue
        folder = f"initialisations/{run.backbone}/{run.target}/{stage.key}/seed{run.seed}"
        if folder in made:
            continue
        made.add(folder)
        settings = {**stage.settings, "seed": run.seed}
        images = _initialised_images(settings, counts(run.target))
        # A linear probe passes the backbone forward only.
        passes = 1 if settings["initialise"]["name"] == "linear_probe" else TRAINED
        forwards = images and passes * images
        yield Job(INITIALISATION, run.backbone, run.target, images, forwards, folder, settings)


def _initialised_images(settings: Mapping[str, Any], count: Count | None) -> int | None:
    """Images that a first stage trains on: none where it takes no share of the budget."""
    if "share" not in settings["initialise"]:
        return 0
    share = (0, settings["initialise"]["share"])
    return count and trained_images(settings, count.of(settings["fit_on"]), share)[0]


def _trials(resolver: Resolver, counts: Counts) -> Iterator[Job]:
    """The trials of every search; in rungs where they are halved."""
    for run in _searches(resolver):
        keys = (run.backbone, run.target, run.selection, run.recipe)
        trials, rungs = list(resolver.trials(run.recipe)), resolver.rungs(run.recipe)
        folder = "/".join(("searches", *keys))
        if not rungs:
            for trial in trials:
                settings = resolver.trial_settings(run, trial)
                yield _finetuning(TRIALS, settings, f"{folder}/{trial}", counts)
        before = 0.0
        for number, rung in enumerate(rungs):
            for trial in trials[: rung.trials]:
                settings = resolver.trial_settings(run, trial, number)
                # The timings of a later rung hold those of the rungs before.
                place = "" if number else f"{folder}/{trial}/rung0"
                yield _finetuning(TRIALS, settings, place, counts, before)
            before = rung.share


def _searches(resolver: Resolver) -> list[Run]:
    """What each search trains: those of the recipes that run, and of those that they take settings from."""
    recipes = resolver.config.recipes
    searches: dict[tuple[str, str, str, str], None] = {}
    for run in resolver.config.runs():
        take = recipes[run.recipe].take
        if take:
            searches[run.backbone, run.target, NO_SELECTION, take.recipe] = None
        if recipes[run.recipe].search:
            searches[run.backbone, run.target, run.selection, run.recipe] = None
    return [resolver.trial_run(*keys) for keys in searches]


def jobs_after_rankings(resolver: Resolver) -> int:
    """Trials of later rungs, which no dry run knows of."""
    return sum(rung.trials for run in _searches(resolver) for rung in resolver.rungs(run.recipe)[1:])


def _gaps(resolver: Resolver, counts: Counts) -> Iterator[Job]:
    """The domain gaps along runs: gradients, and the features that heads are fitted on."""
    for gap in resolver.gaps():
        run, settings = gap.run, gap.settings
        target, source = counts(run.target), counts(gap.source)
        if target is None or source is None:
            yield Job(GAPS, run.backbone, run.target, None, None)
            continue
        kind = importlib.import_module(f"pipeline.reuse.{resolver.config.recipes[gap.recipe].reuse.name}")
        held_out = target.of(["test"]) // settings.batches * settings.batches
        drawn = settings.batches * settings.batch_size * kind.VIEWS * len(gap.selections)
        fitted = sum(_head_images(resolver, gap, name, source) for name in gap.selections * kind.LABELLED)
        # At the start and the end beside the epochs that are kept; at the start the target's head too.
        times = 2 + len(resolver.config.recipes[run.recipe].keep_epochs)
        classes = resolver.config.datasets[run.target].classes
        own = _at_most(settings.head_images, classes, target)
        images = times * (held_out + drawn + fitted) + own
        forwards = times * (TRAINED * (held_out + drawn) + fitted) + own
        yield Job(GAPS, run.backbone, run.target, images, forwards)


def _head_images(resolver: Resolver, gap: Gap, name: str, source: Count) -> int:
    """Images that a head for a selection is fitted on."""
    selection = resolver.config.selections[name]
    classes = resolver.config.datasets[gap.source].classes
    if isinstance(selection.units, Classes):
        classes = getattr(selection, "count", None) or classes
    return _at_most(gap.settings.head_images, classes, source)


def _at_most(each: int, classes: int | None, count: Count) -> int:
    """So many training images of each class; all where nothing says how many classes there are."""
    images = count.of(["train"])
    return images if classes is None else min(images, each * classes)


def _runs(resolver: Resolver, counts: Counts) -> Iterator[Job]:
    for run in resolver.config.runs():
        keys = (run.backbone, run.target, run.selection, run.recipe, f"seed{run.seed}")
        yield _finetuning(FINETUNING, resolver.finetuning_settings(run), "/".join(("runs", *keys)), counts)


def reused_views(name: str) -> int:
    """How many views of a source image a kind of reuse takes."""
    views: int = importlib.import_module(f"pipeline.reuse.{name}").VIEWS
    return views


def _finetuning(kind: str, settings: dict[str, Any], folder: str, counts: Counts, before: float = 0.0) -> Job:
    """Training on the target, and as many source images in a batch unless told.

    `before` is the share of the budget that was trained already.
    """
    backbone, target = settings["run"]["backbone"], settings["run"]["target"]
    count, reuse = counts(target), settings["reuse"]
    if count is None:
        return Job(kind, backbone, target, None, None, folder, settings)
    share = settings["initialise"].get("share", 0), 1
    fitted = count.of(settings["fit_on"])
    images, batches = trained_images(settings, fitted, share, settings["until"])
    if before:
        done, batches_done = trained_images(settings, fitted, share, before)
        images, batches = images - done, batches - batches_done
    if reuse["name"] != "none":
        source = batches * reuse["batch_size"] if reuse["batch_size"] else images
        images += reused_views(reuse["name"]) * source
    passes = 1 if settings["trainable"] == "head" else TRAINED
    return Job(kind, backbone, target, images, passes * images, folder, settings)
