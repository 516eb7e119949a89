"""Units drawn uniformly (UOT paper, section 3.2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.selection.units import Scores, Units


def score(source: Units, target: Units, settings: Mapping[str, Any]) -> Scores:
    """A uniform number for each unit; only ``seed`` and the number of units matter."""
    return Scores(np.random.default_rng(settings["seed"]).random(len(source.ids)))
