"""One figure for each backbone and target, as SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from pipeline.analysis.feature_map_figures.panels import Panel
from pipeline.figures import STYLE, save_svg

# Told apart by most colour-blind readers (Petroff, "Accessible color sequences for data visualization",
# 2021); then by shapes that differ when they are small.
COLOURS = matplotlib.color_sequences["petroff10"]
MARKERS = ["o", "x", "^", "+"]
# Classes that a legend names; more of them are told apart by nobody.
NAMED = 20
# From this many points in a figure on, they are drawn as pixels: as shapes they would take megabytes.
SHAPES = 4_000
METHODS = {
    "tsne": "t-SNE of each model's features",
    "pca": "principal components of each model's features",
    "none": "each model's features as they are",
}
# How far apart the centres of the two halves of a sphere are drawn.
APART = 2.2


def draw(folder: Path, panels: Sequence[Panel]) -> None:
    """Draw them all.

    Args:
        folder: Gets ``backbone/target.svg``.
        panels: Those of one backbone and target make a figure, in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, str], list[Panel]] = {}
    for panel in panels:
        groups.setdefault((panel.keys["backbone"], panel.keys["target"]), []).append(panel)
    with matplotlib.rc_context({**STYLE, "savefig.dpi": 200}):
        for (backbone, target), some in groups.items():
            save_svg(_figure(some), folder / backbone / f"{target}.svg")


def looks(labels: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Colour and marker of each class, by label, as matplotlib takes them."""
    return {label: _look(*divmod(label, len(COLOURS))) for label in labels}


def _look(turn: int, colour: int) -> dict[str, Any]:
    marker = MARKERS[turn % len(MARKERS)]
    # Crosses are nothing but edges; around other markers an edge would make them larger.
    return {"color": COLOURS[colour], "marker": marker, "markeredgewidth": float(marker in "x+")}


def title_of(panel: Panel) -> str:
    """The recipe with the selection that it reuses, then its numbers, in two lines."""
    keys = panel.keys
    name = "untouched backbone" if keys["recipe"] is None else keys["recipe"]
    name += "" if keys["selection"] in (None, "none") else f" · {keys['selection']}"
    numbers = []
    if panel.accuracy is not None:
        of = f"{panel.measured}: " if keys["recipe"] is None else ""
        numbers.append(f"{of}{panel.metric} {100 * panel.accuracy:.1f} %")
    if panel.s_dbw is not None:
        numbers.append(f"S_Dbw {panel.s_dbw:.2f}")
    if keys["seed"] is not None:
        numbers.append(f"seed {keys['seed']}")
    if panel.variance is not None:
        numbers.append(f"{100 * panel.variance:.0f} % of variance")
    return f"{name}\n{', '.join(numbers)}"


def _figure(panels: Sequence[Panel]) -> Figure:
    """At most three panels in a row, of the sphere's two halves at most two."""
    keys, method, class_names = panels[0].keys, panels[0].method, panels[0].class_names
    sphere = any(panel.points.shape[1] == 3 for panel in panels)
    columns = min(len(panels), 2 if sphere else 3)
    rows = -(-len(panels) // columns)
    width, height = (5.6, 3.4) if sphere else (3.6, 4.0)
    shown = looks(np.unique(np.concatenate([panel.labels for panel in panels])).tolist())
    legend = len(shown) <= NAMED
    figure = Figure(figsize=(width * columns + 1.8 * legend, height * rows + 0.5), layout="constrained")
    pixels = sum(len(panel.labels) for panel in panels) >= SHAPES
    for number, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(rows, columns, number), panel, shown, pixels)
    if legend:
        handles = [Line2D([], [], linestyle="", markersize=6, **look) for look in shown.values()]
        figure.legend(handles, [class_names[label] for label in shown], loc="outside right center")
    figure.suptitle(f"{keys['backbone']} on {keys['target']}\n{METHODS[method]}", fontsize=11)
    return figure


def _draw_panel(axes: Axes, panel: Panel, shown: Mapping[int, Mapping[str, Any]], pixels: bool) -> None:
    """No ticks: of t-SNE distances mean nothing, and networks' features differ in scale."""
    axes.set_title(title_of(panel), loc="left", fontsize=10)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    points = _sphere(axes, panel.points) if panel.points.shape[1] == 3 else _plane(axes, panel.points)
    for label, look in shown.items():
        own = points[panel.labels == label]
        axes.plot(*own.T, linestyle="", markersize=3.5, alpha=0.8, rasterized=pixels, **look)


def _plane(axes: Axes, points: np.ndarray) -> np.ndarray:
    """The points, in a square frame around them."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.54 * float((high - low).max()) or 1.0
    x, y = (low + high) / 2
    axes.set_xlim(x - half, x + half)
    axes.set_ylim(y - half, y + half)
    axes.spines[:].set(visible=True, color="#c8c8c8")
    return points


def _sphere(axes: Axes, points: np.ndarray) -> np.ndarray:
    """Both halves of the unit sphere from outside: z >= 0 on the left, the other half from behind."""
    axes.spines[:].set_visible(False)
    for centre, name in ((0.0, "from the front"), (APART, "from behind")):
        axes.add_patch(Circle((centre, 0), 1, fill=False, edgecolor="#c8c8c8"))
        axes.text(centre, -1.18, name, ha="center", fontsize=9, color="#666666")
    axes.set_xlim(-1.08, APART + 1.08)
    axes.set_ylim(-1.3, 1.08)
    front = points[:, 2] >= 0
    return np.stack([np.where(front, points[:, 0], APART - points[:, 0]), points[:, 1]], axis=1)
