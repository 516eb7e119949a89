"""Label-based selection: units by their names (UOT paper, section 3.2; Figure 3b for birds and dogs)."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.files import read_csv, require_column
from pipeline.errors import PipelineError, did_you_mean, listed
from pipeline.selection.units import Scores, Units


def score(source: Units, target: Units, settings: Mapping[str, Any]) -> Scores:
    """1 for every unit that is found by name, 0 for the others.

    Args:
        source: Names and, where they are asked for, concepts of its units.
        target: Names of its classes.
        settings: ``concepts`` whose units are wanted; or ``mapping``, a CSV file with columns ``target``
            and ``source`` whose rows of classes that this target does not have are passed over; both
            None for units named as a class. Names are compared without case, spaces, ``_`` and ``-``.

    Raises:
        PipelineError: If nothing is found, or a wanted concept or class does not exist.
    """
    names, classes = source.names.to_pylist(), target.names.to_pylist()
    if settings["concepts"] is not None:
        found = _of_concepts(source.concepts, settings["concepts"])
    elif settings["mapping"] is not None:
        found = _mapped(names, classes, Path(settings["mapping"]))
    else:
        found = _of_same_name(names, classes)
    return Scores(found.astype(np.float64), found=int(found.sum()))


def plain(name: str) -> str:
    """A name without what only its spelling decides: case, spaces, ``_`` and ``-``."""
    return "".join(letter for letter in name.casefold() if not letter.isspace() and letter not in "_-")


def _of_concepts(concepts: Sequence[str | None] | None, wanted: Sequence[str]) -> np.ndarray:
    if concepts is None:
        raise PipelineError("the source's units have no concepts; give its dataset a file of them")
    known = sorted({concept for concept in concepts if concept is not None})
    for concept in wanted:
        if concept not in known:
            raise PipelineError(
                f"no unit of the source has the concept {concept!r}; found {_some(known)}"
                f"{did_you_mean(concept, known)}"
            )
    return np.array([concept in wanted for concept in concepts])


def _mapped(source: Sequence[str], target: Sequence[str], mapping: Path) -> np.ndarray:
    table = read_csv(mapping)
    for column in ("target", "source"):
        require_column(mapping, column, table.columns)
    units, classes = {plain(name) for name in source}, {plain(name) for name in target}
    wanted, unknown = set(), []
    for line, ours, theirs in zip(table.lines, table.columns["target"], table.columns["source"], strict=True):
        if plain(ours) not in classes:
            continue
        wanted.add(plain(theirs))
        if plain(theirs) not in units:
            unknown.append(f"line {line}: the source has no {theirs!r}{did_you_mean(theirs, source)}")
    if unknown:
        raise PipelineError(f"{mapping}: expected names of the source's units:\n{listed(unknown)}")
    if not wanted:
        raise PipelineError(
            f"{mapping}: lists no class of this target (the target has {_some(target)}; "
            f"the file lists {_some(table.columns['target'])})"
        )
    return np.array([plain(name) in wanted for name in source])


def _of_same_name(source: Sequence[str], target: Sequence[str]) -> np.ndarray:
    wanted = {plain(name) for name in target}
    found = np.array([plain(name) in wanted for name in source])
    if not found.any():
        raise PipelineError(
            f"no unit of the source is named as a class of the target (the source has {_some(source)}; "
            f"the target {_some(target)}); select by concepts or by a mapping"
        )
    return found


def _some(names: Iterable[str]) -> str:
    first, count = list(dict.fromkeys(names)), len(set(names))
    shown = ", ".join(map(repr, first[:5])) or "none"
    return f"{shown} and {count - 5} more" if count > 5 else shown
