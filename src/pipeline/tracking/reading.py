"""Histories and tables as they are on disk, finished or still being written."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

# Folders below the results that have a history: what made them, and what their path names.
LAYOUT = {
    "backbones": ("pre-training", ("backbone",)),
    "initialisations": ("initialisation", ("backbone", "target", "initialisation", "seed")),
    "searches": ("trial", ("backbone", "target", "selection", "recipe", "trial")),
    "runs": ("fine-tuning", ("backbone", "target", "selection", "recipe", "seed")),
    "floors": ("floor", ("backbone", "target", "floor", "seed")),
}
# Trials that are halved have a folder for each rung below.
RUNG = re.compile(r"rung\d+")
COLUMNS = {"stage", "epoch", "split", "metric", "value"}
LINES, TABLE, METRICS, TIMINGS = "history.jsonl", "history.parquet", "metrics.parquet", "timings.parquet"
# What floors have where others have a history.
CHOICES = "choices.parquet"


@dataclass(frozen=True)
class Folder:
    """An output folder with a history; one MLflow run shows it.

    Attributes:
        key: Its path below the results.
        kind: What made it.
        names: What its path names, such as the backbone.
    """

    key: str
    kind: str
    names: Mapping[str, str] = field(hash=False)

    @property
    def table(self) -> str:
        """The table that a finished job leaves, whose record says what made it."""
        return CHOICES if self.kind == "floor" else TABLE

    @property
    def title(self) -> str:
        """Its name in lists and legends, what tells runs apart first."""
        names = self.names
        words = [
            names.get("recipe", self.kind),
            names.get("initialisation"),
            f"trial {names['trial']}" if "trial" in names else None,
            f"rung {names['rung']}" if "rung" in names else None,
            names.get("selection") if names.get("selection") != "none" else None,
            f"seed {names['seed']}" if "seed" in names else None,
            names.get("target"),
            names["backbone"],
        ]
        return " · ".join(word for word in words if word)


@dataclass(frozen=True)
class Point:
    """One value of one metric; `time` (milliseconds) is when, and does not count in comparisons."""

    name: str
    epoch: int
    value: float
    time: int = field(default=0, compare=False)


def folder_of(path: PurePath) -> Folder | None:
    """The folder with a history that `path`, relative to the results, is or lies in."""
    top, *parts = path.parts or ("",)
    if top not in LAYOUT:
        return None
    kind, names = LAYOUT[top]
    if len(parts) < len(names):
        return None
    if top == "searches" and RUNG.fullmatch("".join(parts[len(names) : len(names) + 1])):
        names = (*names, "rung")
    values = dict(zip(names, parts, strict=False))
    key = "/".join([top, *parts[: len(names)]])
    if "seed" in values:
        values["seed"] = values["seed"].removeprefix("seed")
    if "floor" in values:
        name = values["floor"].replace("_", " ").replace("-", " of ", 1)
        values |= {"recipe": f"floor: {name}", "selection": "none"}
    if "rung" in values:
        values["rung"] = values["rung"].removeprefix("rung")
    return Folder(key, kind, values)


def find_folders(results: Path) -> dict[str, Folder]:
    """Every folder that holds a history, or the choices of a floor, by key."""
    found = {}
    patterns = ["/".join([top, *["*"] * len(names), "history.*"]) for top, (_, names) in LAYOUT.items()]
    for pattern in [*patterns, "searches/*/*/*/*/*/rung*/history.*", f"floors/*/*/*/*/{CHOICES}"]:
        for path in sorted(results.glob(pattern)):
            folder = folder_of(path.relative_to(results))
            if folder is not None and path.name in (LINES, folder.table):
                found[folder.key] = folder
    return found


def read_history(path: Path) -> list[Point]:
    """The history of a folder, finished or not.

    Stages after its first one put their name before the metric's.
    """
    table = path / TABLE
    rows = _rows("history", table) if table.exists() else read_lines(path / LINES)
    rows = [row for row in rows if row.keys() >= COLUMNS]
    first = rows[0]["stage"] if rows else None
    return [_point(row, row["epoch"], "" if row["stage"] == first else f"{row['stage']}/") for row in rows]


def read_metrics(path: Path, epoch: int) -> list[Point]:
    """The metrics of a finished run, as values of its last epoch; how many images is none of them."""
    return [_point(row, epoch) for row in _rows("metrics", path / METRICS) if row["metric"] != "images"]


def read_choice(path: Path) -> dict[str, str]:
    """The setting that a floor chose, as a parameter; empty of other folders."""
    table = path / CHOICES
    rows = _rows("choices", table) if table.exists() else []
    return {f"chosen.{row['setting']}": f"{row['value']:g}" for row in rows if row["chosen"]}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file that may be growing; a half-written last one is left out."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = content[: content.rfind(b"\n") + 1]
    return list(_parsed(whole.splitlines()))


def training_seconds(path: Path) -> dict[str, float]:
    """How long each stage of the training in a folder took, by its timings; empty where it has none."""
    table = path / TIMINGS
    seconds: dict[str, float] = {}
    for row in _rows("timings", table) if table.exists() else []:
        seconds[row["stage"]] = seconds.get(row["stage"], 0.0) + row["seconds"]
    return seconds


def digest_of_content(paths: Iterable[Path], *texts: str) -> str:
    """Digest of the bytes of those of `paths` that exist, and of `texts`."""
    total = hashlib.sha256()
    for path in paths:
        if path.exists():
            total.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    for text in texts:
        total.update(f"{text}\0".encode())
    return total.hexdigest()[:16]


def flattened(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as dotted keys and text.

    >>> flattened({"optimiser": {"name": "sgd", "groups": {}}, "betas": [0.9, 0.999]})
    {'optimiser.name': 'sgd', 'betas': '[0.9, 0.999]'}
    """
    flat = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": text for inner, text in flattened(value).items()})
        else:
            flat[key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _point(row: Mapping[str, Any], epoch: int, prefix: str = "") -> Point:
    value = float(row["value"])
    # One NaN object, so that equal histories compare equal.
    return Point(f"{prefix}{row['split']}/{row['metric']}", epoch, math.nan if math.isnan(value) else value)


def _parsed(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The lines that are JSON objects; what a crashed disk left is passed over."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def _rows(kind: str, path: Path) -> list[dict[str, Any]]:
    from pipeline.tables import read_table

    return read_table(kind, path).to_pylist()
