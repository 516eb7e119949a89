"""A CSV file of image paths, with labels and parts where it has them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.datasets.files import csv_images, csv_root, read_csv, require_column
from pipeline.datasets.listing import CARRIED, Listing, images_of_files, require_rows


def read(settings: Mapping[str, Any]) -> Listing:
    """List the rows of a CSV file. Labels are integers where all of them are, else names.

    Raises:
        PipelineError: If the file is no CSV with the named columns, or a path leaves the root.
    """
    path = Path(settings["path"])
    root = csv_root(settings)
    table = read_csv(path)
    names = csv_images(path, table, settings["image"], root)
    require_rows(path, len(names))
    columns = {"sample_id": pa.array(names, pa.string())}
    if settings["label"] is not None:
        require_column(path, settings["label"], table.columns)
        columns["label"] = _labels(table.columns[settings["label"]])
    if settings["split_column"] != "split":
        require_column(path, settings["split_column"], table.columns)
    kept = {"split": settings["split_column"], **{name: name for name in CARRIED}}
    for name, column in kept.items():
        if column in table.columns:
            columns[name] = pa.array(table.columns[column], pa.string())
    return Listing(
        rows=pa.table(columns),
        images=images_of_files([str(root / name) for name in names]),
        locate=lambda row: f"{path} line {table.lines[row]}",
    )


def _labels(values: list[str]) -> pa.Array:
    stripped = [value.strip() or None for value in values]
    try:
        numbers = [int(value) if value is not None else None for value in stripped]
    except ValueError:
        return pa.array(stripped, pa.string())
    # 007 and 7 may be two classes, so only plain numbers count as numbers.
    plain = all(str(number) == value for number, value in zip(numbers, stripped, strict=True) if value)
    return pa.array(numbers, pa.int64()) if plain else pa.array(stripped, pa.string())
