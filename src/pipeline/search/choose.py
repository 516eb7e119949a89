"""Rank the trials of a recipe."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import classification_metrics
from pipeline.provenance import Provenance
from pipeline.tables import read_table, write_table


def choose(
    predictions: list[Path], output: Path, settings: Mapping[str, Any], provenance: Provenance
) -> None:
    """Write a row for each trial, best first; the first is chosen (UOT paper, appendix A).

    Of trials that are equally good the first of the grid is the best.

    Args:
        predictions: Of each trial, on the validation part.
        output: The search table to write.
        settings: ``metric``; and ``trials``, name and values of each.
        provenance: Kept in the table.

    Raises:
        PipelineError: If a trial was judged by other images than the first, or on none.
    """
    trials, metric = settings["trials"], settings["metric"]
    if len(predictions) != len(trials):
        raise PipelineError(f"found predictions of {len(predictions)} trials; expected {len(trials)}")
    measured = [_measured(path, metric, predictions[0]) for path in predictions]
    values = np.array([value for value, _ in measured])
    order = np.argsort(-values, kind="stable")
    ranks = np.arange(1, len(order) + 1, dtype=np.int32)
    columns = {
        "trial": [trials[index]["trial"] for index in order],
        "values": [json.dumps(trials[index]["values"]) for index in order],
        "metric": [metric] * len(order),
        "value": values[order],
        "images": [measured[index][1] for index in order],
        "rank": ranks,
        "chosen": ranks == 1,
    }
    write_table("search", output, columns, provenance)


def _measured(path: Path, metric: str, first: Path) -> tuple[float, int]:
    """Value of the metric, and over how many images."""
    table = read_table("predictions", path)
    if not len(table):
        raise PipelineError(f"{path}: no validation image to judge a trial by")
    if not table["sample_id"].equals(read_table("predictions", first, ["sample_id"])["sample_id"]):
        raise PipelineError(f"{path}: of other images than {first}")
    return classification_metrics(table)[metric], len(table)
