"""Refuse features that are not finite, with their rows and the names of their images."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipeline.errors import PipelineError, listed
from pipeline.tables.io import feature_matrix

# Features that are looked at together, so that what is known of each entry stays small.
ROWS = 65_536


def check_finite(path: Path, parts: Iterable[pa.Table], split: str | None = None) -> None:
    """Read the features of a file in parts.

    Args:
        path: The file, for the message.
        parts: All its rows in order with ``sample_id``, ``feature`` and, where `split` is given, ``split``.
        split: Only rows of this part count; all by default.

    Raises:
        PipelineError: If a feature is NaN or infinite; it counts the images and names the first ten with
            their rows in the file, from 0.
    """
    places: list[str] = []
    count = first = 0
    for part in parts:
        for start in range(0, len(part), ROWS):
            rows = part.slice(start, ROWS)
            unsound = ~np.isfinite(feature_matrix(rows)).all(axis=1)
            if split is not None:
                unsound &= compute.equal(rows["split"].cast(pa.string()), split).to_numpy()
            bad = np.flatnonzero(unsound)
            count += len(bad)
            shown = bad[: 10 - len(places)]
            names = rows["sample_id"].take(shown).to_pylist()
            places += [f"row {first + row}, sample {name!r}" for row, name in zip(shown, names, strict=True)]
            first += len(rows)
    if count:
        raise PipelineError(
            f"{path}: the features of {count} images are not finite (NaN or infinite); "
            f"expected numbers (rows count from 0):\n{listed(places, count)}"
        )
