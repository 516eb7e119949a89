"""What a selection rests on: the plan behind it, its margin and its stability."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.provenance import Provenance, digest_of_file
from pipeline.report.data import record_of
from pipeline.report.heat import Cell, Heat
from pipeline.tables import read_table

# Units and classes of a plan that are shown at most.
SHOWN = 40
# A share of a class below this is left as an empty cell.
LEAST = 0.005
# Units that were not selected are named when this share of draws selects them, and so many of them.
OFTEN, NAMED = 0.5, 5


@dataclass(frozen=True)
class Margin:
    """Two neighbours of a ranking, one of them selected.

    Attributes:
        above: Rank, name and score of the one before.
        below: The same of the one after.
        gaps: The difference of their scores, in mean gaps between neighbours of the whole ranking.
    """

    above: tuple[int, str, float]
    below: tuple[int, str, float]
    gaps: float

    @property
    def difference(self) -> float:
        """Of the scores, at least 0."""
        return self.above[2] - self.below[2]


@dataclass(frozen=True)
class Explanation:
    """What rule `explain` found of one selection.

    Attributes:
        record: What made it.
        plan: A ``plan`` table.
        margins: At each end of the selected ranks; none where all units are selected.
        stability: Share of draws of the target's images that select a unit, by unit_id.
        names: Of all units, by unit_id and in rank order.
        selected: The unit_ids of those selected.
    """

    record: Provenance
    plan: pa.Table
    margins: list[Margin]
    stability: Mapping[int, float]
    names: Mapping[int, str]
    selected: frozenset[int]

    @property
    def draws(self) -> int:
        """Bootstrap draws of the target's images."""
        return int(self.record.settings["draws"])

    @property
    def always(self) -> int:
        """Selected units that every draw selects."""
        return sum(self.stability[unit] == 1 for unit in self.selected)

    @property
    def mean_stability(self) -> float:
        """Over the selected units, 0 to 1."""
        return sum(self.stability[unit] for unit in self.selected) / len(self.selected)

    @property
    def contenders(self) -> list[tuple[str, float]]:
        """Units that are not selected here but often in draws, with their shares of draws."""
        found = [
            (self.names[unit], share)
            for unit, share in self.stability.items()
            if unit not in self.selected and share >= OFTEN
        ]
        return sorted(found, key=lambda item: -item[1])[:NAMED]

    @property
    def has_shares(self) -> bool:
        """Whether the plan holds shares of the classes' mass; else distances are shown."""
        return self.plan["share"].null_count == 0

    @cached_property
    def _values(self) -> np.ndarray:
        """Shares, or distances, (selected units, target classes)."""
        values = self.plan["share" if self.has_shares else "distance"].to_numpy()
        return values.reshape(len(self.selected), -1)

    @property
    def classes(self) -> int:
        """Classes of the target."""
        return int(self._values.shape[1])

    @property
    def heat(self) -> Heat:
        """The plan's first units, and the classes that the selected units have most to do with."""
        values, shares = self._values, self.has_shares
        strengths = _strengths(values, shares)
        reach = values.sum(axis=0) if shares else -values.min(axis=0)
        columns = np.sort(np.argsort(-reach, kind="stable")[:SHOWN])
        names = self.plan["target_name"].slice(0, self.classes).to_pylist()
        units = self.plan["name"].to_pylist()[:: self.classes]
        rows = [
            (units[row], [_cell(values[row, column], strengths[row, column], shares) for column in columns])
            for row in range(min(len(values), SHOWN))
        ]
        total = (
            f"all {len(values):,}",
            [Cell(0, f"{100 * values[:, column].sum():.0f}") for column in columns],
        )
        shown = [names[column] for column in columns]
        return Heat("selected unit", "target class", shown, rows, total if shares else None)


def _strengths(values: np.ndarray, shares: bool) -> np.ndarray:
    """Colour of each value, 0 to 100: the largest share is the strongest, or the least distance."""
    low, high = (0.0, values.max()) if shares else (values.min(), values.max())
    scaled = (values - low) / ((high - low) or 1.0)
    return np.round(100 * (scaled if shares else 1 - scaled)).astype(int)


def _cell(value: float, strength: int, share: bool) -> Cell:
    if not share:
        return Cell(int(strength), f"{value:.2f}" if value < 10 else f"{value:.0f}")
    return Cell(int(strength), f"{100 * value:.0f}") if value >= LEAST else Cell()


def read_explanations(folders: Sequence[Path]) -> dict[str, Explanation]:
    """Explanations by the digest of the selection that they are of."""
    found = [_read(folder) for folder in folders]
    return {explanation.record.inputs["selection"]: explanation for explanation in found}


def explanation_of(selection: Path, explanations: Mapping[str, Explanation]) -> Explanation | None:
    """The explanation of a selection, as its record names it; None where none was given."""
    return explanations.get(digest_of_file(selection))


def _read(folder: Path) -> Explanation:
    plan = read_table("plan", folder / "plan.parquet")
    stability = read_table("stability", folder / "stability.parquet").sort_by("rank")
    units = stability["unit_id"].to_pylist()
    names = dict(zip(units, stability["name"].to_pylist(), strict=True))
    margins = [
        Margin(
            (row["rank"], names[row["unit_id"]], row["score"]),
            (row["rank"] + 1, names[row["next_unit_id"]], row["next_score"]),
            row["margin"] * (len(units) - 1),
        )
        for row in read_table("margin", folder / "margin.parquet").to_pylist()
    ]
    return Explanation(
        record_of(plan),
        plan.sort_by([("rank", "ascending"), ("target_unit_id", "ascending")]),
        margins,
        dict(zip(units, stability["stability"].to_pylist(), strict=True)),
        names,
        frozenset(stability.filter(stability["selected"])["unit_id"].to_pylist()),
    )
