"""What the page is made of, read from tables and their records."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.provenance import Provenance, digest_of_file, read_provenance
from pipeline.provenance.record import METADATA_KEY
from pipeline.tables import read_table

NO_SELECTION = "none"


@dataclass(frozen=True)
class Inputs:
    """Files and folders that the command names. Folders have the names that docs/architecture.md gives."""

    comparison: Path
    metrics: Path
    datasets: list[Path]
    images: list[Path]
    backbones: list[Path]
    units: list[Path]
    selections: list[Path]
    leaks: list[Path]
    explanations: list[Path]
    initialisations: list[Path]
    runs: list[Path]
    floors: list[Path]
    searches: list[Path]
    recall: Path | None
    recall_figures: Path | None
    claims: Path | None
    domain_gap: Path | None
    feature_maps: Path | None
    feature_map_figures: Path | None


class Way(NamedTuple):
    """A recipe, and the selection whose data it reuses (``none`` without reuse)."""

    recipe: str
    selection: str

    def __str__(self) -> str:
        return self.recipe if self.selection == NO_SELECTION else f"{self.recipe} · {self.selection}"


class Pair(NamedTuple):
    """What runs are compared within."""

    backbone: str
    target: str


class Curve(NamedTuple):
    """One metric over a run's epochs."""

    epochs: np.ndarray
    values: np.ndarray


# By (split, metric).
History = dict[tuple[str, str], Curve]


class Time(NamedTuple):
    """What a job's training took.

    Attributes:
        images: Images that went through training.
        seconds: Time that it took, evaluation and loading apart.
        device: Where.
    """

    images: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Training:
    """A job that trained: pre-training, a first stage, or a run.

    Attributes:
        record: What made it.
        history: Its curves.
        times: Of each stage in it.
        digest: Of what it made, as the records of its readers name it.
    """

    record: Provenance
    history: History
    times: dict[str, Time]
    digest: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its resolved settings."""
        return self.record.settings


@dataclass(frozen=True)
class Run(Training):
    """A run and its keys."""

    pair: Pair
    way: Way
    seed: int


@dataclass(frozen=True)
class Initialisation(Training):
    """The first stage of runs."""

    pair: Pair
    name: str
    seed: int


@dataclass(frozen=True)
class Backbone:
    """A backbone; `training` where it was pre-trained here."""

    name: str
    record: Provenance
    training: Training | None


def read_run(folder: Path) -> Run:
    """A run by its folder; the record in it says which."""
    training = _read_training(folder)
    keys = training.settings["run"]
    pair = Pair(keys["backbone"], keys["target"])
    return Run(**vars(training), pair=pair, way=Way(keys["recipe"], keys["selection"]), seed=keys["seed"])


def read_initialisation(folder: Path) -> Initialisation:
    """A first stage by its folder, ``.../backbone/target/initialisation/seed``."""
    *_, backbone, target, _, _ = folder.parts
    training = _read_training(folder)
    settings = training.settings
    name = settings["initialise"]["name"]
    return Initialisation(**vars(training), pair=Pair(backbone, target), name=name, seed=settings["seed"])


def read_backbone(folder: Path) -> Backbone:
    """A backbone by its folder."""
    record = read_provenance(folder / "weights.safetensors")
    if record is None:
        record = Provenance("unknown", {}, "", {}, {})
    # A folder that once pre-trained may still hold the history of then.
    trained = record.step == "pipeline.pretraining"
    return Backbone(folder.name, record, _read_training(folder) if trained else None)


def _read_training(folder: Path) -> Training:
    table = read_table("history", folder / "history.parquet")
    # All files of a step carry the same record, so this is the digest of its weights as well.
    digest = digest_of_file(folder / "history.parquet")
    return Training(record_of(table), _history(table), read_times(folder / "timings.parquet"), digest)


def record_of(table: pa.Table) -> Provenance:
    """The record inside a table that was read."""
    return Provenance(**json.loads(table.schema.metadata[METADATA_KEY.encode()]))


def _history(table: pa.Table) -> History:
    split, metric = _names(table, "split"), _names(table, "metric")
    epoch, value = table["epoch"].to_numpy(), table["value"].to_numpy()
    curves: History = {}
    for key in dict.fromkeys(zip(split.tolist(), metric.tolist(), strict=True)):
        rows = (split == key[0]) & (metric == key[1])
        curves[key] = Curve(epoch[rows], value[rows])
    return curves


def read_times(path: Path) -> dict[str, Time]:
    """What each stage of a job took, from a ``timings`` table."""
    table = read_table("timings", path)
    stage, device = _names(table, "stage"), _names(table, "device")
    images, seconds = table["images"].to_numpy(), table["seconds"].to_numpy()
    times = {}
    for name in dict.fromkeys(stage.tolist()):
        rows = stage == name
        devices = ", ".join(dict.fromkeys(device[rows].tolist()))
        times[name] = Time(int(images[rows].sum()), float(seconds[rows].sum()), devices)
    return times


def _names(table: pa.Table, column: str) -> np.ndarray:
    return np.array(table[column].to_pylist(), dtype=object)
