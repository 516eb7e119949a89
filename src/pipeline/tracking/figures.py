"""The training curves of one run, as one picture."""

from typing import TYPE_CHECKING

from pipeline.tracking.reading import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves(history: list[Point]) -> "Figure | None":
    """One panel for each metric, one line for each split; None where there is no curve to draw."""
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[Point]]] = {}
    for point in history:
        split, _, metric = point.name.rpartition("/")
        panels.setdefault(metric, {}).setdefault(split, []).append(point)
    if not any(len(line) > 1 for lines in panels.values() for line in lines.values()):
        return None
    width = 4.2 * len(panels)
    figure = Figure(figsize=(width, 3.2))
    # Margins by hand: a layout engine takes longer than the drawing.
    figure.subplots_adjust(left=0.55 / width, right=1 - 0.15 / width, bottom=0.15, top=0.9, wspace=0.2)
    for axes, (metric, lines) in zip(_axes(figure, len(panels)), panels.items(), strict=True):
        for split, line in lines.items():
            axes.plot([point.epoch for point in line], [point.value for point in line], label=split)
        falls = line[-1].value < line[0].value
        axes.set(title=metric, xlabel="epoch")
        axes.grid(alpha=0.25)
        axes.legend(loc="upper right" if falls else "lower right")
    return figure


def _axes(figure: "Figure", count: int) -> "list[Axes]":
    return list(figure.subplots(1, count, squeeze=False)[0])
