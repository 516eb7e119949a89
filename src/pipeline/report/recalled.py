"""Recall of concepts, and the figures that were drawn of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.provenance import Provenance
from pipeline.report.data import record_of
from pipeline.report.figures import svg_uri
from pipeline.tables import read_table

# Figures of rankings that the page holds; each is tens of kilobytes.
FIGURES = 24


class Recalled(NamedTuple):
    """How a selection does on one concept.

    Attributes:
        selection: Its name.
        selected: Units that it selects.
        bound: The largest share that so many can be.
        recall: Share of the concept's units that are selected, by backbone.
    """

    selection: str
    selected: int
    bound: float
    recall: dict[str, float]


class Concept(NamedTuple):
    """The recall of one concept of a source for one target.

    Attributes:
        name: Of the concept.
        units: Units that belong to it.
        backbones: Columns of the table.
        best: The highest recall of each backbone.
        rows: Of each selection.
    """

    source: str
    target: str
    name: str
    units: int
    backbones: list[str]
    best: dict[str, float]
    rows: list[Recalled]

    @property
    def is_bounded(self) -> bool:
        """Whether some selection is too small to hold every unit."""
        return any(row.bound < 1 for row in self.rows)


@dataclass(frozen=True)
class Recall:
    """All of it.

    Attributes:
        record: What made it.
        concepts: A table for each.
        sweep: Recall as epsilon_c changes, as a data URI; None where nothing of that kind was drawn.
        rankings: Title and data URI of each ranking with its concepts coloured.
        left_out: How many more of those there are.
    """

    record: Provenance
    concepts: list[Concept]
    sweep: str | None
    rankings: list[tuple[str, str]]
    left_out: int


def read_recall(path: Path, figures: Path) -> Recall:
    """The recall table, and the folder of its figures."""
    table = read_table("recall", path)
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault((row["source"], row["target"], row["concept"]), []).append(row)
    sweep = figures / "epsilon_c.svg"
    drawn = sorted(file for file in figures.rglob("*.svg") if file != sweep)
    return Recall(
        record_of(table),
        [_concept(*keys, rows) for keys, rows in groups.items()],
        svg_uri(sweep) if sweep.exists() else None,
        [(_title(file), svg_uri(file)) for file in drawn[:FIGURES]],
        max(len(drawn) - FIGURES, 0),
    )


def _concept(source: str, target: str, name: str, rows: Sequence[dict[str, Any]]) -> Concept:
    units = rows[0]["units"]
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        found.setdefault((row["selection"], row["selected"]), {})[row["backbone"]] = row["recall"] / 100
    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    best = {backbone: max(recall.get(backbone, 0.0) for recall in found.values()) for backbone in backbones}
    recalled = [
        Recalled(selection, selected, min(selected / units, 1.0), recall)
        for (selection, selected), recall in found.items()
    ]
    return Concept(source, target, name, units, backbones, best, recalled)


def _title(file: Path) -> str:
    *_, backbone, source, target, _ = file.parts
    return f"{file.stem}: {source} for {target}, by {backbone}"
