"""Score, rank and mark the source's units."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.progress import log
from pipeline.provenance import Provenance, canonical_json, read_provenance
from pipeline.selection.units import Scores, Units, read_units
from pipeline.tables import write_table

# Key of the metadata of a selection table under which a method's facts are.
FACTS = "facts"


def select(
    source: Path, target: Path, output: Path, settings: Mapping[str, Any], provenance: Provenance
) -> None:
    """Write the ranking of the source's units for one target, with the selected ones marked.

    Args:
        source: Units of the source.
        target: Units of the target.
        output: The selection table to write, best unit first; units of equal score by unit_id.
        settings: A selection entry.
        provenance: Kept in the table, beside the method's facts.

    Raises:
        PipelineError: If more units are wanted than exist, a unit is unsound, or the two sides were
            not made by the same backbone.
    """
    units, wanted = read_units(source), read_units(target)
    check_backbones(units, wanted)
    if settings["count"] is not None:
        _check_count(units, settings)
    scores, order = rank(units, wanted, settings)
    columns = {
        "unit_id": units.ids[order],
        "name": units.names.take(order),
        "score": scores.values[order],
        "rank": np.arange(1, len(order) + 1, dtype=np.int32),
        "selected": marked(scores, settings),
    }
    facts = {FACTS: canonical_json(scores.facts)} if scores.facts else {}
    write_table("selection", output, columns, provenance, facts)


def rank(source: Units, target: Units, settings: Mapping[str, Any]) -> tuple[Scores, np.ndarray]:
    """The scores of the source's units, and their rows, int64 (K_g,), from the best to the worst."""
    from threadpoolctl import threadpool_limits

    method = importlib.import_module(f"pipeline.selection.{settings['method']}")
    with threadpool_limits(1):  # another number of threads adds in another order
        scores = method.score(source, target, settings)
    return scores, np.lexsort((source.ids, -scores.values))


def marked(scores: Scores, settings: Mapping[str, Any]) -> np.ndarray:
    """Which places of a ranking are selected, bool (K_g,), the best place first.

    Args:
        scores: Of the units that are ranked.
        settings: ``count`` places from the ``best`` or ``worst`` end (``order``), after ``skip``; a
            ``count`` of None is all that the method found.

    Raises:
        PipelineError: If the method found fewer.
    """
    count = scores.found if settings["count"] is None else settings["count"]
    assert count is not None
    if scores.found is not None and count > scores.found:
        raise PipelineError(
            f"{scores.found} units are found by name, count is {count}; leave count out to take all"
        )
    chosen = np.zeros(len(scores.values), bool)
    chosen[settings["skip"] : settings["skip"] + count] = True
    return chosen if settings["order"] == "best" else chosen[::-1]


def check_backbones(source: Units, target: Units) -> None:
    """Refuse units whose means lie in the feature spaces of different backbones.

    Tables made elsewhere do not say which it was; where only one of the two does, that is logged.

    Raises:
        PipelineError: If the records of the two tables name different backbones, or the means differ
            in width.
    """
    records = [read_provenance(units.path) for units in (source, target)]
    made_by = [record.inputs.get("backbone") if record else None for record in records]
    if None not in made_by and made_by[0] != made_by[1]:
        raise PipelineError(
            f"{source.path} and {target.path}: made by different backbones, or from different layers "
            f"(records {made_by[0]} and {made_by[1]}); their means cannot be compared"
        )
    widths = [units.means.shape[1] for units in (source, target)]
    if widths[0] != widths[1]:
        raise PipelineError(
            f"{source.path} has means of {widths[0]} numbers, {target.path} of {widths[1]}; "
            "were they made by different backbones?"
        )
    if made_by.count(None) == 1:
        known, unknown = (source, target) if made_by[1] is None else (target, source)
        log.warning(
            "%s names the backbone and layer that made it, %s names none: only the width of their means, "
            "%d numbers, could be compared",
            known.path,
            unknown.path,
            widths[0],
        )


def _check_count(units: Units, settings: Mapping[str, Any]) -> None:
    count, skip = settings["count"], settings["skip"]
    if skip + count > len(units.ids):
        skipped = f" after skip {skip}" if skip else ""
        raise PipelineError(f"{units.path}: has {len(units.ids)} units, count is {count}{skipped}")
