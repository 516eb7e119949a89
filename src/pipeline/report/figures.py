"""Training curves as inline SVG that takes its colours and its font from the page.

Nothing in a figure is text from the data; names stand in the page around it.
"""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.data import Curve

# Stands for a colour of the page's style sheet, so that dark mode reaches into figures.
INK, MUTED, RULE = "#010101", "#020202", "#030303"
SERIES = [f"#0401{number:02x}" for number in range(7)]
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES)
}
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
# Points of a curve that the eye can tell apart in a panel.
POINTS = 120
STEPS = [1, 2, 2.5, 5, 10]
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "graftune",
    "font.size": 12,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "path.simplify": False,
}


class Line(NamedTuple):
    """The mean of some curves and how they spread around it.

    Attributes:
        series: Which colour of the page, 0 for the baseline.
        epochs: int (n,).
        mean: (n,).
        deviation: Sample standard deviation, or a standard error, (n,); None of a single curve.
        marked: Whether its points are few and stand for themselves.
        name: A number at its end.
    """

    series: int
    epochs: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray | None
    marked: bool = False
    name: str = ""


class Point(NamedTuple):
    """A point with its standard errors; that of y is None where nothing is known of it.

    Attributes:
        series: Which colour of the page.
        name: A number beside it, or nothing.
        x: Value and error.
        y: Value and error, shares of one.
    """

    series: int
    name: str
    x: tuple[float, float]
    y: tuple[float, float | None]


def mean_line(series: int, curves: Sequence[Curve], marked: bool = False) -> Line:
    """The mean over the epochs that all curves have."""
    epochs = curves[0].epochs
    for curve in curves[1:]:
        epochs = np.intersect1d(epochs, curve.epochs)
    values = np.stack([curve.values[np.searchsorted(curve.epochs, epochs)] for curve in curves])
    kept = np.unique(np.linspace(0, len(epochs) - 1, min(POINTS, len(epochs))).round().astype(int))
    deviation = values.std(0, ddof=1)[kept] if len(curves) > 1 else None
    return Line(series, epochs[kept], values.mean(0)[kept], deviation, marked)


def panel(
    lines: Sequence[Line],
    describes: str,
    identity: str,
    share: bool = False,
    size: tuple[float, float] = (400, 250),
    limits: tuple[float, float] | None = None,
    last: int | None = None,
) -> str:
    """One panel of curves over epochs.

    Args:
        lines: The curves; the later is drawn on top.
        describes: What it shows, for those who cannot see it.
        identity: Sets its ids apart from those of other figures on the page.
        share: Whether values are shares, to be shown in percent.
        size: Width and height in pixels.
        limits: Of the value axis.
        last: The last epoch of the axis.

    Returns:
        An ``<svg>`` element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _empty(size)
        for line in lines:
            _draw(axes, line)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=STEPS))
        _set_epochs(axes, lines, last or max(int(line.epochs.max()) for line in lines))
        if limits:
            axes.set_ylim(*limits)
        if share:
            axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("epoch")
        return _inline(figure, describes, identity)


def scatter(
    points: Sequence[Point], across: str, describes: str, identity: str, size: tuple[float, float]
) -> str:
    """One panel of points with their errors.

    Args:
        points: The points; the later is drawn on top.
        across: What x is.
        describes: What it shows, for those who cannot see it.
        identity: Sets its ids apart from those of other figures on the page.
        size: Width and height in pixels.

    Returns:
        An ``<svg>`` element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _empty(size)
        for point in points:
            _mark(axes, point)
        axes.margins(0.08)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=STEPS))
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel(across)
        return _inline(figure, describes, identity)


