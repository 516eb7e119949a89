"""Put everything together, and write the page."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.report import numbers
from pipeline.report.answers import Comparison, answer, compare_ways, is_beyond_spread, narrowed
from pipeline.report.claims import read_claims
from pipeline.report.curves import learning_curves, pretraining_curves, series_of
from pipeline.report.data import NO_SELECTION, Inputs, Run, read_backbone, read_initialisation, read_run
from pipeline.report.described import described
from pipeline.report.examples import Selection, examples_of_target, read_datasets, read_selection, read_units
from pipeline.report.explanations import read_explanations
from pipeline.report.feature_maps import read_feature_maps
from pipeline.report.floors import read_floors
from pipeline.report.gaps import read_gaps
from pipeline.report.leaks import read_audit
from pipeline.report.ran import what_was_run
from pipeline.report.recalled import read_recall
from pipeline.report.scales import difference_scale, seed_scale
from pipeline.report.searches import read_searches
from pipeline.report.times import costs, stages
from pipeline.tables import atomic_write

# Units shown at each end of a ranking, images of each, and classes of the target.
ENDS, EXAMPLES, CLASSES = 6, 6, 16
# Pairs shown of an audit.
LEAKS = 12


def write_report(inputs: Inputs, output: Path, settings: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
        inputs: What it is made of.
        output: The HTML file.
        settings: ``experiments`` (name, backbones, targets, recipes and selections of each),
            ``main_metric`` by target, ``baselines``, and ``written``: the entries of backbones,
            recipes and selections without defaults.
    """
    atomic_write(output, render(collect(inputs, settings)))


