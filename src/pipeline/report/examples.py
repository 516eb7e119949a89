"""Selections as pictures: the units at both ends of a ranking, and the target they are for."""

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images.cache import open_images
from pipeline.provenance import Provenance, digest_of_file
from pipeline.report.data import Inputs, record_of
from pipeline.report.explanations import SHOWN, Explanation, explanation_of
from pipeline.report.numbers import percent
from pipeline.selection.select import FACTS
from pipeline.tables import Samples, feature_matrix, read_samples, read_table

# Side in pixels of an example image, twice what is shown, and the largest PNG that is kept as such.
SIDE, PNG_BYTES = 96, 4096
METHODS = {
    "uot": "Unbalanced optimal transport; the score is the logarithm of the mass that it takes from a unit.",
    "greedy_ot": "By distance to the target's classes; the score is minus the mean distance to all of them.",
    "nearest": "By the nearest target class; the score is minus the distance to it.",
    "random": "Drawn at random, whatever the target; the score is the number drawn.",
    "label": "Found by name or concept, whatever the features; the score is 1 for what was found.",
}
# Methods whose ranking does not say what is unlike the target, and how their columns are headed.
UNRANKED = {"random": ("Drawn", "Drawn next"), "label": ("Found", "Found next")}


@dataclass(frozen=True)
class Dataset:
    """A dataset's rows, and its decoded images where the page shows some."""

    name: str
    record: Provenance
    samples: Samples
    images: Path | None

    @cached_property
    def row_of(self) -> pa.Array:
        """The sample_ids, to look rows up in."""
        return pa.array(self.samples.ids)

    @cached_property
    def pixels(self) -> np.ndarray | None:
        """uint8 (n, size, size, 3), mapped from the file."""
        return open_images(self.images, len(self.samples.ids)) if self.images else None

    def thumbnails(self, rows: Sequence[int]) -> list[str]:
        """Data URIs of the images in these rows; none where the images are not at hand."""
        return [] if self.pixels is None else [_data_uri(self.pixels[row]) for row in rows]


@dataclass(frozen=True)
class Units:
    """Units of a dataset by one backbone."""

    dataset: Dataset
    record: Provenance
    table: pa.Table
    membership: pa.Table

    @cached_property
    def means(self) -> np.ndarray:
        """Unit means at unit length, (n, d)."""
        means = feature_matrix(self.table, "mean").astype(np.float64)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(float).tiny)

    def rows(self, unit: int) -> np.ndarray:
        """Row numbers in the dataset of a unit's images."""
        members = self.membership["sample_id"].filter(compute.equal(self.membership["unit_id"], unit))
        return compute.index_in(members, self.dataset.row_of).to_numpy()


@dataclass(frozen=True)
class Unit:
    """One unit of a ranking, as it is shown.

    Attributes:
        rank: From 1.
        name: Of the class, cluster or image.
        examples: Images as data URIs.
        stability: Share of draws that select it; None of a unit that is not selected, or where the
            selection does not depend on the target's images.
    """

    rank: int
    name: str
    examples: list[str]
    stability: float | None


@dataclass(frozen=True)
class End(Unit):
    """One unit at an end of a ranking.

    Attributes:
        score: As the selection wrote it.
        selected: Whether it is reused.
        count: Its images.
        contents: For a cluster of labelled images, its most common classes and their shares.
        nearest: The target class with the nearest mean, and the cosine between the two.
    """

    score: float
    selected: bool
    count: int
    contents: list[tuple[str, float]]
    nearest: tuple[str, float] | None


