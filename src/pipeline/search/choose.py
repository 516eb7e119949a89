"""Rank the trials of a recipe."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.evaluation.classification import classification_metrics
from pipeline.provenance import Provenance
from pipeline.tables import read_table, write_table


def choose(
    predictions: list[Path],
    output: Path,
    settings: Mapping[str, Any],
    provenance: Provenance,
    before: Path | None = None,
) -> None:
    """Write a row for each trial, best first; the first are chosen (UOT paper, appendix A).

    Of trials that are equally good the first of the grid is the best. In successive halving (Jamieson
    and Talwalkar 2016, Algorithm 1) the chosen go on to the next rung, and those that went no further
    than an earlier one stand below, as it ranked them.

    Args:
        predictions: Of each trial that takes part, in the order of the grid, on the validation part.
        output: The search table to write.
        settings: ``metric``; ``trials``, name and values of each; ``keep``, how many are chosen;
            ``rung``, its number, None where there is no halving; and ``share`` of the budget that trials
            were trained for.
        provenance: Kept in the table.
        before: The table of the rung before; those it chose take part. None is all trials.

    Raises:
        PipelineError: If a trial was judged by other images than the first, or on none.
    """
    earlier = read_table("search", before).sort_by("rank").to_pylist() if before else []
    chosen = {row["trial"] for row in earlier if row["chosen"]}
    trials = [trial for trial in settings["trials"] if not before or trial["trial"] in chosen]
    if len(predictions) != len(trials):
        raise PipelineError(f"found predictions of {len(predictions)} trials; expected {len(trials)}")
    measured = [_measured(path, settings["metric"], predictions[0]) for path in predictions]
    order = np.argsort([-value for value, _ in measured], kind="stable")
    rows = [_row(trials[index], measured[index], settings) for index in order]
    rows += [row for row in earlier if not row["chosen"]]
    for rank, row in enumerate(rows, start=1):
        row |= {"rank": rank, "chosen": rank <= settings["keep"]}
    write_table("search", output, {name: [row[name] for row in rows] for name in rows[0]}, provenance)


def _row(
    trial: Mapping[str, Any], measured: tuple[float, int], settings: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "trial": trial["trial"],
        "values": json.dumps(trial["values"]),
        "metric": settings["metric"],
        "value": measured[0],
        "images": measured[1],
        "rung": settings["rung"],
        "share": settings["share"],
    }


def _measured(path: Path, metric: str, first: Path) -> tuple[float, int]:
    """Value of the metric, and over how many images."""
    table = read_table("predictions", path)
    if not len(table):
        raise PipelineError(f"{path}: no validation image to judge a trial by")
    if not table["sample_id"].equals(read_table("predictions", first, ["sample_id"])["sample_id"]):
        raise PipelineError(f"{path}: of other images than {first}")
    return classification_metrics(table)[metric], len(table)
