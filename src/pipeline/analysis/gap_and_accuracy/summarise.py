"""Means over seeds of domain gaps and of the accuracy reached with the same selection."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.tables import read_table

Row = Mapping[str, Any]
# What runs of one recipe that differ in their seed have in common, beside the measured selection.
KEYS = ("backbone", "target", "recipe", "epoch", "measured")


def gathered(paths: Sequence[Path]) -> pa.Table:
    """The domain gaps of all runs, in their order."""
    return pa.concat_tables([read_table("domain_gap", path) for path in paths]).unify_dictionaries()


def summarise(
    gaps: Iterable[Row], metrics: Sequence[Path], main_metric: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Mean and standard error over seeds for each recipe, epoch and measured selection.

    Of a single seed the error of the gap is that of its measurement, and accuracy has none.

    Args:
        gaps: Rows of domain_gap tables.
        metrics: Metrics of the runs.
        main_metric: The metric that counts for each target.

    Raises:
        PipelineError: If a run has no such metric on the test part.
    """
    accuracies = _accuracies(metrics, main_metric)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in gaps:
        groups.setdefault(tuple(row[key] for key in KEYS), []).append(row)
    return [
        {
            **dict(zip(KEYS, keys, strict=True)),
            "seeds": len(rows),
            **_mean(rows, "gap"),
            **_mean(rows, "difference"),
            **_accuracy(rows, accuracies),
        }
        for keys, rows in groups.items()
    ]


def _accuracies(metrics: Sequence[Path], main_metric: Mapping[str, str]) -> dict[tuple[Any, ...], float]:
    found = {}
    for path in metrics:
        for row in read_table("metrics", path).to_pylist():
            if row["split"] == "test" and row["metric"] == main_metric[row["target"]]:
                found[_run(row)] = row["value"]
    return found


def _run(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("backbone", "target", "selection", "recipe", "seed"))


def _mean(rows: Sequence[Row], name: str) -> dict[str, float]:
    values = np.array([row[name] for row in rows])
    error = _standard_error(values) if len(values) > 1 else rows[0][f"{name}_error"]
    return {name: float(values.mean()), f"{name}_error": error}


def _accuracy(rows: Sequence[Row], accuracies: Mapping[tuple[Any, ...], float]) -> dict[str, float | None]:
    """Of the runs themselves where they were trained with the measured selection."""
    if rows[0]["selection"] != rows[0]["measured"]:
        return {"accuracy": None, "accuracy_error": None}
    missing = next((row for row in rows if _run(row) not in accuracies), None)
    if missing is not None:
        raise PipelineError(
            f"run {'/'.join(map(str, _run(missing)))}: its test metric is not among those given"
        )
    values = np.array([accuracies[_run(row)] for row in rows])
    return {
        "accuracy": float(values.mean()),
        "accuracy_error": _standard_error(values) if len(values) > 1 else None,
    }


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