def collect(inputs: Inputs, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template shows."""
    comparisons = compare_ways(
        inputs.comparison, inputs.metrics, settings["main_metric"], settings["baselines"]
    )
    runs = [read_run(folder) for folder in inputs.runs]
    firsts = [read_initialisation(folder) for folder in inputs.initialisations]
    backbones = [read_backbone(folder) for folder in inputs.backbones]
    datasets = read_datasets(inputs)
    units = read_units(inputs.units, datasets)
    explanations = read_explanations(inputs.explanations)
    selections = [read_selection(path, units, explanations, ENDS, EXAMPLES) for path in inputs.selections]
    searches = read_searches(inputs.searches)
    asked = _asked_for(inputs, settings["main_metric"])
    training = learning_curves(comparisons, runs, firsts)
    pretraining = pretraining_curves(backbones)
    return {
        "title": _title(settings["experiments"]),
        "summary": _summary(runs),
        "experiments": [
            (experiment["name"], [answer(part) for part in _parts(comparisons, experiment)])
            for experiment in settings["experiments"]
        ],
        "comparisons": comparisons,
        "has_differences": any(scores.difference for found in comparisons for scores in found.scores),
        "series": {comparison.pair: series_of(comparison) for comparison in comparisons},
        "sections": [
            ("comparison", "Comparison"),
            *([("floors", "Floors")] if inputs.floors else []),
            *([("claims", "Claims")] if asked["claims"] else []),
            *([("searches", "Searches")] if searches else []),
            *([("training", "Training curves")] if training or pretraining else []),
            *([("selections", "Selections")] if selections else []),
            *([("recall", "Recall")] if asked["recall"] else []),
            *([("leaks", "Leaks")] if inputs.leaks else []),
            *([("domain-gap", "Domain gap")] if asked["gaps"] else []),
            *([("feature-maps", "Features in the plane")] if asked["feature_maps"] else []),
            ("ran", "What was run"),
            ("time", "Time"),
        ],
        "floors": read_floors(inputs.floors, comparisons),
        "searches": searches,
        **asked,
        "training": training,
        "pretraining": pretraining,
        "selections": _by_target(selections),
        "target_examples": {
            selection.target: examples_of_target(datasets[selection.target], CLASSES)
            for selection in selections
        },
        "audits": [read_audit(path, datasets, LEAKS) for path in inputs.leaks],
        "ran": what_was_run(
            backbones,
            datasets,
            runs,
            firsts,
            selections,
            units,
            searches,
            asked["recall"],
            inputs,
            settings["written"],
        ),
        "stages": stages(backbones, firsts, searches, runs),
        "costs": costs(firsts, runs),
    }


def _asked_for(inputs: Inputs, main_metric: Mapping[str, str]) -> dict[str, Any]:
    """What the page holds only where the config asks for it."""
    recall = None
    if inputs.recall and inputs.recall_figures:
        recall = read_recall(inputs.recall, inputs.recall_figures)
    feature_maps = None
    if inputs.feature_maps and inputs.feature_map_figures:
        feature_maps = read_feature_maps(inputs.feature_maps, inputs.feature_map_figures)
    return {
        "claims": read_claims(inputs.claims) if inputs.claims else None,
        "recall": recall,
        "gaps": read_gaps(inputs.domain_gap, main_metric) if inputs.domain_gap else [],
        "feature_maps": feature_maps,
    }


def _title(experiments: Sequence[Mapping[str, Any]]) -> str:
    return str(experiments[0]["name"]) if len(experiments) == 1 else f"{len(experiments)} experiments"


def _summary(runs: Sequence[Run]) -> str:
    """How much was run."""

    def some(things: Iterable[str], one: str) -> str:
        found = list(dict.fromkeys(things))
        return found[0] if len(found) == 1 else numbers.plural(len(found), one)

    reused = {run.way.selection for run in runs} - {NO_SELECTION}
    parts = [numbers.plural(len({run.way.recipe for run in runs}), "recipe")]
    parts += [numbers.plural(len(reused), "selection")] if reused else []
    parts.append(numbers.plural(len({run.seed for run in runs}), "seed"))
    targets = some((run.pair.target for run in runs), "target")
    backbones = some((run.pair.backbone for run in runs), "backbone")
    number = numbers.plural(len(runs), "run")
    return f"{number} on {targets}, by {backbones}: {', '.join(parts[:-1])} and {parts[-1]}."


def _parts(comparisons: Sequence[Comparison], experiment: Mapping[str, Any]) -> list[Comparison]:
    found = (narrowed(comparison, experiment) for comparison in comparisons)
    return [part for part in found if part]


def _has_part(comparison: Comparison, part: str) -> bool:
    return any(part in scores.parts for scores in comparison.scores)


def _further_metrics(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Metrics that say something else than the main one, in groups with a title."""
    names = dict.fromkeys(name for scores in comparison.scores for name in scores.others)
    main = {scores.way: scores.parts.get(comparison.part) for scores in comparison.scores}
    telling = [
        name
        for name in names
        if any(scores.others.get(name) != main[scores.way] for scores in comparison.scores)
    ]
    groups = [
        ("Other metrics", [name for name in telling if name not in numbers.OF_FEATURES]),
        ("Features by their true classes", [name for name in telling if name in numbers.OF_FEATURES]),
    ]
    return [(title, group) for title, group in groups if group]


def _by_target(selections: Sequence[Selection]) -> dict[tuple[str, str, str], list[Selection]]:
    grouped: dict[tuple[str, str, str], list[Selection]] = {}
    for selection in selections:
        grouped.setdefault((selection.backbone, selection.source, selection.target), []).append(selection)
    return grouped


def render(context: Mapping[str, Any]) -> str:
    """The page as HTML; every text from the data is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": numbers.number,
        "percent": numbers.percent,
        "value_of": numbers.value_of,
        "metric_name": numbers.metric_name,
        "metric_title": numbers.metric_title,
        "count": numbers.count,
        "described": described,
        "digits": numbers.digits,
        "duration": numbers.duration,
        "plural": numbers.plural,
        "with_error": numbers.with_error,
    }
    environment.tests["on"] = lambda value, scale: scale.holds(value)
    environment.globals |= {
        "difference_scale": difference_scale,
        "further_metrics": _further_metrics,
        "has_part": _has_part,
        "is_beyond_spread": is_beyond_spread,
        "seed_scale": seed_scale,
        "shares": numbers.SHARES,
    }
    return environment.get_template("template.html.j2").render(context)
