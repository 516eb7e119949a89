"""How often units are selected when the target's images are drawn again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.progress import track
from pipeline.selection.select import marked, rank
from pipeline.selection.units import Units
from pipeline.tables import feature_matrix, read_table


def selected_shares(
    source: Units, target: Units, features: Path, settings: Mapping[str, Any], draws: int, seed: int
) -> np.ndarray:
    """Share of bootstrap draws of the target's training images in which each unit is selected.

    Images are drawn with replacement within their class, as many as it has; the class means and the
    selection are then made again.

    Args:
        source: K_g units.
        target: Its classes; unit_id is the label.
        features: Features of the target.
        settings: Of the selection.
        draws: How many.
        seed: Of the draws; each depends on it and on its number alone.

    Returns:
        float64 (K_g,), 0 to 1.

    Raises:
        PipelineError: If the features do not have as many training images of each class as the target.
    """
    table = read_table("features", features, ["label", "feature"], filters=[("split", "=", "train")])
    labels = table["label"].to_numpy()
    present, sizes = np.unique(labels, return_counts=True)
    by_label = np.argsort(target.ids)
    if not np.array_equal([present, sizes], [target.ids[by_label], target.images[by_label]]):
        raise PipelineError(
            f"{features}: {len(labels)} training images of {len(present)} labels are not those of "
            f"{target.path}, {target.images.sum()} of {len(target.ids)}"
        )
    matrix = feature_matrix(table)[np.argsort(labels, kind="stable")]
    starts = np.cumsum(sizes) - sizes
    chosen = np.zeros(len(source.ids))
    for number in track(range(draws), "bootstrap", "draw", draws):
        picked = _draw(starts, sizes, np.random.default_rng([seed, number]))
        means = np.empty_like(target.means)
        means[by_label] = np.add.reduceat(matrix[picked].astype(np.float64), starts) / sizes[:, None]
        scores, ranked = rank(source, replace(target, means=means), settings)
        chosen[ranked[marked(scores, settings)]] += 1
    return chosen / draws


def _draw(starts: np.ndarray, sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rows drawn with replacement within each group, as many as it has, int64 (n,)."""
    return np.repeat(starts, sizes) + generator.integers(0, np.repeat(sizes, sizes))
