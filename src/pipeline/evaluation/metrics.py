"""Metrics of one run, and which classes it tells apart."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipeline.errors import PipelineError
from pipeline.evaluation.classes import confusion, per_class
from pipeline.evaluation.classification import classification_metrics
from pipeline.evaluation.feature_space import feature_metrics
from pipeline.provenance import Provenance
from pipeline.tables import (
    check_finite,
    read_batches,
    read_table,
    read_table_metadata,
    read_vectors,
    write_table,
)

# Features that are checked together.
ROWS = 8_192


class Outputs(NamedTuple):
    """The tables to write."""

    metrics: Path
    per_class: Path
    confusion: Path


class Part(NamedTuple):
    """What a model said of the images of one part.

    Attributes:
        split: The part.
        predictions: Its rows of the predictions.
        features: Of the same images in the same order, float32 (n, d).
    """

    split: str
    predictions: pa.Table
    features: np.ndarray


def evaluate(
    predictions: Path,
    features: Path,
    manifest: Path,
    outputs: Outputs,
    settings: Mapping[str, Any],
    provenance: Provenance,
) -> None:
    """Write the metrics of a run's held-out parts, with accuracies by class and the confusion of classes.

    Args:
        predictions: The run's predictions.
        features: Features of the predicted images, perhaps among others.
        manifest: The target's; the classes' names are taken from it.
        outputs: The tables to write.
        settings: ``run``, the keys of the run.
        provenance: Kept in the tables.

    Raises:
        PipelineError: If there is no prediction, or a predicted image has no or no finite feature.
    """
    class_names = json.loads(read_table_metadata(manifest)["class_names"])
    metrics: list[dict[str, Any]] = []
    classes: list[dict[str, Any]] = []
    confusions: list[dict[str, Any]] = []
    for part in _parts(predictions, features):
        labels, said = (part.predictions[name].to_numpy() for name in ("label", "prediction"))
        found = classification_metrics(part.predictions)
        found |= feature_metrics(part.features, labels, f"{features}, {part.split} part")
        metrics += [
            {**settings["run"], "split": part.split, "metric": metric, "value": value}
            for metric, value in found.items()
        ]
        confusions.append(confusion(labels, said, part.split))
        classes += per_class(confusions[-1], class_names)
    write_table("metrics", outputs.metrics, _columns(metrics), provenance)
    write_table("per_class", outputs.per_class, _columns(classes), provenance)
    joined = {name: [value for part in confusions for value in part[name]] for name in confusions[0]}
    write_table("confusion", outputs.confusion, joined, provenance)


def _parts(predictions: Path, features: Path) -> Iterator[Part]:
    """Each part in the order of names, its features after its predictions' rows."""
    table = read_table("predictions", predictions)
    if not len(table):
        raise PipelineError(f"{predictions}: no validation or test image to evaluate")
    rows = _rows_of(table, features)
    check_finite(features, read_batches(features, ["sample_id", "feature"], ROWS))
    vectors = read_vectors("features", features, "feature")
    splits = np.array(table["split"].to_pylist())
    for split in np.unique(splits).tolist():
        chosen = splits == split
        yield Part(split, table.filter(pa.array(chosen)), vectors[rows[chosen]])


def _rows_of(predictions: pa.Table, features: Path) -> np.ndarray:
    """The row of each predicted image's feature."""
    ids = read_table("features", features, ["sample_id"])["sample_id"]
    rows = compute.index_in(predictions["sample_id"], ids.combine_chunks())
    if rows.null_count:
        lacking = predictions["sample_id"].filter(rows.is_null())
        raise PipelineError(
            f"{features}: {rows.null_count} predicted images have no feature here, "
            f"sample {lacking[0].as_py()!r} first"
        )
    return rows.to_numpy()


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
