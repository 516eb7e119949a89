"""How figures look, and how they are written as SVG."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.tables import atomic_path

# For `matplotlib.rc_context` around drawing and writing: the same input gives the same bytes, and text
# stays text.
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "graftune",
    "text.parse_math": False,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure atomically as SVG, without a date."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
