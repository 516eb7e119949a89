"""What selections pick, and recall as epsilon_c changes, as SVG (UOT paper, Figures 2b and 4a)."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from pipeline.figures import STYLE, save_svg
from pipeline.recall.measure import Experiments, Keys, Ranking, Recall

# Okabe and Ito's colours, told apart by most colour-blind readers; the grey is for all other concepts.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d"]
OTHERS = "#c8c8c8"
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
# How each method's score is shown as the length of a bar; scores of the others are no similarity.
AXES = {
    "uot": "mass P1, largest = 1",
    "greedy_ot": "mean distance to the target's classes",
    "nearest": "distance to the nearest target class",
}


class Sweep(NamedTuple):
    """Recall of selections that differ in epsilon_c only.

    Attributes:
        label: Backbone and distance, with the first selection's name where these do not tell it apart.
        epsilon_c: Increasing, float64 (n,).
        percent: float64 (n,).
    """

    label: str
    epsilon_c: np.ndarray
    percent: np.ndarray


def draw(folder: Path, experiments: Experiments) -> None:
    """Draw every ranking by similarity, and one figure of all sweeps of epsilon_c where there are any.

    Args:
        folder: Gets ``backbone/source/target/selection.svg`` and ``epsilon_c.svg``.
        experiments: What was found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recalls = [recall for _, some in experiments for recall in some]
    wanted: dict[Keys, dict[str, None]] = {}
    rankings = {recall.ranking.keys: recall.ranking for recall in recalls}
    for recall in recalls:
        wanted.setdefault(recall.ranking.keys, {})[recall.concept] = None
    with matplotlib.rc_context(STYLE):
        for keys, ranking in rankings.items():
            if ranking.settings["method"] in AXES:
                path = folder / keys.backbone / keys.source / keys.target / f"{keys.selection}.svg"
                save_svg(_bars(ranking, list(wanted[keys])), path)
        panels = _sweeps_by_panel(recalls)
        if panels:
            save_svg(_lines(panels), folder / "epsilon_c.svg")


def lengths(ranking: Ranking) -> np.ndarray:
    """The bar of each selected unit in rank order, (K,): mass relative to the largest, or distance."""
    scores = ranking.scores[ranking.selected]
    return np.exp(scores - scores.max()) if ranking.settings["method"] == "uot" else -scores


def coloured(concepts: Sequence[str | None], wanted: Sequence[str]) -> dict[str, str]:
    """The colour of each concept that gets one: those wanted, then the most common of the others.

    Args:
        concepts: Of all units of the source, so that every figure of one source has the same colours.
        wanted: The concepts whose recall is told.
    """
    common = Counter(concept for concept in concepts if concept is not None and concept not in wanted)
    others = [concept for concept, _ in sorted(common.items(), key=lambda item: (-item[1], item[0]))]
    return dict(zip([*wanted, *others], COLOURS, strict=False))


def sweeps(recalls: Sequence[Recall]) -> list[Sweep]:
    """The lines of one panel, whose recalls are of one source, target and concept."""
    groups: dict[tuple[str, str], dict[float, Recall]] = {}
    for recall in recalls:
        settings = recall.ranking.settings
        if "epsilon_c" in settings:
            rest = json.dumps({k: v for k, v in settings.items() if k != "epsilon_c"}, sort_keys=True)
            line = groups.setdefault((recall.ranking.keys.backbone, rest), {})
            line.setdefault(settings["epsilon_c"], recall)
    lines = {key: dict(sorted(line.items())) for key, line in groups.items() if len(line) > 1}
    labels = {key: f"{key[0]}, {json.loads(key[1])['distance']}" for key in lines}
    twice = {label for label, times in Counter(labels.values()).items() if times > 1}
    return [
        Sweep(
            labels[key] + (f" ({_first(line).ranking.keys.selection})" if labels[key] in twice else ""),
            np.array(list(line)),
            np.array([recall.percent for recall in line.values()]),
        )
        for key, line in lines.items()
    ]


def _first(line: Mapping[float, Recall]) -> Recall:
    return next(iter(line.values()))


def _sweeps_by_panel(recalls: Sequence[Recall]) -> dict[str, list[Sweep]]:
    panels: dict[tuple[str, str, str], list[Recall]] = {}
    for recall in recalls:
        keys = recall.ranking.keys
        panels.setdefault((keys.target, keys.source, recall.concept), []).append(recall)
    found = {
        f"{concept} classes of {source} for {target}": sweeps(some)
        for (target, source, concept), some in panels.items()
    }
    return {title: lines for title, lines in found.items() if lines}


def _bars(ranking: Ranking, wanted: Sequence[str]) -> Figure:
    """Figure 2b: the selected units in rank order, coloured by concept; below them a strip of the same."""
    values = lengths(ranking)
    concepts = [concept for concept, chosen in zip(ranking.concepts, ranking.selected, strict=True) if chosen]
    colours = coloured(ranking.concepts, wanted)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    shown = [colours.get(concept or "", OTHERS) for concept in concepts]
    ranks = np.arange(1, len(values) + 1)
    axes.bar(ranks, values, width=1.0, color=shown, linewidth=0)
    # A strip below, since bars of little mass show no colour.
    axes.bar(ranks, np.full(len(values), -0.06 * values.max()), width=1.0, color=shown, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlim(0.5, len(values) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rank")
    axes.set_ylabel(AXES[ranking.settings["method"]])
    keys = ranking.keys
    axes.set_title(f"{keys.selection}: {keys.source} for {keys.target}, by {keys.backbone}", loc="left")
    _legend(axes, colours, wanted, concepts, ranking.concepts)
    return figure


def _legend(
    axes: Axes,
    colours: Mapping[str, str],
    wanted: Sequence[str],
    chosen: Sequence[str | None],
    ranked: Sequence[str | None],
) -> None:
    """The concepts that are wanted or selected, with how many of their units are selected."""
    selected, whole = Counter(chosen), Counter(ranked)
    handles = [
        Patch(color=colour, label=f"{concept}: {selected[concept]} of {whole[concept]}")
        for concept, colour in colours.items()
        if selected[concept] or concept in wanted
    ]
    rest = sum(count for concept, count in selected.items() if concept not in colours)
    if rest:
        handles.append(Patch(color=OTHERS, label=f"further concepts: {rest}"))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _lines(panels: Mapping[str, Sequence[Sweep]]) -> Figure:
    """Figure 4a: recall against epsilon_c, a panel for each target and concept."""
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.6 * rows), layout="constrained")
    for number, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        for place, line in enumerate(lines):
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            axes.plot(
                line.epsilon_c, line.percent, label=line.label, color=colour, marker=marker, markersize=5
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(0, 104)
        axes.set_xlabel("epsilon_c")
        axes.set_ylabel("recall in %")
        axes.set_title(title, loc="left")
        axes.grid(axis="y", alpha=0.4)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
