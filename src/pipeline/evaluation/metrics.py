"""Metrics of one run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.tables import feature_matrix, read_table, write_table


def evaluate(predictions: Path, output: Path, settings: Mapping[str, Any], provenance: Provenance) -> None:
    """Write the metrics of a run's held-out parts.

    Args:
        predictions: The run's predictions.
        output: The metrics table to write.
        settings: ``run``, the keys of the run.
        provenance: Kept in the table.
    """
    table = read_table("predictions", predictions)
    if not len(table):
        raise PipelineError(f"{predictions}: no validation or test image to evaluate")
    rows = []
    splits = np.array(table["split"].to_pylist())
    for split in np.unique(splits):
        part = table.filter(pa.array(splits == split))
        for metric, value in classification_metrics(part).items():
            rows.append({**settings["run"], "split": str(split), "metric": metric, "value": value})
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    write_table("metrics", output, columns, provenance)


def classification_metrics(predictions: pa.Table) -> dict[str, float]:
    """Top-1 and mean per-class accuracy in 0..1, and the mean negative log-likelihood in nats."""
    labels = predictions["label"].to_numpy()
    hits = predictions["prediction"].to_numpy() == labels
    probabilities = feature_matrix(predictions, "probabilities")
    likelihood = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    smallest = np.finfo(np.float32).tiny
    return {
        "top1": float(hits.mean()),
        "mean_per_class": float(np.mean([hits[labels == c].mean() for c in np.unique(labels)])),
        "negative_log_likelihood": float(-np.log(np.maximum(likelihood, smallest)).mean()),
        "images": float(len(labels)),
    }
