"""Searches: every trial of a grid, and how far chance alone may have moved it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.provenance import Provenance, canonical_json
from pipeline.report.data import Pair, Time, Way, read_times, record_of
from pipeline.report.described import described, words
from pipeline.report.heat import Cell, Heat
from pipeline.report.scales import Scale, trial_scale
from pipeline.tables import read_table

# What a row of the search table says of a trial as it stands there.
JUDGED = ("value", "images", "rung", "share", "chosen")


@dataclass(frozen=True)
class Trial:
    """One combination of values.

    Attributes:
        name: Of its folder.
        values: Of the settings that the search tries, by key path.
        value: The metric on the validation part, a share of one.
        images: Over how many images.
        rung: The last rung of successive halving that it took part in; None without halving.
        share: Of the budget, that it was trained for.
        chosen: Whether it is the one that was taken.
    """

    name: str
    values: Mapping[str, Any]
    value: float
    images: int
    rung: int | None
    share: float
    chosen: bool

    @property
    def folder(self) -> str:
        """Where its tables are, below the search's folder."""
        return self.name if self.rung is None else f"{self.name}/rung{self.rung}"

    @property
    def error(self) -> float:
        """The binomial standard error of its value; of a mean over classes it is an approximation."""
        return float((self.value * (1 - self.value) / self.images) ** 0.5)


class Rung(NamedTuple):
    """Trials that took part in one round, and what share of the budget they had by its end."""

    share: float
    trials: list[Trial]


@dataclass(frozen=True)
class Search:
    """The trials of one recipe on one backbone and target, best first.

    Attributes:
        pair: The backbone and target.
        way: The recipe and selection.
        metric: What trials are judged by.
        trials: Best first.
        record: What made the table.
        times: Of the training of each trial.
    """

    pair: Pair
    way: Way
    metric: str
    trials: list[Trial]
    record: Provenance
    times: list[dict[str, Time]]

    @cached_property
    def chosen(self) -> Trial:
        """The trial that was taken."""
        return next(trial for trial in self.trials if trial.chosen)

    @cached_property
    def keys(self) -> list[str]:
        """Key paths that have more than one value."""
        return [key for key in self.trials[0].values if len(self._values(key)) > 1]

    @property
    def names(self) -> list[str]:
        """Those keys in words: their last part, where that tells them apart."""
        return [self._name(key) for key in self.keys]

    @property
    def fixed(self) -> list[tuple[str, str]]:
        """Keys in words that have one value, and the value."""
        values = self.trials[0].values
        return [(self._name(key), described(values[key])) for key in values if key not in self.keys]

    @property
    def close(self) -> list[Trial]:
        """The other trials within one standard error of the chosen one (Breiman et al. 1984, 3.4.3).

        Those that halving ended before were trained for less, and are not compared.
        """
        least, alike = self.chosen.value - self.chosen.error, self.rungs[-1].trials
        return [trial for trial in alike if not trial.chosen and trial.value >= least]

    @cached_property
    def rungs(self) -> list[Rung]:
        """The rungs of successive halving, the first one first; of a full grid there is one."""
        ended: dict[float, list[Trial]] = {}
        for trial in self.trials:
            ended.setdefault(trial.share, []).append(trial)
        shares = sorted(ended)
        return [Rung(share, [trial for trial in self.trials if trial.share >= share]) for share in shares]

    @property
    def halved(self) -> bool:
        """Whether trials were trained for parts of the budget."""
        return self.chosen.rung is not None

    @cached_property
    def scale(self) -> Scale:
        """The axis of all values; trials far below the others lie outside."""
        return trial_scale([(trial.value, trial.error) for trial in self.trials])

    @property
    def heat(self) -> Heat | None:
        """A map of the trials, where two keys vary."""
        if len(self.keys) != 2:
            return None
        down, across = (self._values(key) for key in self.keys)
        places = {tuple(canonical_json(t.values[key]) for key in self.keys): t for t in self.trials}
        rows = [
            (described(row), [self._cell(places.get((text, column))) for column in across])
            for text, row in down.items()
        ]
        return Heat(self.names[0], self.names[1], [described(value) for value in across.values()], rows)

    def _cell(self, trial: Trial | None) -> Cell:
        if trial is None:
            return Cell()
        scale = self.scale
        strength = (max(trial.value, scale.low) - scale.low) / (scale.high - scale.low)
        return Cell(round(100 * min(strength, 1)), f"{100 * trial.value:.1f}", trial.chosen)

    def _values(self, key: str) -> dict[str, Any]:
        """What was tried of a key, numbers in their order and other values as they were first seen."""
        found = {canonical_json(trial.values[key]): trial.values[key] for trial in self.trials}
        numeric = all(isinstance(value, int | float) for value in found.values())
        return dict(sorted(found.items(), key=lambda item: item[1])) if numeric else found

    def _name(self, key: str) -> str:
        last = key.rpartition(".")[2]
        alike = sum(other.rpartition(".")[2] == last for other in self.trials[0].values)
        return words(last if alike == 1 else key.replace(".", " "))


def read_searches(folders: Sequence[Path]) -> list[Search]:
    """Searches by their folders, ``.../backbone/target/selection/recipe``, with a folder for each trial."""
    return [_read(folder) for folder in folders]


def _read(folder: Path) -> Search:
    *_, backbone, target, selection, recipe = folder.parts
    table = read_table("search", folder / "search.parquet")
    rows = table.sort_by("rank").to_pylist()
    trials = [
        Trial(row["trial"], json.loads(row["values"]), **{name: row[name] for name in JUDGED}) for row in rows
    ]
    times = [read_times(folder / trial.folder / "timings.parquet") for trial in trials]
    way = Way(recipe, selection)
    return Search(Pair(backbone, target), way, rows[0]["metric"], trials, record_of(table), times)