@dataclass(frozen=True)
class Selection:
    """One ranking: its units at both ends, and the scores of all.

    Attributes:
        settings: How units are scored.
        units: How units are made.
        facts: What the method says of how it came by them.
        scores: Of every unit, by rank.
        marks: Whether each is reused.
        images: Images in those that are.
        chosen: Those that are, the first of them.
        most: The first units.
        least: The last, from the end; none where a ranking does not say what is unlike the target.
        explanation: What it rests on.
    """

    backbone: str
    source: str
    target: str
    name: str
    settings: Mapping[str, Any]
    units: Mapping[str, Any]
    facts: Mapping[str, Any]
    scores: list[float]
    marks: list[bool]
    images: int
    chosen: list[Unit]
    most: list[End]
    least: list[End]
    explanation: Explanation

    @property
    def count(self) -> int:
        """Units that are reused."""
        return sum(self.marks)

    @property
    def explained(self) -> str:
        """What it is, in a sentence."""
        method = str(self.settings.get("method", ""))
        how = METHODS.get(method, f"By {method.replace('_', ' ')}.")
        number = f"{self.count:,} of {len(self.scores):,}"
        if self.units.get("by") == "sample":
            return f"{number} images. {how}"
        kind = "clusters" if self.units.get("by") == "cluster" else "classes"
        return f"{number} {kind}, {self.images:,} images. {how}"

    @property
    def stretches(self) -> list[tuple[float, float]]:
        """Where the selected ranks are in the profile: start and width, in percent."""
        edges = np.flatnonzero(np.diff([False, *self.marks, False]))
        total = len(self.marks)
        starts, ends = edges[::2], edges[1::2]
        return [
            (round(100 * float(start) / total, 2), round(100 * float(end - start) / total, 2))
            for start, end in zip(starts, ends, strict=True)
        ]

    @property
    def facts_in_words(self) -> str:
        """How the plan was found, in a sentence; nothing of a method without facts."""
        parts = []
        if "iterations" in self.facts:
            reached = f" to {self.facts['accuracy']:.1g} in log P1" if "accuracy" in self.facts else ""
            parts.append(f"converged in {self.facts['iterations']:,} iterations{reached}")
        if "target_mass_carried" in self.facts:
            parts.append(f"carries {percent(self.facts['target_mass_carried'])} % of the target's mass")
        return f"The plan {' and '.join(parts)}." if parts else ""

    @property
    def warning(self) -> str:
        """What the method warns of; empty where all is well."""
        return str(self.facts.get("warning", ""))

    @property
    def profile(self) -> str:
        """Scores by rank, as points of a line in a box of 100 by 100."""
        low, high = min(self.scores), max(self.scores)
        last, height = max(len(self.scores) - 1, 1), (high - low) or 1.0
        kept = _spread(np.arange(len(self.scores)), 200)
        points = ((100 * n / last, 100 * (high - self.scores[n]) / height) for n in kept)
        return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)

    @property
    def columns(self) -> list[tuple[str, list[End]]]:
        """Units side by side, under their titles."""
        if self.least:
            return [("Most similar", self.most), ("Least similar", self.least)]
        half = (len(self.most) + 1) // 2
        titles = UNRANKED.get(str(self.settings.get("method")), ("Most similar", "And next"))
        columns = zip(titles, (self.most[:half], self.most[half:]), strict=True)
        return [(title, units) for title, units in columns if units]

    @property
    def ranks_by_similarity(self) -> bool:
        """Whether its last units are the least similar ones; those of a random draw are not."""
        return self.settings.get("method") not in UNRANKED


def read_datasets(inputs: Inputs) -> dict[str, Dataset]:
    """Every dataset by its name."""
    images = {path.parent.name: path for path in reversed(inputs.images)}
    datasets = {}
    for folder in inputs.datasets:
        manifest = folder / "manifest.parquet"
        record = record_of(read_table("manifest", manifest, []))
        datasets[folder.name] = Dataset(folder.name, record, read_samples(manifest), images.get(folder.name))
    return datasets


def read_units(folders: Sequence[Path], datasets: Mapping[str, Dataset]) -> dict[str, Units]:
    """Units by the digest that selections name them by; folders are ``.../dataset/units``."""
    found = {}
    for folder in folders:
        table = read_table("units", folder / "units.parquet")
        membership = read_table("membership", folder / "membership.parquet")
        dataset = datasets[folder.parent.name]
        found[digest_of_file(folder / "units.parquet")] = Units(dataset, record_of(table), table, membership)
    return found


