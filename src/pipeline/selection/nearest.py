"""Units by their nearest target class: the local search that the UOT paper lacks as a baseline."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.selection.distances import blocks, distances
from pipeline.selection.units import Scores, Units, levelled


def score(source: Units, target: Units, settings: Mapping[str, Any]) -> Scores:
    """Minus the distance to the nearest target class, by ``distance``; at most 0 but for rounding."""
    found = distances(source, target, settings["distance"])
    nearest = [found[rows].min(axis=1) for rows in blocks(found.shape)]
    return Scores(levelled(-np.concatenate(nearest), source.means))
