"""What each panel shows, and how well the model in it does."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.tables import read_table, read_table_metadata, write_table

# What names a model; recipe, selection and seed are null of the untouched backbone.
KEYS = ("backbone", "target", "selection", "recipe", "seed")


@dataclass(frozen=True)
class Panel:
    """One model's features of test images.

    Attributes:
        keys: By which tables name the run; ``recipe`` and those after it are None of the untouched backbone.
        method: How they came into the plane.
        measured: The name of its metrics: the recipe or, of the untouched backbone, what classifies its
            features; None where nothing does.
        points: float64 (n, 2), or (n, 3) on the unit sphere.
        labels: int64 (n,).
        class_names: In label order.
        variance: Share of the variance that the plane holds; None where it is no linear projection.
        metric: The metric that counts for the target.
        accuracy: It on all test images; None where it is not known.
        s_dbw: S_Dbw of the features of all test images; None where it is not known.
    """

    keys: Mapping[str, Any]
    method: str
    measured: str | None
    points: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    variance: float | None
    metric: str
    accuracy: float | None
    s_dbw: float | None


def read_panels(maps: Sequence[Path], metrics: Sequence[Path], settings: Mapping[str, Any]) -> list[Panel]:
    """The panels in the order of the settings.

    Args:
        maps: A feature_map table each.
        metrics: Metrics of the runs among them, and of classifiers of the untouched backbone's features.
        settings: ``panels``, the keys of each map with its ``method`` and ``measured``; ``main_metric`` by
            target.

    Raises:
        PipelineError: If the test metric of what is measured is not among those given.
    """
    found = _test_metrics(metrics)
    return [
        _panel(path, panel, settings["main_metric"][panel["target"]], found)
        for path, panel in zip(maps, settings["panels"], strict=True)
    ]


def write_panels(output: Path, panels: Sequence[Panel], provenance: Provenance) -> None:
    """Write the feature_maps table: a row for each panel."""
    rows = [
        {
            **panel.keys,
            "method": panel.method,
            "measured": panel.measured,
            "images": len(panel.labels),
            "variance": panel.variance,
            "metric": panel.metric,
            "accuracy": panel.accuracy,
            "s_dbw": panel.s_dbw,
        }
        for panel in panels
    ]
    write_table("feature_maps", output, {name: [row[name] for row in rows] for name in rows[0]}, provenance)


def _panel(
    path: Path, panel: Mapping[str, Any], metric: str, metrics: Mapping[tuple[Any, ...], Mapping[str, float]]
) -> Panel:
    table, metadata = read_table("feature_map", path), read_table_metadata(path)
    keys = {key: panel[key] for key in KEYS}
    own: Mapping[str, float] = {}
    if panel["measured"] is not None:
        floor = {"selection": "none", "recipe": panel["measured"], "seed": 0}
        names = tuple((keys if keys["recipe"] is not None else keys | floor).values())
        own = metrics.get(names, {})
        if metric not in own:
            name = "/".join(map(str, names))
            raise PipelineError(f"run {name}: its test {metric} is not among the metrics given")
    return Panel(
        keys=keys,
        method=panel["method"],
        measured=panel["measured"],
        points=np.stack([table[name].to_numpy() for name in "xyz" if name in table.column_names], axis=1),
        labels=table["label"].to_numpy().astype(np.int64),
        class_names=json.loads(metadata["class_names"]),
        variance=json.loads(metadata.get("variance", "null")),
        metric=metric,
        accuracy=own.get(metric),
        s_dbw=own.get("s_dbw"),
    )


def _test_metrics(paths: Sequence[Path]) -> dict[tuple[Any, ...], dict[str, float]]:
    """By the keys of each run."""
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for path in paths:
        for row in read_table("metrics", path).to_pylist():
            if row["split"] == "test":
                found.setdefault(tuple(row[key] for key in KEYS), {})[row["metric"]] = row["value"]
    return found
