"""The files that a dataset is made of. Standard library only: its digest is taken by the Snakefile."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import PipelineError, did_you_mean, listed

# Files that are taken for images; all others in a folder are left alone.
IMAGE_SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)


def image_files(root: Path) -> Iterator[str]:
    """Paths of the images below `root`, relative to it, hidden files and folders left out.

    Raises:
        PipelineError: If there is no such folder, or a name is not UTF-8.
    """
    if not root.is_dir():
        raise PipelineError(f"{root}: no such folder")
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(folder).relative_to(root)
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield _as_text((below / name).as_posix(), root)


def parquet_files(path: Path) -> list[Path]:
    """The file itself, or the ``*.parquet`` files of a folder in order of their names.

    Raises:
        PipelineError: If there is none.
    """
    if path.is_dir():
        files = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
        if not files:
            raise PipelineError(f"{path}: this folder holds no *.parquet file")
        return files
    if not path.is_file():
        raise PipelineError(f"{path}: no such file or folder")
    return [path]


class CsvTable(NamedTuple):
    """A CSV file: its values by column, and the line in the file that each row ends on."""

    columns: dict[str, list[str]]
    lines: list[int]


def read_csv(path: Path) -> CsvTable:
    """Read a CSV file with a header, in UTF-8 with or without a byte order mark; empty lines do not count.

    Raises:
        PipelineError: If it is missing, empty, not UTF-8, no CSV, or has rows longer or shorter than
            its header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: no such CSV file") from error
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise PipelineError(f"{path}: not a CSV file (line {reader.line_num}: {error})") from error
    if not header or len(set(header)) < len(header):
        raise PipelineError(f"{path}: expected a header of different names, found {','.join(header)!r}")
    ragged = [
        f"line {line} has {len(row)} values, the header {len(header)}"
        for line, row in rows
        if len(row) != len(header)
    ]
    if ragged:
        raise PipelineError(f"{path}: rows of another length than the header:\n{listed(ragged)}")
    columns = {name: [row[place] for _, row in rows] for place, name in enumerate(header)}
    return CsvTable(columns, [line for line, _ in rows])


def csv_images(path: Path, table: CsvTable, column: str, root: Path) -> list[str]:
    """Paths of the images that a CSV file lists, relative to `root`.

    Raises:
        PipelineError: If the column is missing, or a path is empty or leaves `root`.
    """
    require_column(path, column, table.columns)
    base = os.path.abspath(root)
    paths, outside = [], []
    for line, value in zip(table.lines, table.columns[column], strict=True):
        relative = os.path.relpath(os.path.join(base, value), base)
        if not value or relative.split(os.sep)[0] in (os.pardir, os.curdir):
            outside.append(f"line {line}: found {value!r}")
        paths.append(Path(relative).as_posix())
    if outside:
        raise PipelineError(f"{path}: expected paths of images inside {root}:\n{listed(outside)}")
    return paths


def csv_root(settings: Mapping[str, Any]) -> Path:
    """The folder that the paths in a CSV file are relative to."""
    return Path(settings["root"]) if settings["root"] is not None else Path(settings["path"]).parent


def require_column(path: Path, column: str, columns: Iterable[str]) -> None:
    """Raise PipelineError, naming the nearest column, unless `column` is one of `columns`."""
    names = list(columns)
    if column not in names:
        raise PipelineError(
            f"{path}: no column {column!r} (found {', '.join(names)}){did_you_mean(column, names)}"
        )


def _refuse(error: OSError) -> None:
    raise PipelineError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _as_text(name: str, root: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise PipelineError(f"{root}: a file's name is not UTF-8: {name!a}") from error
    return name
