"""What no single section can know: names that no entry has, and combinations that cannot work."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any, TypeGuard

from pipeline.config.analysis import FeatureMap
from pipeline.config.backbones import AnyBackbone, Elsewhere, KeptEpoch, PretrainedHere
from pipeline.config.claims import AnyClaim
from pipeline.config.datasets import PLACEHOLDER, ClassMeans, is_labelled
from pipeline.config.model import NO_SELECTION, Config, Experiment
from pipeline.config.objectives import CoTuning
from pipeline.config.pairing import unpaired
from pipeline.config.recipes import Recipe
from pipeline.config.reuse import LabelledReuse
from pipeline.config.runs import Gap, Run
from pipeline.config.selections import Classes, Label
from pipeline.errors import did_you_mean

Path = tuple[str | int, ...]
Problem = tuple[Path, str]


def dangling(config: Config) -> Iterator[Problem]:
    """Key path and message of every name that no entry has."""
    for name, backbone in config.backbones.items():
        path = ("backbones", name)
        if isinstance(backbone, PretrainedHere):
            yield from _unknown((*path, "dataset"), [backbone.dataset], config.datasets, "dataset")
        if isinstance(backbone, KeptEpoch):
            yield from _unknown((*path, "of"), [backbone.of], config.backbones, "backbone")
    for name, recipe in config.recipes.items():
        yield from _unknown_deciders(config, ("recipes", name), recipe)
    for index, experiment in enumerate(config.experiments):
        sources = [experiment.source] if experiment.source is not None else []
        named: list[tuple[str, list[str], Mapping[str, Any], str]] = [
            ("backbones", experiment.backbones, config.backbones, "backbone"),
            ("source", sources, config.datasets, "dataset"),
            ("targets", experiment.targets, config.datasets, "dataset"),
            ("selections", experiment.selections, config.selections, "selection"),
            ("recipes", experiment.recipes, config.recipes, "recipe"),
        ]
        for key, names, entries, kind in named:
            yield from _unknown(("experiments", index, key), names, entries, kind)
    for index, claim in enumerate(config.claims.questions):
        yield from _unknown_in_claim(config, ("claims", "questions", index), claim)


def _unknown_deciders(config: Config, path: Path, recipe: Recipe) -> Iterator[Problem]:
    """Names that a recipe's `take` and `tuned` give and no entry has."""
    if recipe.take:
        yield from _unknown((*path, "take", "recipe"), [recipe.take.recipe], config.recipes, "recipe")
    for index, tuned in enumerate(recipe.tuned):
        named: list[tuple[str, str | None, Mapping[str, Any]]] = [
            ("backbone", tuned.backbone, config.backbones),
            ("target", tuned.target, config.datasets),
            ("selection", tuned.selection, config.selections),
        ]
        for kind, name, entries in named:
            if name is not None:
                yield from _unknown((*path, "tuned", index, kind), [name], entries, kind)


def _unknown_in_claim(config: Config, path: Path, claim: AnyClaim) -> Iterator[Problem]:
    yield from _unknown((*path, "backbone"), [claim.backbone], config.backbones, "backbone")
    yield from _unknown((*path, "targets"), claim.targets, config.datasets, "dataset")
    for key, arm in (("better", claim.better), ("baseline", claim.baseline)):
        yield from _unknown((*path, key, "recipe"), [arm.recipe], config.recipes, "recipe")
        yield from _unknown((*path, key, "selections"), arm.selections, config.selections, "selection")


def impossible(config: Config) -> Iterator[Problem]:
    """Key path and message of every combination that cannot work; all names must be known."""
    if NO_SELECTION in config.selections:
        yield ("selections", NO_SELECTION), "this name stands for runs without reuse; take another"
    for name in config.backbones:
        yield from _bad_backbone(config, name)
    for name in config.recipes:
        yield from _bad_take(config, name)
    for index, experiment in enumerate(config.experiments):
        path = ("experiments", index)
        yield from _bad_targets(config, path, experiment)
        yield from _bad_selections(config, path, experiment)
        for backbone in experiment.backbones:
            yield from _bad_objectives(config, path, experiment, backbone)
            yield from _bad_means(config, path, experiment, backbone)
            yield from _bad_reuse(config, path, experiment, backbone)
        yield from _bad_recall(config, path, experiment)
        yield from _bad_domain_gap(config, path, experiment)
        if experiment.feature_map and not experiment.recipes:
            yield (*path, "feature_map"), "this experiment has no recipes, so no run whose features to draw"
    yield from _twice(config)
    for index, claim in enumerate(config.claims.questions):
        for key, message in unpaired(config, claim):
            yield ("claims", "questions", index, key), message
    yield from _measured_in_two_ways(config)
    yield from _drawn_in_two_ways(config)


