"""What every floor writes: how its setting was chosen, and its predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.provenance import Provenance
from pipeline.tables import Samples, feature_column, write_table


class Score(NamedTuple):
    """The accuracy by one value of a setting on one part, in 0..1."""

    value: float
    split: str
    score: float


def write_choices(
    folder: Path,
    setting: str,
    chosen: float,
    metric: str,
    scores: Sequence[Score],
    provenance: Provenance,
) -> None:
    """Write ``choices.parquet``.

    Args:
        folder: Where.
        setting: What is chosen.
        chosen: Its value.
        metric: What was measured.
        scores: Of all values.
        provenance: Kept in the table.
    """
    columns = {
        "setting": [setting] * len(scores),
        "value": [float(found.value) for found in scores],
        "split": [found.split for found in scores],
        "metric": [metric] * len(scores),
        "score": [found.score for found in scores],
        "chosen": [found.value == chosen for found in scores],
    }
    write_table("choices", folder / "choices.parquet", columns, provenance)


def write_predictions(
    folder: Path, samples: Samples, rows: np.ndarray, probabilities: np.ndarray, provenance: Provenance
) -> None:
    """Write ``predictions.parquet`` of the given rows.

    Args:
        folder: Where.
        samples: The target's.
        rows: int64 (m,).
        probabilities: Floats (m, classes).
        provenance: Kept in the table.
    """
    columns = {
        "sample_id": [samples.ids[row] for row in rows],
        "split": samples.split[rows].tolist(),
        "label": samples.labels[rows].astype(np.int32),
        "prediction": probabilities.argmax(axis=1).astype(np.int32),
        "probabilities": feature_column(probabilities),
    }
    write_table("predictions", folder / "predictions.parquet", columns, provenance)
