"""Refuse features that are not finite, with the names of their images."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.errors import PipelineError, listed
from pipeline.tables.io import feature_matrix

# Features that are looked at together, so that what is known of each entry stays small.
ROWS = 65_536


def check_finite(path: Path, parts: Iterable[pa.Table]) -> None:
    """Read the features of a file in parts.

    Args:
        path: The file, for the message.
        parts: Its rows with ``sample_id`` and ``feature``.

    Raises:
        PipelineError: If a feature is NaN or infinite; it counts the images and names the first ten.
    """
    names: list[str] = []
    count = 0
    for part in parts:
        for first in range(0, len(part), ROWS):
            rows = part.slice(first, ROWS)
            bad = np.flatnonzero(~np.isfinite(feature_matrix(rows)).all(axis=1))
            count += len(bad)
            names += rows["sample_id"].take(bad[: 10 - len(names)]).to_pylist()
    if count:
        raise PipelineError(
            f"{path}: the features of {count} images are not finite (NaN or infinite); "
            f"expected numbers:\n{listed([f'sample {name!r}' for name in names], count)}"
        )