def line_plot(
    lines: Sequence[Line], across: str, describes: str, identity: str, size: tuple[float, float]
) -> str:
    """One panel of shares over something from 0 to 1.

    Args:
        lines: The lines, with what they are over as their epochs; the later is drawn on top.
        across: What that is.
        describes: What it shows, for those who cannot see it.
        identity: Sets its ids apart from those of other figures on the page.
        size: Width and height in pixels.

    Returns:
        An ``<svg>`` element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _empty(size)
        for line in lines:
            _draw(axes, line)
        axes.set_xlim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel(across)
        return _inline(figure, describes, identity)


def _empty(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A panel without contents, with the same edges in every figure, so that those side by side align."""
    width, height = size
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((46 / width, 40 / height, (width - 60) / width, (height - 50) / height))
    axes.grid(axis="y", alpha=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=STEPS))
    return figure, axes


def _draw(axes: Axes, line: Line) -> None:
    colour = SERIES[line.series]
    if line.deviation is not None:
        low, high = line.mean - line.deviation, line.mean + line.deviation
        axes.fill_between(line.epochs, low, high, color=colour, alpha=0.12, linewidth=0)
    marker = MARKERS[line.series] if line.marked or len(line.epochs) == 1 else None
    axes.plot(line.epochs, line.mean, color=colour, linewidth=1.8, marker=marker, markersize=5, clip_on=False)


def _set_epochs(axes: Axes, lines: Sequence[Line], last: int) -> None:
    """From 0 to the last epoch, with room for marks at the start and for names at the end."""
    starts = any(line.marked and line.epochs[0] == 0 for line in lines)
    named = sorted((line for line in lines if line.name), key=lambda line: line.mean[-1])
    axes.set_xlim(-0.03 * last if starts else 0, 1.07 * last if named else last)
    heights = _moved_apart([float(line.mean[-1]) for line in named], *axes.get_ylim())
    for line, height in zip(named, heights, strict=True):
        axes.annotate(line.name, (last, height), xytext=(8, 0), textcoords="offset points", va="center")


def _moved_apart(heights: list[float], low: float, high: float) -> list[float]:
    """Ascending heights, each far enough above the one before for its text, and none above `high`."""
    apart = min(0.06, 1 / max(len(heights), 1)) * (high - low)
    for at in range(1, len(heights)):
        heights[at] = max(heights[at], heights[at - 1] + apart)
    for at in reversed(range(len(heights))):
        heights[at] = min(heights[at], high - (len(heights) - 1 - at) * apart)
    return heights


def _percent(value: float, _: object) -> str:
    return f"{100 * value:.4g} %"


def _mark(axes: Axes, point: Point) -> None:
    (x, x_error), (y, y_error) = point.x, point.y
    axes.errorbar(
        x,
        y,
        xerr=x_error,
        yerr=y_error,
        fmt=MARKERS[point.series],
        color=SERIES[point.series],
        markersize=6,
        elinewidth=1.2,
    )
    if point.name:
        axes.annotate(point.name, (x, y), xytext=(5, 4), textcoords="offset points")


def _inline(figure: Figure, describes: str, identity: str) -> str:
    """The figure's SVG without what belongs to a file: header, date, fonts, its own style sheet."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    opening = f'<svg class="figure" {box[0]} role="img" aria-label="{escape(describes)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = svg.replace("xlink:href", "href")
    referred = set(re.findall(r'href="#([^"]*)"', svg)) | set(re.findall(r"url\(#([^)]*)\)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{identity}-{m[1]}"' if m[1] in referred else "", svg)
    svg = re.sub(r'(href="#|url\(#)', lambda m: f"{m[1]}{identity}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def value_limits(lines: Sequence[Line]) -> tuple[float, float]:
    """Common limits of panels that are to be compared."""
    low = min(float((line.mean - _spread(line)).min()) for line in lines)
    high = max(float((line.mean + _spread(line)).max()) for line in lines)
    margin = 0.04 * (high - low) or 0.1
    return low - margin, high + margin


def _spread(line: Line) -> np.ndarray:
    return line.deviation if line.deviation is not None else np.zeros_like(line.mean)


def svg_uri(path: Path) -> str:
    """A figure that an earlier step drew, as a data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
