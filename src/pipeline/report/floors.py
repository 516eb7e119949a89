"""What every recipe should stand above, beside what stands above it and what does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.report.answers import PARTS, Comparison, Scores, Summary
from pipeline.report.curves import LARGE, Panel, markup
from pipeline.report.data import Pair
from pipeline.report.figures import Line, line_plot
from pipeline.tables import read_table

SYMBOLS = {"neighbours": "k", "regularisation": "C", "interpolation": "alpha"}
WITH_CURVE = "interpolation"


class Choice(NamedTuple):
    """A row of a floor's choices: the accuracy by one value of its setting on one part."""

    setting: str
    value: float
    split: str
    score: float
    chosen: bool


@dataclass(frozen=True)
class Run:
    """One floor at one seed.

    Attributes:
        pair: The backbone and target.
        name: What it is.
        seed: Of the run that weights are interpolated with; 0 of other floors.
        values: Its metrics by part and name.
        choices: What it was chosen among.
    """

    pair: Pair
    name: str
    seed: int
    values: Mapping[tuple[str, str], float]
    choices: list[Choice]


@dataclass(frozen=True)
class Floor:
    """One floor over its seeds.

    Attributes:
        name: What it is.
        chosen: The setting's symbol and the values that were chosen.
        tried: The values that it was chosen among.
        parts: The main metric on each part.
    """

    name: str
    chosen: str
    tried: str
    parts: Mapping[str, Summary]


@dataclass(frozen=True)
class Floors:
    """The floors of one backbone and target, best first.

    Attributes:
        pair: The backbone and target.
        metric: The main metric.
        part: The part that they are ranked by.
        floors: Each of them.
        best: The best recipe.
        below: Recipes that are not above every floor.
        panel: Accuracy along the interpolation; None without one.
    """

    pair: Pair
    metric: str
    part: str
    floors: list[Floor]
    best: Scores
    below: list[Scores]
    panel: Panel | None

    @property
    def shown(self) -> list[str]:
        """The parts that any of them has been measured on, validation first."""
        return [part for part in reversed(PARTS) if any(part in floor.parts for floor in self.floors)]


def read_floors(folders: Sequence[Path], comparisons: Sequence[Comparison]) -> list[Floors]:
    """The floors of each pair that has any.

    Args:
        folders: Of all floors.
        comparisons: Of the runs.
    """
    runs = [_run(folder) for folder in folders]
    found = []
    for number, comparison in enumerate(comparisons):
        some = [run for run in runs if run.pair == comparison.pair]
        if some:
            found.append(_floors(comparison, some, f"f{number}"))
    return found


def _run(folder: Path) -> Run:
    rows = read_table("metrics", folder / "metrics.parquet").to_pylist()
    choices = read_table("choices", folder / "choices.parquet", list(Choice._fields)).to_pylist()
    values = {(row["split"], row["metric"]): row["value"] for row in rows}
    pair = Pair(rows[0]["backbone"], rows[0]["target"])
    return Run(pair, rows[0]["recipe"], rows[0]["seed"], values, [Choice(**row) for row in choices])


def _floors(comparison: Comparison, runs: Sequence[Run], identity: str) -> Floors:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    metric, part = comparison.metric, comparison.part
    floors = [_floor(name, some, metric) for name, some in groups.items()]
    floors.sort(key=lambda floor: -floor.parts[part].mean if part in floor.parts else 0.0)
    highest = max((floor.parts[part].mean for floor in floors if part in floor.parts), default=0.0)
    interpolated = [run for run in runs if run.choices[0].setting == WITH_CURVE]
    return Floors(
        comparison.pair,
        metric,
        part,
        floors,
        comparison.scores[0],
        [
            scores
            for scores in comparison.scores
            if part in scores.parts and scores.parts[part].mean <= highest
        ],
        _panel(interpolated, identity) if interpolated else None,
    )


def _floor(name: str, runs: Sequence[Run], metric: str) -> Floor:
    setting = runs[0].choices[0].setting
    symbol = SYMBOLS[setting]
    chosen = sorted({choice.value for run in runs for choice in run.choices if choice.chosen})
    ends = (0.0, 1.0) if setting == WITH_CURVE else ()
    tried = dict.fromkeys(choice.value for choice in runs[0].choices if choice.value not in ends)
    parts = {}
    for part in PARTS:
        values = [run.values[part, metric] for run in runs if (part, metric) in run.values]
        if values:
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            parts[part] = Summary(float(np.mean(values)), deviation, len(values))
    return Floor(name, f"{symbol} {_listed(chosen)}", _listed(tried), parts)


def _listed(values: Sequence[float] | Mapping[float, None]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _panel(runs: Sequence[Run], identity: str) -> Panel:
    """Accuracy against alpha on each part, over the seeds of the runs."""
    lines, legend = [], []
    for series, part in reversed(list(enumerate(PARTS, 1))):
        curves = [[choice for choice in run.choices if choice.split == part] for run in runs]
        if all(curves):
            alphas = np.array([choice.value for choice in curves[0]])
            scores = np.array([[choice.score for choice in curve] for curve in curves])
            deviation = scores.std(axis=0, ddof=1) if len(curves) > 1 else None
            lines.append(Line(series, alphas, scores.mean(axis=0), deviation, marked=True))
            legend.append((series, part))
    title = "Accuracy along the interpolation"
    drawn = markup(line_plot(lines, "alpha", f"{title} from the backbone to the run", identity, LARGE))
    note = "alpha 0: the backbone with its linear probe; 1: the fine-tuned model"
    return Panel(title, drawn, note, tuple(reversed(legend)))
