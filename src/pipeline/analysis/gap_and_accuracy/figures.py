"""Accuracy against the domain gap, and the gap along fine-tuning, as SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.figures import STYLE, save_svg

Row = Mapping[str, Any]
LABELS = {"gap": "gap δ²", "difference": "difference of means Δ²"}


def draw(folder: Path, rows: Sequence[Row], main_metric: Mapping[str, str]) -> None:
    """Draw both figures for each backbone, target and recipe.

    Args:
        folder: Gets ``backbone/target/recipe_accuracy.svg`` where runs have reused what is measured, and
            ``backbone/target/recipe_epochs.svg``.
        rows: Of the gap_and_accuracy table.
        main_metric: The metric of each target.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["backbone"], row["target"], row["recipe"]), []).append(row)
    with matplotlib.rc_context(STYLE):
        for (backbone, target, recipe), some in groups.items():
            title = f"{recipe}: {backbone} on {target}"
            base = folder / backbone / target
            if some[0]["accuracy"] is not None:
                save_svg(_against_accuracy(some, title, main_metric[target]), base / f"{recipe}_accuracy.svg")
            save_svg(_along_epochs(some, title), base / f"{recipe}_epochs.svg")


def _against_accuracy(rows: Sequence[Row], title: str, metric: str) -> Figure:
    """One point for each selection; a column of panels for the start, one for the end."""
    epochs = sorted({row["epoch"] for row in rows})
    figure = Figure(figsize=(4.5 * len(epochs), 7), layout="constrained")
    for panel, axes in zip(_panels(epochs), figure.subplots(2, len(epochs), squeeze=False).flat, strict=True):
        name, epoch = panel
        points = [row for row in rows if row["epoch"] == epoch]
        for colour, row in zip(_colours(points), points, strict=True):
            x, y = row[name], row["accuracy"]
            axes.errorbar(
                x, y, xerr=row[f"{name}_error"], yerr=row["accuracy_error"], fmt="o", color=colour, capsize=2
            )
            axes.annotate(row["measured"], (x, y), xytext=(4, 4), textcoords="offset points", fontsize=9)
        axes.set_xlabel(f"{LABELS[name]} after epoch {epoch}")
        axes.set_ylabel(f"test {metric}")
    figure.suptitle(title)
    return figure


def _panels(epochs: Sequence[int]) -> list[tuple[str, int]]:
    return [(name, epoch) for name in LABELS for epoch in epochs]


def _along_epochs(rows: Sequence[Row], title: str) -> Figure:
    """One line for each selection."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for name, axes in zip(LABELS, figure.subplots(1, 2), strict=True):
        _lines(axes, rows, name)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", title="selection")
    figure.suptitle(title)
    return figure


def _lines(axes: Axes, rows: Sequence[Row], name: str) -> None:
    selections = list(dict.fromkeys(row["measured"] for row in rows))
    for colour, selection in zip(_colours(selections), selections, strict=True):
        line = sorted((row for row in rows if row["measured"] == selection), key=lambda row: row["epoch"])
        axes.errorbar(
            [row["epoch"] for row in line],
            [row[name] for row in line],
            yerr=[row[f"{name}_error"] for row in line],
            marker="o",
            capsize=2,
            color=colour,
            label=selection,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(LABELS[name])


def _colours(items: Sequence[Any]) -> list[Any]:
    """From dark to light in the order of the items, which for parts of a ranking is theirs."""
    last = max(1, len(items) - 1)
    return [matplotlib.colormaps["viridis"](0.85 * number / last) for number in range(len(items))]