def _unknown(path: Path, names: Iterable[str], entries: Mapping[str, Any], kind: str) -> Iterator[Problem]:
    for name in names:
        if name not in entries:
            defined = ", ".join(entries) or "none"
            yield path, f"no {kind} is named {name!r}; defined: {defined}{did_you_mean(name, entries)}"


def _bad_backbone(config: Config, name: str) -> Iterator[Problem]:
    path, backbone = ("backbones", name), config.backbones[name]
    if isinstance(backbone, KeptEpoch):
        origin = config.backbones[backbone.of]
        if not isinstance(origin, PretrainedHere):
            message = f"backbone {backbone.of!r} is not pre-trained here, so it keeps no epochs"
            yield (*path, "of"), message
            return
        if backbone.epoch not in origin.keep_epochs:
            kept = ", ".join(map(str, origin.keep_epochs)) or "none"
            yield (*path, "epoch"), f"{backbone.of!r} does not keep epoch {backbone.epoch}; it keeps: {kept}"
    if isinstance(backbone, Elsewhere):
        return
    if isinstance(backbone, PretrainedHere) and isinstance(config.datasets[backbone.dataset], ClassMeans):
        message = f"found {backbone.dataset!r}, which has class means and no images to pre-train on"
        yield (*path, "dataset"), message
    if _is_supervised(backbone) and not is_labelled(config.datasets[backbone.dataset]):
        message = f"supervised pre-training needs labels, and dataset {backbone.dataset!r} has none"
        yield (*path, "method"), message
    if backbone.feature_layer == "projection" and not _has_projection(config, name):
        yield (*path, "feature_layer"), "found 'projection', and this backbone has no projection head"


def _bad_take(config: Config, name: str) -> Iterator[Problem]:
    """What a recipe takes from another's search must be decided there, and without a selection."""
    take = config.recipes[name].take
    if take is None:
        return
    path, other = ("recipes", name, "take"), config.recipes[take.recipe]
    if other.search is None:
        yield (*path, "recipe"), f"recipe {take.recipe!r} has no search to take from"
        return
    if other.take is not None or other.reuse.name != "none":
        which = "takes settings itself" if other.take else "reuses source data"
        yield (*path, "recipe"), f"recipe {take.recipe!r} {which}; take from one that does not"
    for key in take.keys:
        if key not in other.search.grid:
            found = ", ".join(other.search.grid)
            message = f"recipe {take.recipe!r} does not search {key!r}; it searches {found}"
            yield (*path, "keys"), message + did_you_mean(key, other.search.grid)


def _bad_targets(config: Config, path: Path, experiment: Experiment) -> Iterator[Problem]:
    for target in experiment.targets:
        if not is_labelled(config.datasets[target]):
            yield (*path, "targets"), f"target {target!r} has no labels to fine-tune on"


def _bad_selections(config: Config, path: Path, experiment: Experiment) -> Iterator[Problem]:
    if not experiment.recipes:
        yield from _bad_without_recipes(path, experiment)
        return
    reusing = config.reusing(experiment)
    if reusing and not experiment.selections:
        message = f"recipe {reusing[0]!r} reuses source data, and no selection is named"
        yield (*path, "selections"), message
    if experiment.selections and not reusing:
        yield (*path, "selections"), "no recipe of this experiment reuses source data"


def _bad_objectives(config: Config, path: Path, experiment: Experiment, backbone: str) -> Iterator[Problem]:
    for recipe in experiment.recipes:
        if isinstance(config.recipes[recipe].objective, CoTuning) and _lacks_head(config, backbone):
            message = (
                f"recipe {recipe!r} trains the head of pre-training (objective co_tuning), and backbone "
                f"{backbone!r} has none"
            )
            yield (*path, "recipes"), message


def _bad_without_recipes(path: Path, experiment: Experiment) -> Iterator[Problem]:
    if not experiment.selections:
        yield path, "found neither recipes nor selections; without recipes an experiment only selects"
    if "seeds" in experiment.model_fields_set:
        yield (*path, "seeds"), "seeds are of recipes, and this experiment has none"


