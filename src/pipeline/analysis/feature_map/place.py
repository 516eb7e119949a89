"""Some test images of each class, and where the plane has them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipeline.analysis.feature_map.projections import project
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.tables import (
    check_finite,
    feature_matrix,
    read_batches,
    read_table,
    read_table_metadata,
    write_table,
)

# Features that are read together; of the untouched backbone the file has the training images too.
ROWS = 8_192
COLUMNS = ["sample_id", "split", "label", "feature"]


def write_map(
    features: Path, manifest: Path, output: Path, settings: Mapping[str, Any], provenance: Provenance
) -> None:
    """Write where the test images of one model lie.

    Args:
        features: Features of the target's images by that model.
        manifest: The target's; the classes' names are taken from it.
        output: The feature_map table to write.
        settings: ``method``, ``images`` of each class at most, ``perplexity`` and ``seed``.
        provenance: Kept in the table.

    Raises:
        PipelineError: If there is no test image, one of them has no label or no finite feature, or the
            features do not suit the method.
    """
    check_finite(features, read_batches(features, COLUMNS, ROWS), split="test")
    table = _test_part(features)
    rows = some_of_each(table["label"].to_numpy(), settings["images"], settings["seed"])
    chosen = table.take(rows)
    placed = project(feature_matrix(chosen).astype(np.float64), settings, features)
    columns = {name: chosen[name] for name in ("sample_id", "label")}
    columns |= {name: placed.points[:, axis] for axis, name in enumerate("xyz"[: placed.points.shape[1]])}
    extra = {"class_names": read_table_metadata(manifest)["class_names"]}
    if placed.variance is not None:
        extra["variance"] = json.dumps(placed.variance)
    write_table("feature_map", output, columns, provenance, extra)


def _test_part(path: Path) -> pa.Table:
    read_table("features", path, [])  # its schema is checked
    parts = (
        part.filter(compute.equal(part["split"].cast(pa.string()), "test"))
        for part in read_batches(path, COLUMNS, ROWS)
    )
    table = pa.concat_tables(part.drop_columns(["split"]) for part in parts)
    if not len(table):
        raise PipelineError(f"{path}: no test image to put into the plane; feature_map needs a test part")
    if table["label"].null_count:
        sample = table["sample_id"].filter(table["label"].is_null())[0]
        raise PipelineError(f"{path}: sample {sample.as_py()!r} has no label to colour it by")
    return table


def some_of_each(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Positions of at most so many images of each class, drawn at random, in their order.

    Which images of a class depends on the seed, the label and how many there are, so that every model's
    map of one target shows the same ones.

    Args:
        labels: int (n,).
        limit: Of each class.
        seed: Of the draw.

    Returns:
        int64 (m,).
    """
    drawn = [
        np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))[:limit]
        for label in np.unique(labels).tolist()
    ]
    return np.sort(np.concatenate(drawn))
