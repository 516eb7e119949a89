"""Results that no run made: every table that the report reads, small and with known numbers."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from pipeline.comparison.compare import Outputs, compare
from pipeline.provenance import Provenance, digest_of_file
from pipeline.provenance.record import METADATA_KEY
from pipeline.report.data import Inputs
from pipeline.tables import feature_column, read_table, write_table

VERSIONS = {"numpy": "2.4.6", "torch": "2.15.0"}
# Units that each selection picks.
COUNT = 3
CODE = "pipeline.{}=0123456789abcdef"
TRAINING = {
    "batch_size": 32,
    "budget": {"epochs": 20, "iterations": None},
    "optimiser": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "schedule": {"name": "cosine", "warmup": 0.0},
}
PLAIN = {
    "from_scratch": False,
    "initialise": {"name": "none"},
    "objective": {"name": "cross_entropy", "label_smoothing": 0.0},
    "reuse": {"name": "none"},
    **TRAINING,
}
RECIPES = {
    "scratch": {**PLAIN, "from_scratch": True},
    "plain": PLAIN,
    "coin": {**PLAIN, "initialise": {"name": "coin", "share": 0.5, "temperature": 0.3}},
    "reuse": {**PLAIN, "reuse": {"name": "labelled", "weight": 1.0, "head": "pretraining"}},
}
WRITTEN = {
    "batch_size": 32,
    "budget": {"epochs": 20},
    "optimiser": {"name": "sgd", "learning_rate": 0.05},
}


@dataclass
class Results:
    """What to make up.

    Attributes:
        folder: Where.
        backbones: Names; all are pre-trained on the source.
        targets: Names.
        recipes: Settings by name; those with reuse run with every selection.
        selections: Name and whether its units are clusters.
        seeds: Of every run.
        accuracy: Test accuracy of (backbone, target, recipe, selection, seed).
        classes: Class names of the source and of the targets.
        parts: Images of each class for training, validation and test.
        labelled: Whether the source has labels.
        questions: A name for each experiment; each has everything.
        method: Settings of every selection beside its method and count.
        facts: What every selection's method says of it.
        searches: The trials of each recipe that has a search: values and value on validation.
        rungs: Of each trial, best first, where searches are halved: its last rung, and share of the budget.
        recalled: Rows of the recall table, without one where empty.
        claimed: Rows of the table of claims, without one where empty.
        gaps: Rows of the gap_and_accuracy table, without one where empty.
        floors: Name, setting and seed of each, with its accuracies on validation and test by value.
        maps: Rows of the feature_maps table, without one where empty.
    """

    folder: Path
    backbones: Sequence[str] = ("small",)
    targets: Sequence[str] = ("birds",)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: RECIPES)
    selections: Mapping[str, bool] = field(
        default_factory=lambda: {"uot": False, "random": False, "uot_clusters": True}
    )
    seeds: Sequence[int] = (0, 1, 2)
    accuracy: Callable[..., float] = lambda backbone, target, recipe, selection, seed: 0.5
    classes: Sequence[str] = ("cat", "dog", "owl", "hen", "bus", "jar")
    parts: Sequence[int] = (8, 4, 4)
    labelled: bool = True
    questions: Sequence[str] = ("Which way is best?",)
    source: str = "doodles"
    method: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    searches: Mapping[str, Sequence[tuple[Mapping[str, Any], float]]] = field(default_factory=dict)
    rungs: Sequence[tuple[int, float]] = ()
    recalled: Sequence[Mapping[str, Any]] = ()
    claimed: Sequence[Mapping[str, Any]] = ()
    gaps: Sequence[Mapping[str, Any]] = ()
    floors: Sequence[tuple[str, str, int, Mapping[float, tuple[float, float]]]] = ()
    maps: Sequence[Mapping[str, Any]] = ()

    def make(self) -> tuple[Inputs, dict[str, Any]]:
        """Write every table; gives the report's inputs and settings."""
        digests = {name: self._dataset(name) for name in (self.source, *self.targets)}
        weights = {backbone: self._backbone(backbone, digests[self.source]) for backbone in self.backbones}
        units, selections, explanations, searches = [], [], [], []
        firsts, runs, metrics = [], [], []
        for backbone in self.backbones:
            units += self._units(backbone)
            selections += [
                self._selection(backbone, target, selection)
                for target in self.targets
                for selection in (self.selections if self._reusing() else {})
            ]
            explanations += [self._explanation(path) for path in selections if path.parts[-4] == backbone]
            for target in self.targets:
                searches += [self._search(backbone, target, recipe) for recipe in self.searches]
                for recipe, settings in self.recipes.items():
                    reuses = settings["reuse"]["name"] != "none"
                    for selection in self.selections if reuses else ("none",):
                        for seed in self.seeds:
                            first = weights[backbone]
                            if settings["initialise"]["name"] != "none":
                                folder, first = self._first_stage(backbone, target, recipe, seed)
                                firsts.append(folder)
                            keys = (backbone, target, recipe, selection, seed)
                            runs.append(self._run(keys, settings, first))
                            metrics.append(runs[-1] / "metrics.parquet")
        main_metric, baselines = dict.fromkeys(self.targets, "top1"), ["plain"]
        names = ("metrics.parquet", "floors.parquet", "comparison.parquet", "comparison.txt")
        paths = Outputs(*(self.folder / name for name in names))
        floors = [folder / "metrics.parquet" for folder in self._floors()]
        compare(metrics, floors, paths, main_metric, self._record("evaluation", {}), baselines)
        inputs = Inputs(
            comparison=paths.comparison,
            metrics=paths.metrics,
            floors=[path.parent for path in floors],
            datasets=[self.folder / "datasets" / name for name in digests],
            images=[self.folder / "datasets" / name / "images_12.npy" for name in digests],
            backbones=[self.folder / "backbones" / name for name in self.backbones],
            units=units,
            selections=selections,
            leaks=[],
            explanations=explanations,
            searches=searches,
            recall=self._recall() if self.recalled else None,
            recall_figures=self.folder / "recall" if self.recalled else None,
            claims=self._table("claims", self.claimed, {"level": 0.95}),
            domain_gap=self._table("gap_and_accuracy", self.gaps, {"main_metric": main_metric}),
            feature_maps=self._table("feature_maps", self.maps, {}),
            feature_map_figures=self._map_figures() if self.maps else None,
            initialisations=firsts,
            runs=runs,
        )
        return inputs, self._settings(main_metric, baselines)

    def _settings(self, main_metric: Mapping[str, str], baselines: Sequence[str]) -> dict[str, Any]:
        crossed = {
            "backbones": list(self.backbones),
            "targets": list(self.targets),
            "recipes": list(self.recipes),
            "selections": list(self.selections),
        }
        recipes = {
            name: WRITTEN | {key: value for key, value in settings.items() if value != PLAIN.get(key)}
            for name, settings in self.recipes.items()
        }
        return {
            "experiments": [{"name": question, **crossed} for question in self.questions],
            "main_metric": dict(main_metric),
            "baselines": list(baselines),
            "written": {"recipes": recipes, "selections": {}, "backbones": {}},
        }

    def _reusing(self) -> bool:
        return any(settings["reuse"]["name"] != "none" for settings in self.recipes.values())

    def _record(self, step: str, settings: Mapping[str, Any], **inputs: str) -> Provenance:
        return Provenance(f"pipeline.{step}", dict(settings), CODE.format(step), inputs, VERSIONS)

    def _dataset(self, name: str) -> str:
        random = np.random.default_rng(len(name))
        names = list(self.classes) if name == self.source else [f"{name} {label}" for label in range(4)]
        split = np.tile(np.repeat(["train", "validation", "test"], self.parts), len(names)).tolist()
        labels = np.repeat(np.arange(len(names)), sum(self.parts))
        pixels = random.integers(0, 256, (len(labels), 12, 12, 3), dtype=np.uint8)
        pixels[: len(pixels) // 2] = pixels[: len(pixels) // 2, ..., :1]  # half of them grey
        known = self.labelled or name != self.source
        columns = {
            "sample_id": [f"{name}/{row:04}" for row in range(len(labels))],
            "image": [{"bytes": _png(image), "path": None} for image in pixels],
            "split": split,
            "label": labels.tolist() if known else [None] * len(labels),
            "class_name": [names[label] if known else None for label in labels],
            "width": [12] * len(labels),
            "height": [12] * len(labels),
        }
        record = self._record("datasets", {"format": "parquet", "path": f"data/{name}.parquet"})
        extra = {"class_names": json.dumps(names)} if known else {}
        write_table("manifest", self.folder / "datasets" / name / "manifest.parquet", columns, record, extra)
        np.save(self.folder / "datasets" / name / "images_12.npy", pixels)
        return record.digest()

    def _backbone(self, name: str, manifest: str) -> str:
        settings = {
            "origin": "pretraining",
            "dataset": self.source,
            "architecture": {"name": "small_resnet", "widths": [16, 32]},
            "preprocessing": {"resize": 12, "crop": 12},
            "method": {"name": "supervised", **TRAINING},
            "seed": len(name),
        }
        folder = self.folder / "backbones" / name
        record = self._record("pretraining", settings, manifest=manifest)
        self._training(folder, record, "pretraining", range(1, 21), 5)
        save_file(
            {"weight": np.zeros(1, np.float32)},
            folder / "weights.safetensors",
            {METADATA_KEY: record.to_json()},
        )
        return record.digest()

    def _training(
        self, folder: Path, record: Provenance, stage: str, epochs: range, every: int, top: float = 0.5
    ) -> None:
        rows = []
        for epoch in epochs:
            values = {("train", "loss"): 3 / epoch, ("train", "learning_rate"): 0.1}
            if every:
                values["train", "top1"] = 1 - 1 / (epoch + 1)
            if every and epoch % every == 0:
                values["validation", "top1"] = top * epoch / epochs[-1]
            rows += [(stage, epoch, 5 * epoch, *key, value) for key, value in values.items()]
        names = ("stage", "epoch", "step", "split", "metric", "value")
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        write_table("history", folder / "history.parquet", columns, record)
        timings = {
            "stage": [stage] * len(epochs),
            "epoch": list(epochs),
            "images": [100] * len(epochs),
            "seconds": [0.5] * len(epochs),
            "device": ["cpu"] * len(epochs),
        }
        write_table("timings", folder / "timings.parquet", timings, record)

    def _units(self, backbone: str) -> list[Path]:
        if not self._reusing():
            return []
        folders = []
        wanted = [(target, "class") for target in self.targets]
        wanted += [
            (self.source, "cluster" if by else "class") for by in sorted(set(self.selections.values()))
        ]
        for dataset, by in wanted:
            folder = (
                self.folder / "units" / backbone / dataset / ("clusters5" if by == "cluster" else "classes")
            )
            folders.append(folder)
            names = list(self.classes) if dataset == self.source else [f"{dataset} {n}" for n in range(4)]
            names = [f"cluster {number}" for number in range(5)] if by == "cluster" else names
            record = self._record("units", {"by": by, "dataset": dataset}, features=f"{backbone} {dataset}")
            means = np.random.default_rng(len(names)).normal(size=(len(names), 3)).astype(np.float32)
            total = sum(self.parts) * (len(self.classes) if dataset == self.source else 4)
            rows = [row for row in range(total) if row % sum(self.parts) < self.parts[0]]
            assignment = [row // sum(self.parts) % len(names) for row in rows]
            columns = {
                "unit_id": np.arange(len(names), dtype=np.int32),
                "name": names,
                "images": np.bincount(assignment, minlength=len(names)),
                "mean": feature_column(means),
            }
            write_table("units", folder / "units.parquet", columns, record)
            members = {"sample_id": [f"{dataset}/{row:04}" for row in rows], "unit_id": assignment}
            write_table("membership", folder / "membership.parquet", members, record)
        return folders

    def _selection(self, backbone: str, target: str, name: str) -> Path:
        by = "cluster" if self.selections[name] else "class"
        names = [f"cluster {number}" for number in range(5)] if by == "cluster" else list(self.classes)
        order = np.random.default_rng(len(name)).permutation(len(names))
        inputs = {
            side: self._record(
                "units", {"by": kind, "dataset": dataset}, features=f"{backbone} {dataset}"
            ).digest()
            for side, kind, dataset in (("source", by, self.source), ("target", "class", target))
        }
        settings = {"method": name.partition("_")[0], "count": COUNT, **self.method}
        record = self._record("selection", settings, **inputs)
        columns = {
            "unit_id": order.astype(np.int32),
            "name": [names[unit] for unit in order],
            "score": np.linspace(0.5, -3, len(names)),
            "rank": np.arange(1, len(names) + 1, dtype=np.int32),
            "selected": np.arange(len(names)) < COUNT,
        }
        path = self.folder / "selections" / backbone / self.source / target / f"{name}.parquet"
        facts = {"facts": json.dumps(dict(self.facts))} if self.facts else {}
        write_table("selection", path, columns, record, facts)
        return path

    def _explanation(self, selection: Path) -> Path:
        """Shares of 1/2, 1/4, 1/8... by rank for each class; stability falls by 0.1 a rank."""
        *_, backbone, _, target, _ = selection.parts
        ranking = read_table("selection", selection)
        names, ids = ranking["name"].to_pylist(), ranking["unit_id"].to_pylist()
        digest = digest_of_file(selection)
        record = self._record("explanation", {"draws": 10, "seed": 0}, selection=digest)
        folder = self.folder / "explanations" / backbone / self.source / target / selection.stem
        has_plan = selection.stem.startswith("uot")
        rows = [(row, label) for row in range(COUNT) for label in range(4)]
        plan = {
            "unit_id": [ids[row] for row, _ in rows],
            "name": [names[row] for row, _ in rows],
            "rank": [row + 1 for row, _ in rows],
            "target_unit_id": [label for _, label in rows],
            "target_name": [f"{target} {label}" for _, label in rows],
            "distance": [0.1 * (row + 1) + 0.01 * label for row, label in rows],
            "share": [0.5 ** (row + 1) if has_plan else None for row, _ in rows],
        }
        write_table("plan", folder / "plan.parquet", plan, record)
        scores = ranking["score"].to_pylist()
        margin = {
            "rank": [COUNT],
            "unit_id": [ids[COUNT - 1]],
            "next_unit_id": [ids[COUNT]],
            "score": [scores[COUNT - 1]],
            "next_score": [scores[COUNT]],
            "margin": [(scores[COUNT - 1] - scores[COUNT]) / (scores[0] - scores[-1])],
        }
        write_table("margin", folder / "margin.parquet", margin, record)
        stability = {name: ranking[name] for name in ("unit_id", "name", "rank", "selected")}
        shares = np.maximum(1 - 0.1 * np.arange(len(names)), 0)
        write_table("stability", folder / "stability.parquet", {**stability, "stability": shares}, record)
        return folder

    def _search(self, backbone: str, target: str, recipe: str) -> Path:
        folder = self.folder / "searches" / backbone / target / "none" / recipe
        trials = sorted(self.searches[recipe], key=lambda trial: -trial[1])
        names = [f"{number:08x}" for number in range(len(trials))]
        record = self._record("search", {"metric": "top1"})
        columns = {
            "trial": names,
            "values": [json.dumps(values) for values, _ in trials],
            "metric": ["top1"] * len(trials),
            "value": [value for _, value in trials],
            "images": [100] * len(trials),
            "rung": [rung for rung, _ in self.rungs] or [None] * len(trials),
            "share": [share for _, share in self.rungs] or [1.0] * len(trials),
            "rank": list(range(1, len(trials) + 1)),
            "chosen": [number == 0 for number in range(len(trials))],
        }
        write_table("search", folder / "search.parquet", columns, record)
        for name, rung in zip(names, columns["rung"], strict=True):
            self._training(
                folder / name / (f"rung{rung}" if self.rungs else ""), record, "finetuning", range(1, 11), 0
            )
        return folder

    def _recall(self) -> Path:
        columns = {name: [row[name] for row in self.recalled] for name in self.recalled[0]}
        write_table("recall", self.folder / "recall.parquet", columns, self._record("recall", {}))
        ranking = self.folder / "recall" / self.backbones[0] / self.source / self.targets[0] / "uot.svg"
        ranking.parent.mkdir(parents=True)
        for path in (ranking, self.folder / "recall" / "epsilon_c.svg"):
            path.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 4"></svg>')
        return self.folder / "recall.parquet"

    def _map_figures(self) -> Path:
        folder = self.folder / "feature_maps"
        for row in self.maps:
            path = folder / row["backbone"] / f"{row['target']}.svg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 4"></svg>')
        return folder

    def _table(
        self, kind: str, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> Path | None:
        if not rows:
            return None
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        path = self.folder / f"{kind}.parquet"
        write_table(kind, path, columns, self._record(kind, settings))
        return path

    def _floors(self) -> list[Path]:
        return [
            self._floor(pair, *floor)
            for pair in product(self.backbones, self.targets)
            for floor in self.floors
        ]

    def _floor(self, pair: tuple[str, str], name: str, setting: str, seed: int, scores: Any) -> Path:
        """The highest score on the test part is the floor's, whatever its validation."""
        folder = self.folder / "floors" / pair[0] / pair[1] / name / f"seed{seed}"
        record = self._record("floors", {})
        chosen = max(scores, key=lambda value: scores[value][1])
        run = {"backbone": pair[0], "target": pair[1], "selection": "none", "recipe": name, "seed": seed}
        parts = ("validation", "test")
        rows = [
            {**run, "split": split, "metric": "top1", "value": score}
            for split, score in zip(parts, scores[chosen], strict=True)
            if self.parts[1 + parts.index(split)]
        ]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        write_table("metrics", folder / "metrics.parquet", columns, record)
        choices = [(value, split) for value in scores for split in parts]
        columns = {
            "setting": [setting] * len(choices),
            "value": [value for value, _ in choices],
            "split": [split for _, split in choices],
            "metric": ["top1"] * len(choices),
            "score": [scores[value][parts.index(split)] for value, split in choices],
            "chosen": [value == chosen for value, _ in choices],
        }
        write_table("choices", folder / "choices.parquet", columns, record)
        return folder

    def _first_stage(self, backbone: str, target: str, recipe: str, seed: int) -> tuple[Path, str]:
        folder = self.folder / "initialisations" / backbone / target / f"{recipe}-01234567" / f"seed{seed}"
        initialise = self.recipes[recipe]["initialise"]
        settings = {**TRAINING, "initialise": initialise, "seed": seed}
        record = self._record("initialisation", settings, manifest=target, weights=backbone)
        self._training(folder, record, initialise["name"], range(1, 11), 0)
        return folder, record.digest()

    def _run(self, keys: tuple[str, str, str, str, int], settings: Mapping[str, Any], weights: str) -> Path:
        backbone, target, recipe, selection, seed = keys
        folder = self.folder / "runs" / backbone / target / selection / recipe / f"seed{seed}"
        names = ("backbone", "target", "recipe", "selection", "seed")
        run = dict(zip(names, keys, strict=True))
        record = self._record("finetuning", {**settings, "run": run}, weights=weights, manifest=target)
        start = 11 if settings["initialise"]["name"] != "none" else 1
        top = self.accuracy(*keys)
        self._training(folder, record, "finetuning", range(start, 21), 10, top)
        rows = [
            {**run, "split": split, "metric": metric, "value": value}
            for split, share in (("validation", top - 0.01), ("test", top))
            if self.parts[1 if split == "validation" else 2]
            for metric, value in (
                ("top1", share),
                ("mean_per_class", share - 0.02),
                ("negative_log_likelihood", 2 - share),
                ("s_dbw", 1.5 - share),
                ("intra_class_spread", 0.25),
                ("images", 16.0),
            )
        ]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        write_table("metrics", folder / "metrics.parquet", columns, self._record("evaluation", {"run": run}))
        return folder


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