def _bad_means(config: Config, path: Path, experiment: Experiment, backbone: str) -> Iterator[Problem]:
    """Class means go with backbones that are elsewhere, and with nothing that needs images."""
    elsewhere = isinstance(config.backbones[backbone], Elsewhere)
    named = [("targets", target) for target in experiment.targets]
    named += [("source", experiment.source)] if experiment.source is not None else []
    for key, name in named:
        dataset = config.datasets[name]
        if elsewhere and not isinstance(dataset, ClassMeans):
            message = f"backbone {backbone!r} is elsewhere, and dataset {name!r} has images"
            yield (*path, key), f"{message}; name class means that it made (format: class_means)"
        if isinstance(dataset, ClassMeans):
            if not elsewhere:
                message = f"dataset {name!r} has class means and no images for backbone {backbone!r}"
                yield (*path, key), f"{message}; they go with origin: elsewhere"
            if len(experiment.backbones) > 1 and PLACEHOLDER not in dataset.path:
                message = f"the path of dataset {name!r} has no {PLACEHOLDER}, so it is of one backbone"
                yield (*path, key), f"{message}; found {', '.join(experiment.backbones)}"
    if elsewhere and experiment.recipes:
        message = f"backbone {backbone!r} is elsewhere, so nothing can be fine-tuned; leave recipes out"
        yield (*path, "recipes"), message


def _bad_recall(config: Config, path: Path, experiment: Experiment) -> Iterator[Problem]:
    """Recall counts the source's classes by their concepts."""
    if not experiment.recall:
        return
    if not experiment.selections:
        yield (*path, "recall"), "no selection of this experiment can find a concept"
    for target in experiment.recall:
        if target not in experiment.targets:
            found = ", ".join(experiment.targets)
            yield (*path, "recall"), f"{target!r} is no target of this experiment; found {found}"
    for selection in experiment.selections:
        if not isinstance(config.selections[selection].units, Classes):
            message = f"selection {selection!r} is not over classes, and only classes have concepts"
            yield (*path, "recall"), message
    for source in dict.fromkeys(ranking.source for ranking in config.rankings_of(experiment)):
        if not _has_concepts(config, source):
            yield (*path, "recall"), f"source {source!r} has no concepts; give it a file of them (concepts)"


def _bad_reuse(config: Config, path: Path, experiment: Experiment, backbone: str) -> Iterator[Problem]:
    """What is wrong with reusing the experiment's source, or the backbone's own."""
    reusing = config.reusing(experiment)
    source = experiment.source or config.source_of(backbone)
    if experiment.recipes and not reusing:
        return
    if source is None:
        where = "is elsewhere" if isinstance(config.backbones[backbone], Elsewhere) else "was fetched"
        yield (*path, "source"), f"missing; backbone {backbone!r} {where}, so name the data to reuse"
        return
    for recipe in reusing:
        yield from _bad_recipe(config, path, recipe, backbone, source)
    for selection in experiment.selections:
        yield from _bad_units(config, path, selection, source)


def _bad_recipe(config: Config, path: Path, recipe: str, backbone: str, source: str) -> Iterator[Problem]:
    reuse = config.recipes[recipe].reuse
    if not isinstance(reuse, LabelledReuse):
        return
    if not is_labelled(config.datasets[source]):
        yield (*path, "recipes"), f"recipe {recipe!r} reuses labels, and source {source!r} has none"
    if reuse.head == "pretraining" and not _has_head(config, backbone, source):
        message = (
            f"recipe {recipe!r} starts the source head from pre-training, and backbone {backbone!r} "
            f"has no head for source {source!r}"
        )
        yield (*path, "recipes"), message


def _bad_units(config: Config, path: Path, name: str, source: str) -> Iterator[Problem]:
    selection, dataset = config.selections[name], config.datasets[source]
    if not isinstance(selection.units, Classes):
        if isinstance(dataset, ClassMeans):
            message = f"selection {name!r} is over units of images, and source {source!r} has class means"
            yield (*path, "selections"), f"{message}; use units: {{by: class}}"
        return
    if isinstance(selection, Label) and selection.concepts and not _has_concepts(config, source):
        message = f"selection {name!r} selects concepts, and source {source!r} has none"
        yield (*path, "selections"), f"{message}; give it a file of them (concepts)"
    if not is_labelled(dataset):
        message = (
            f"selection {name!r} selects classes, and source {source!r} has no labels; "
            "use units: {by: cluster} or {by: sample}"
        )
        yield (*path, "selections"), message
    elif dataset.classes is None and selection.last:
        message = (
            f"selection {name!r} selects {selection.count} classes of source {source!r}, and nothing says "
            f"how many that has; write datasets.{source}.classes"
        )
        yield (*path, "selections"), message
    elif dataset.classes is not None and selection.last > dataset.classes:
        skipped = f" after skip {selection.skip}" if selection.skip else ""
        message = (
            f"selection {name!r} wants {selection.count} units{skipped}, and source {source!r} has "
            f"{dataset.classes} classes"
        )
        yield (*path, "selections"), message