def read_selection(
    path: Path,
    units: Mapping[str, Units],
    explanations: Mapping[str, Explanation],
    ends: int,
    examples: int,
) -> Selection:
    """A selection, ``.../backbone/source/target/name.parquet``.

    Args:
        path: The table.
        units: As `read_units` gives them.
        explanations: As `read_explanations` gives them.
        ends: Units to show at each end.
        examples: Images of each.

    Raises:
        PipelineError: If the units that it ranks, or its explanation, are not among those given.
    """
    *_, backbone, source, target, _ = path.parts
    table = read_table("selection", path)
    record = record_of(table)
    try:
        ranked, wanted = (units[record.inputs[side]] for side in ("source", "target"))
    except KeyError as error:
        raise PipelineError(f"{path}: its {error.args[0]} units are not among --units") from error
    explanation = explanation_of(path, explanations)
    if explanation is None:
        raise PipelineError(f"{path}: what explains it is not among --explanation")
    rows = table.sort_by("rank").to_pylist()
    picked = [row for row in rows if row["selected"]]
    sizes = dict(zip(ranked.table["unit_id"].to_pylist(), ranked.table["images"].to_pylist(), strict=True))
    first, last = rows[:ends], rows[max(ends, len(rows) - ends) :]
    stability: Mapping[int, float] = explanation.stability
    if record.settings.get("method") in UNRANKED:  # what was not picked says nothing
        first, last, stability = picked[: 2 * ends], [], {}

    def shown(row: Mapping[str, Any]) -> End:
        return _end(_unit(row, ranked, stability, examples), row, ranked, wanted)

    return Selection(
        backbone,
        source,
        target,
        path.stem,
        record.settings,
        ranked.record.settings,
        json.loads((table.schema.metadata or {}).get(FACTS.encode(), "{}")),
        [row["score"] for row in rows],
        [row["selected"] for row in rows],
        sum(sizes[row["unit_id"]] for row in picked),
        [_unit(row, ranked, stability, 1) for row in picked[:SHOWN]],
        [shown(row) for row in first],
        [shown(row) for row in reversed(last)],
        explanation,
    )


def _unit(row: Mapping[str, Any], ranked: Units, stability: Mapping[int, float], examples: int) -> Unit:
    images = ranked.dataset.thumbnails(_spread(ranked.rows(row["unit_id"]), examples))
    share = stability.get(row["unit_id"]) if row["selected"] else None
    return Unit(row["rank"], row["name"], images, share)


def _end(unit: Unit, row: Mapping[str, Any], ranked: Units, wanted: Units) -> End:
    members = ranked.rows(row["unit_id"])
    dataset = ranked.dataset
    contents = []
    labels = dataset.samples.labels[members]
    if ranked.record.settings.get("by") == "cluster" and dataset.samples.class_names and len(labels):
        common = sorted(Counter(labels.tolist()).items(), key=lambda item: (-item[1], item[0]))[:3]
        contents = [(dataset.samples.class_names[label], count / len(labels)) for label, count in common]
    return End(
        **vars(unit),
        score=row["score"],
        selected=row["selected"],
        count=len(members),
        contents=contents,
        nearest=_nearest(row["unit_id"], ranked, wanted),
    )


def _nearest(unit: int, ranked: Units, wanted: Units) -> tuple[str, float] | None:
    position = int(np.flatnonzero(ranked.table["unit_id"].to_numpy() == unit)[0])
    if ranked.means.shape[1] != wanted.means.shape[1]:
        return None
    cosines = wanted.means @ ranked.means[position]
    best = int(cosines.argmax())
    return wanted.table["name"][best].as_py(), float(cosines[best])


def examples_of_target(dataset: Dataset, most: int) -> list[tuple[str, str]]:
    """A training image of each class, with the class's name; of at most so many classes."""
    names, labels = dataset.samples.class_names, dataset.samples.labels
    rows = dataset.samples.rows("train")
    first = {int(labels[row]): int(row) for row in reversed(rows)}
    classes = _spread(np.array([label for label in range(len(names)) if label in first]), most)
    images = dataset.thumbnails([first[label] for label in classes])
    return list(zip((names[label] for label in classes), images, strict=False))


def _spread(items: np.ndarray, count: int) -> list[int]:
    """At most `count` of the items, evenly spaced."""
    positions = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [int(items[position]) for position in positions]


def _data_uri(pixels: np.ndarray) -> str:
    grey = (pixels == pixels[..., :1]).all()
    image = Image.fromarray(pixels[..., 0] if grey else np.asarray(pixels))
    if image.width > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    content, kind = _encoded(image, "PNG", optimize=True), "png"
    if len(content) > PNG_BYTES:
        content, kind = _encoded(image, "JPEG", quality=85), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
