"""Write what a selection rests on."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.explanation.stability import selected_shares
from pipeline.provenance import Provenance, digest_of_file, read_provenance
from pipeline.selection.distances import distances
from pipeline.selection.units import Units, read_units
from pipeline.tables import read_table, write_table


@dataclass(frozen=True)
class Explained:
    """What is explained.

    Attributes:
        selection: The selection.
        source: The units of the source that it ranks.
        target: The units of the target, its classes.
        features: Features of the target, of which those units are the means.
    """

    selection: Path
    source: Path
    target: Path
    features: Path


def explain(files: Explained, folder: Path, settings: Mapping[str, Any], provenance: Provenance) -> None:
    """Write ``plan.parquet``, ``margin.parquet`` and ``stability.parquet``.

    Args:
        files: What is explained.
        folder: Gets the tables.
        settings: ``draws`` and ``seed`` of the bootstrap.
        provenance: Kept in the tables.

    Raises:
        PipelineError: If the selection was not made of these units, or these not of these features.
    """
    how = _settings_of(files)
    ranking = read_table("selection", files.selection).sort_by("rank")
    source, target = read_units(files.source), read_units(files.target)
    write_table("plan", folder / "plan.parquet", plan(ranking, source, target, how), provenance)
    write_table("margin", folder / "margin.parquet", margins(ranking), provenance)
    shares = selected_shares(source, target, files.features, how, settings["draws"], settings["seed"])
    stability = {
        **{name: ranking[name] for name in ("unit_id", "name", "rank", "selected")},
        "stability": shares[source.rows(ranking["unit_id"])],
    }
    write_table("stability", folder / "stability.parquet", stability, provenance)


def plan(ranking: pa.Table, source: Units, target: Units, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How each selected unit stands to each target class, the columns of a ``plan`` table.

    Args:
        ranking: A selection, by rank.
        source: The units that it ranks.
        target: The target's classes.
        settings: Of the selection. Methods without a distance get the cosine distance.
    """
    chosen = ranking.filter(ranking["selected"])
    rows = source.rows(chosen["unit_id"])
    method = importlib.import_module(f"pipeline.selection.{settings['method']}")
    found = distances(source, target, settings.get("distance", "cosine"))[rows]
    has_plan = hasattr(method, "shares")
    shares = method.shares(source, target, settings, rows).ravel() if has_plan else [None] * found.size
    units, classes = (index.ravel() for index in np.indices(found.shape))
    return {
        "unit_id": chosen["unit_id"].take(units),
        "name": chosen["name"].take(units),
        "rank": chosen["rank"].take(units),
        "target_unit_id": target.ids[classes],
        "target_name": target.names.take(classes),
        "distance": found.ravel(),
        "share": shares,
    }


def margins(ranking: pa.Table) -> dict[str, Any]:
    """The gap of scores at each end of the selected ranks, the columns of a ``margin`` table.

    Args:
        ranking: A selection, by rank.
    """
    selected, scores = ranking["selected"].to_numpy(), ranking["score"].to_numpy()
    ends = np.flatnonzero(selected[1:] != selected[:-1])
    spread = scores.max() - scores.min()
    return {
        "rank": ranking["rank"].take(ends),
        "unit_id": ranking["unit_id"].take(ends),
        "next_unit_id": ranking["unit_id"].take(ends + 1),
        "score": scores[ends],
        "next_score": scores[ends + 1],
        "margin": (scores[ends] - scores[ends + 1]) / (spread or 1.0),
    }


def _settings_of(files: Explained) -> Mapping[str, Any]:
    """How the selection was made, once its inputs are known to be the given ones."""
    record = read_provenance(files.selection)
    if record is None:
        raise PipelineError(f"{files.selection}: does not say what made it, so it cannot be explained")
    units = read_provenance(files.target)
    for made, path, name, found in (
        (files.selection, files.source, "source", record.inputs),
        (files.selection, files.target, "target", record.inputs),
        (files.target, files.features, "features", units.inputs if units else {}),
    ):
        digest = digest_of_file(path)
        if found.get(name) != digest:
            raise PipelineError(
                f"{made}: not made of {path} (its record names {found.get(name)} as {name}, this is {digest})"
            )
    return record.settings
