"""Predictions as text for the terminal, and as a table."""

import csv
import io
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.predict.classify import Predictions
from pipeline.tables import atomic_write, write_table
from pipeline.text import aligned

FORMATS = (".parquet", ".csv")


def require_format(output: Path) -> None:
    """Raise PipelineError unless a table can be written in the format that the name says."""
    if output.suffix not in FORMATS:
        raise PipelineError(
            f"{output}: found {output.suffix or 'no suffix'}; expected {' or '.join(FORMATS)}"
        )


def columns_of(found: Predictions) -> dict[str, Any]:
    """Columns ``path``, ``prediction``, ``probability``, and ``prediction_2`` and so on, up to 5 classes."""
    columns: dict[str, Any] = {"path": found.files}
    for place, (classes, probabilities) in enumerate(
        zip(found.classes.T, found.probabilities.T, strict=True)
    ):
        ending = f"_{place + 1}" if place else ""
        columns[f"prediction{ending}"] = [found.class_names[number] for number in classes]
        columns[f"probability{ending}"] = probabilities
    return columns


def write_predictions(output: Path, found: Predictions) -> None:
    """Write the table, atomically."""
    columns = columns_of(found)
    if output.suffix == ".parquet":
        write_table("classified", output, columns, found.provenance)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    atomic_write(output, text.getvalue())


def as_text(found: Predictions) -> list[str]:
    """Lines for the terminal: file, prediction, its probability, and the next classes with theirs."""
    rows = [["image", "prediction", "probability", "next"]]
    for file, classes, probabilities in zip(found.files, found.classes, found.probabilities, strict=True):
        best, *others = (
            (found.class_names[number], f"{share:.1%}")
            for number, share in zip(classes, probabilities, strict=True)
        )
        rows.append([file, *best, ", ".join(f"{name} {share}" for name, share in others)])
    return aligned(rows, left=[0, 1, 3])
