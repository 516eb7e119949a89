"""Which curves are drawn, and together with which."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.report.answers import Comparison
from pipeline.report.data import Backbone, Curve, Initialisation, Pair, Run, Training, Way
from pipeline.report.figures import SERIES, Line, mean_line, panel, value_limits

# Up to so many ways share a panel; more get a small one each, beside the baseline.
TOGETHER = len(SERIES)
LARGE, SMALL = (400, 250), (240, 150)


@dataclass(frozen=True)
class Panel:
    """A figure with the words around it, and its own legend where it has one."""

    title: str
    figure: Markup
    note: str = ""
    legend: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Curves:
    """Curves of one pair.

    Attributes:
        pair: The backbone and target.
        legend: Series and way of each line; empty where every way has a panel of its own.
        panels: The large figures.
        small: A small figure for each way, by its name.
    """

    pair: Pair
    legend: list[tuple[int, str]]
    panels: list[Panel]
    small: list[Panel]


def series_of(comparison: Comparison) -> dict[Way, int]:
    """The colour of each way: 0 for the baseline, then in the order of the config."""
    others = sorted(
        (scores for scores in comparison.scores if scores.way != comparison.baseline),
        key=lambda scores: scores.position,
    )
    few = len(others) < TOGETHER
    series = {scores.way: number if few else 1 for number, scores in enumerate(others, 1)}
    return series | ({comparison.baseline: 0} if comparison.baseline else {})


def learning_curves(
    comparisons: Sequence[Comparison], runs: Sequence[Run], firsts: Sequence[Initialisation]
) -> list[Curves]:
    """Curves of fine-tuning, and of the stages before it, for each pair that has any."""
    found = []
    for number, comparison in enumerate(comparisons):
        series = series_of(comparison)
        groups: dict[Way, list[Run]] = {}
        for run in runs:
            if run.pair == comparison.pair and run.way in series:
                groups.setdefault(run.way, []).append(run)
        before = [first for first in firsts if first.pair == comparison.pair]
        if groups:
            found.append(_curves(comparison, series, groups, before, f"c{number}"))
    return found


def _curves(
    comparison: Comparison,
    series: dict[Way, int],
    groups: dict[Way, list[Run]],
    firsts: Sequence[Initialisation],
    identity: str,
) -> Curves:
    last = max(int(run.history[_loss(run)].epochs.max()) for group in groups.values() for run in group)
    loss = {
        way: _line(series[way], [run.history[_loss(run)] for run in group]) for way, group in groups.items()
    }
    validated = {
        way: [run.history[key] for run in group if (key := ("validation", "top1")) in run.history]
        for way, group in groups.items()
    }
    accuracy = {way: _line(series[way], curves, True) for way, curves in validated.items() if curves}
    if len(series) > TOGETHER:
        shown = accuracy or loss
        small = _small(shown, comparison.baseline, bool(accuracy), last, identity)
        return Curves(comparison.pair, [], [], small)
    order = sorted(groups, key=lambda way: -series[way])
    panels = []
    if accuracy:
        lines = [accuracy[way] for way in order if way in accuracy]
        panels.append(_panel("Validation accuracy", lines, f"{identity}-accuracy", True, last))
    late = any(line.epochs[0] > 1 for line in loss.values())
    note = "a line that starts late follows a first stage" if late else ""
    lines = [loss[way] for way in order]
    panels.append(_panel("Training loss on the target", lines, f"{identity}-loss", False, last, note))
    panels += _first_stages(firsts, groups, series, f"{identity}-first")
    legend = [(series[way], str(way)) for way in sorted(groups, key=lambda way: series[way])]
    return Curves(comparison.pair, legend, panels, [])


def _loss(run: Run) -> tuple[str, str]:
    """The loss on the target alone, where reused data add a loss of their own."""
    target = ("train", "objective")
    return target if target in run.history else ("train", "loss")


def _line(series: int, curves: Sequence[Curve], marked: bool = False) -> Line:
    return mean_line(series, curves, marked)


def _panel(
    title: str,
    lines: Sequence[Line],
    identity: str,
    share: bool,
    last: int | None = None,
    note: str = "",
    legend: tuple[tuple[int, str], ...] = (),
) -> Panel:
    return Panel(
        title, markup(panel(lines, f"{title} over epochs", identity, share, LARGE, last=last)), note, legend
    )


def markup(figure: str) -> Markup:
    """A figure of this report, to be shown as it is."""
    return Markup(figure)  # noqa: S704 - made here, and no text of the data is in it


def _first_stages(
    firsts: Sequence[Initialisation],
    groups: dict[Way, list[Run]],
    series: dict[Way, int],
    identity: str,
) -> list[Panel]:
    """The loss of each first stage, in the colour of the first recipe that goes on from it."""
    panels = []
    stages: dict[str, list[Initialisation]] = {}
    for first in firsts:
        if ("train", "loss") in first.history:  # noise on the weights is no training
            stages.setdefault(first.name, []).append(first)
    for number, (name, stage) in enumerate(stages.items()):
        made = {first.digest for first in stage}
        way = next(
            (
                way
                for way, group in groups.items()
                if made & {run.record.inputs.get("weights") for run in group}
            ),
            None,
        )
        line = _line(series.get(way, 1) if way else 1, [first.history["train", "loss"] for first in stage])
        title = f"Loss of the first stage, {name}"
        panels.append(_panel(title, [line], f"{identity}{number}", False))
    return panels


def _small(
    lines: dict[Way, Line], baseline: Way | None, share: bool, last: int, identity: str
) -> list[Panel]:
    behind = [lines[baseline]] if baseline in lines else []
    limits = value_limits(list(lines.values()))
    what = "Validation accuracy" if share else "Training loss on the target"
    return [
        Panel(
            str(way),
            markup(panel([*behind, line], what, f"{identity}-{number}", share, SMALL, limits, last)),
            what,
        )
        for number, (way, line) in enumerate(lines.items())
        if way != baseline
    ]


def pretraining_curves(backbones: Sequence[Backbone]) -> list[tuple[str, list[Panel]]]:
    """Loss and accuracy of each backbone that was pre-trained here."""
    return [
        (backbone.name, _pretraining(backbone.training, f"p{number}"))
        for number, backbone in enumerate(backbones)
        if backbone.training
    ]


def _pretraining(training: Training, identity: str) -> list[Panel]:
    history = training.history
    loss = [mean_line(1, [history["train", "loss"]])]
    splits = [
        (series, split) for series, split in ((0, "train"), (1, "validation")) if (split, "top1") in history
    ]
    panels = [_panel("Training loss", loss, f"{identity}-loss", False)]
    if splits:
        accuracy = [mean_line(n, [history[split, "top1"]], split == "validation") for n, split in splits]
        named = tuple((n, "training" if split == "train" else split) for n, split in splits)
        panels.insert(0, _panel("Accuracy", accuracy, f"{identity}-accuracy", True, legend=named))
    return panels
