"""Recall of concepts by selections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import PipelineError, did_you_mean
from pipeline.provenance import Provenance, digest_of_file, read_provenance
from pipeline.tables import read_table, write_table


class Keys(NamedTuple):
    """What names a ranking."""

    backbone: str
    source: str
    target: str
    selection: str


@dataclass(frozen=True)
class Ranking:
    """A selection with the concepts of what it ranks.

    Attributes:
        keys: Its name.
        settings: How units are scored.
        scores: Of every unit in rank order, float64 (K,).
        concepts: Of every unit in rank order; None of a unit without one.
        selected: Whether each is selected, bool (K,).
    """

    keys: Keys
    settings: Mapping[str, Any]
    scores: np.ndarray
    concepts: list[str | None]
    selected: np.ndarray


class Recall(NamedTuple):
    """How many units of a concept a selection finds.

    Attributes:
        ranking: The selection.
        concept: The concept.
        units: Units that belong to it.
        found: Those of them that are selected.
    """

    ranking: Ranking
    concept: str
    units: int
    found: int

    @property
    def selected(self) -> int:
        """Units that the selection picks."""
        return int(self.ranking.selected.sum())

    @property
    def percent(self) -> float:
        """The share that is found, in percent (UOT paper, section 4.4)."""
        return 100 * self.found / self.units

    @property
    def bound(self) -> float:
        """The largest share that so many selected units can be, in percent."""
        return 100 * min(self.selected, self.units) / self.units


# By the experiment's name, in the order of the config.
Experiments = list[tuple[str, list[Recall]]]


def rankings_of(selections: Sequence[Path], units: Sequence[Path]) -> dict[Keys, Ranking]:
    """Read selections, ``.../backbone/source/target/name.parquet``, and the concepts of their units.

    Raises:
        PipelineError: If the units that a selection ranks are not among those given, or have no concepts.
    """
    concepts = {digest_of_file(path): (path, _concepts(path)) for path in units}
    rankings = {}
    for path in selections:
        *_, backbone, source, target, _ = path.parts
        record = read_provenance(path)
        if record is None or record.inputs["source"] not in concepts:
            raise PipelineError(f"{path}: the units that it ranks are not among --units")
        table = read_table("selection", path).sort_by("rank")
        of_unit = concepts[record.inputs["source"]][1]
        keys = Keys(backbone, source, target, path.stem)
        rankings[keys] = Ranking(
            keys,
            record.settings,
            table["score"].to_numpy(),
            [of_unit[unit] for unit in table["unit_id"].to_pylist()],
            table["selected"].to_numpy(zero_copy_only=False),
        )
    return rankings


def _concepts(path: Path) -> dict[int, str | None]:
    table: pa.Table = read_table("units", path)
    if "concept" not in table.column_names:
        raise PipelineError(f"{path}: its units have no concepts, so none can be found")
    return dict(zip(table["unit_id"].to_pylist(), table["concept"].to_pylist(), strict=True))


def experiments_of(settings: Mapping[str, Any], rankings: Mapping[Keys, Ranking]) -> Experiments:
    """The recall of each ranking and concept that an experiment asks for.

    Args:
        settings: ``experiments``: a ``name`` and ``rankings`` of each; of a ranking its keys
            (``backbone``, ``source``, ``target``, ``selection``) and ``concepts``.
        rankings: As `rankings_of` reads them.

    Raises:
        PipelineError: If no unit of the source belongs to a concept.
    """
    return [
        (
            experiment["name"],
            [
                measure(rankings[Keys(*(asked[key] for key in Keys._fields))], concept)
                for asked in experiment["rankings"]
                for concept in asked["concepts"]
            ],
        )
        for experiment in settings["experiments"]
    ]


def measure(ranking: Ranking, concept: str) -> Recall:
    """Count a concept's units, and those of them that are selected (UOT paper, section 4.4)."""
    belongs = np.array([found == concept for found in ranking.concepts])
    if not belongs.any():
        known = sorted({found for found in ranking.concepts if found is not None})
        raise PipelineError(
            f"recall: no unit of {ranking.keys.source} has the concept {concept!r}; "
            f"found {', '.join(known) or 'none'}{did_you_mean(concept, known)}"
        )
    return Recall(ranking, concept, int(belongs.sum()), int((belongs & ranking.selected).sum()))


def write(path: Path, experiments: Experiments, provenance: Provenance) -> None:
    """Write the recall table, a row per ranking and concept."""
    unique = {(recall.ranking.keys, recall.concept): recall for _, some in experiments for recall in some}
    columns = {name: [getattr(keys, name) for keys, _ in unique] for name in Keys._fields}
    columns |= {
        "concept": [concept for _, concept in unique],
        "units": [recall.units for recall in unique.values()],
        "selected": [recall.selected for recall in unique.values()],
        "found": [recall.found for recall in unique.values()],
        "recall": [recall.percent for recall in unique.values()],
    }
    write_table("recall", path, columns, provenance)