def _twice(config: Config) -> Iterator[Problem]:
    """Runs whose results would lie in one folder, and that reuse different sources."""
    first: dict[tuple[Any, ...], tuple[int, Run]] = {}
    for index, experiment in enumerate(config.experiments):
        for run in config.runs_of(experiment):
            keys = tuple(run.keys().values())
            earlier, other = first.setdefault(keys, (index, run))
            if other.source != run.source:
                message = (
                    f"backbone {run.backbone!r}, target {run.target!r}, selection {run.selection!r} and "
                    f"recipe {run.recipe!r} reuse {run.source!r} here and {other.source!r} in "
                    f"experiments[{earlier}]; give one of them another name"
                )
                yield ("experiments", index, "source"), message


def _bad_domain_gap(config: Config, path: Path, experiment: Experiment) -> Iterator[Problem]:
    """The gap is of a loss of reused data, and its gradient must exist."""
    if experiment.domain_gap is None:
        return
    reuses = [config.recipes[name].reuse for name in config.reusing(experiment)]
    kinds = list(dict.fromkeys(reuse.name for reuse in reuses))
    if not kinds:
        yield (*path, "domain_gap"), "the gap is to reused data, and no recipe of this experiment reuses any"
    if len(kinds) > 1:
        message = f"found recipes that reuse data in several ways ({', '.join(kinds)}), whose gaps differ"
        yield (*path, "domain_gap"), f"{message}; make an experiment of each"
    if not any(isinstance(reuse, LabelledReuse) for reuse in reuses):
        return
    for name in experiment.selections:
        selection = config.selections[name]
        if selection.count == 1 and isinstance(selection.units, Classes):
            message = f"selection {name!r} selects one class; a head for it has no loss to measure"
            yield (*path, "domain_gap"), message


def _measured_in_two_ways(config: Config) -> Iterator[Problem]:
    """Runs of several experiments whose gaps would lie in one file and are measured in different ways."""
    first: dict[Run, tuple[int, Gap]] = {}
    for index, experiment in enumerate(config.experiments):
        for gap in config.gaps_of(experiment):
            earlier, other = first.setdefault(gap.run, (index, gap))
            if (other.source, other.recipe, other.settings) != (gap.source, gap.recipe, gap.settings):
                run = gap.run
                message = (
                    f"backbone {run.backbone!r}, target {run.target!r}, selection {run.selection!r} and "
                    f"recipe {run.recipe!r} are measured in another way than in experiments[{earlier}]"
                )
                yield ("experiments", index, "domain_gap"), message
                break


def _drawn_in_two_ways(config: Config) -> Iterator[Problem]:
    """Features that would be panels of one figure and are drawn in different ways."""
    first: dict[tuple[str, str], tuple[int, FeatureMap]] = {}
    for index, experiment in enumerate(config.experiments):
        if experiment.feature_map is None:
            continue
        for pair in product(experiment.backbones, experiment.targets):
            earlier, other = first.setdefault(pair, (index, experiment.feature_map))
            if other != experiment.feature_map:
                message = (
                    f"features by backbone {pair[0]!r} on target {pair[1]!r} are drawn in another way than "
                    f"in experiments[{earlier}], whose figure they share"
                )
                yield ("experiments", index, "feature_map"), message
                break


def _has_concepts(config: Config, source: str) -> bool:
    """Whether classes of a source may have concepts; class means have theirs in their own file."""
    dataset = config.datasets[source]
    return isinstance(dataset, ClassMeans) or dataset.concepts is not None


def _has_head(config: Config, backbone: str, source: str) -> bool:
    """Whether a backbone may have a head for a source; of a fetched one the job compares the classes."""
    entry = config.origin(backbone)
    if isinstance(entry, PretrainedHere):
        return _is_supervised(entry) and entry.dataset == source
    return not _lacks_head(config, backbone)


def _lacks_head(config: Config, backbone: str) -> bool:
    """Whether it is certain that a backbone has no head; of a checkpoint only its file tells."""
    entry = config.origin(backbone)
    if isinstance(entry, PretrainedHere):
        return not _is_supervised(entry)
    return _has_projection(config, backbone)


def _is_supervised(entry: AnyBackbone) -> TypeGuard[PretrainedHere]:
    return isinstance(entry, PretrainedHere) and entry.method.name == "supervised"


def _has_projection(config: Config, backbone: str) -> bool:
    entry = config.origin(backbone)
    holder = entry.method if isinstance(entry, PretrainedHere) else entry
    return getattr(holder, "projection", None) is not None
