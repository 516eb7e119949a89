"""The domain gap of runs: against the accuracy that they reached, and along fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.report.curves import LARGE, TOGETHER, Panel, markup
from pipeline.report.data import Pair
from pipeline.report.figures import Line, Point, panel, scatter
from pipeline.tables import read_table


class Measured(NamedTuple):
    """A row of the gap_and_accuracy table.

    Attributes:
        recipe: Of the runs.
        measured: The selection.
        epoch: After which.
        seeds: How many runs.
        gap: Mean over seeds.
        gap_error: Its standard error.
        difference: Mean over seeds of the part that is due to the mean of the source's batches.
        difference_error: Its standard error.
        accuracy: Test accuracy of the runs; None where they do not reuse this selection.
        accuracy_error: Its standard error; None of one seed.
    """

    recipe: str
    measured: str
    epoch: int
    seeds: int
    gap: float
    gap_error: float
    difference: float
    difference_error: float
    accuracy: float | None
    accuracy_error: float | None


@dataclass(frozen=True)
class Drawn:
    """The figures of one recipe.

    Attributes:
        recipe: Its name.
        panels: Accuracy against the gap where the runs have reused what is measured, and the gap along
            fine-tuning.
    """

    recipe: str
    panels: list[Panel]


@dataclass(frozen=True)
class Gaps:
    """All that was measured on one backbone and target.

    Attributes:
        pair: The backbone and target.
        metric: What accuracy is.
        selections: Those that were measured; figures show them by their place, from 1.
        rows: As they were measured.
        drawn: The figures of each recipe.
    """

    pair: Pair
    metric: str
    selections: list[str]
    rows: list[Measured]
    drawn: list[Drawn]

    @property
    def few(self) -> bool:
        """Whether each selection has a colour and shape of its own, and not a number."""
        return _few(self.selections)


def read_gaps(path: Path, main_metric: Mapping[str, str]) -> list[Gaps]:
    """The gap_and_accuracy table, by backbone and target.

    Args:
        path: The table.
        main_metric: The metric of each target.
    """
    groups: dict[Pair, list[Measured]] = {}
    for row in read_table("gap_and_accuracy", path).to_pylist():
        measured = Measured(**{name: row[name] for name in Measured._fields})
        groups.setdefault(Pair(row["backbone"], row["target"]), []).append(measured)
    return [
        _gaps(pair, main_metric[pair.target], rows, f"g{number}")
        for number, (pair, rows) in enumerate(groups.items())
    ]


def _gaps(pair: Pair, metric: str, rows: list[Measured], identity: str) -> Gaps:
    selections = list(dict.fromkeys(row.measured for row in rows))
    recipes: dict[str, list[Measured]] = {}
    for row in rows:
        recipes.setdefault(row.recipe, []).append(row)
    drawn = [
        _drawn(recipe, some, selections, f"{identity}-{number}")
        for number, (recipe, some) in enumerate(recipes.items())
    ]
    return Gaps(pair, metric, selections, rows, drawn)


def _few(selections: Sequence[str]) -> bool:
    return len(selections) < TOGETHER


def _drawn(recipe: str, rows: Sequence[Measured], selections: Sequence[str], identity: str) -> Drawn:
    reached = [row for row in rows if row.accuracy is not None]
    panels = [
        _against_accuracy([row for row in reached if row.epoch == epoch], epoch, selections, identity)
        for epoch in sorted({row.epoch for row in reached})
    ]
    return Drawn(recipe, [*panels, _along(rows, selections, f"{identity}-along")])


def _look(selection: str, selections: Sequence[str]) -> tuple[int, str]:
    """The colour of a selection; with many all have one, and each has its number."""
    place = selections.index(selection) + 1
    return (place, "") if _few(selections) else (1, str(place))


def _against_accuracy(
    rows: Sequence[Measured], epoch: int, selections: Sequence[str], identity: str
) -> Panel:
    points = [
        Point(
            *_look(row.measured, selections),
            (row.gap, row.gap_error),
            (row.accuracy, row.accuracy_error),
        )
        for row in rows
        if row.accuracy is not None
    ]
    title = f"Accuracy against the gap {f'after epoch {epoch}' if epoch else 'at the start'}"
    return Panel(title, markup(scatter(points, "gap", title, f"{identity}-{epoch}", LARGE)))


def _along(rows: Sequence[Measured], selections: Sequence[str], identity: str) -> Panel:
    lines = []
    for selection in dict.fromkeys(row.measured for row in rows):
        series, name = _look(selection, selections)
        some = sorted((row for row in rows if row.measured == selection), key=lambda row: row.epoch)
        epochs, gaps, errors = (
            np.array([getattr(row, of) for row in some]) for of in ("epoch", "gap", "gap_error")
        )
        # Bands of many lines would hide one another.
        lines.append(Line(series, epochs, gaps, errors if _few(selections) else None, True, name))
    title = "Gap along fine-tuning"
    note = "" if _few(selections) else "standard errors are in the table"
    return Panel(title, markup(panel(lines, title, identity, size=LARGE)), note)
