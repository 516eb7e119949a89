"""What was run: backbones, datasets, recipes and selections, and the code and libraries behind them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.provenance import CodeDigest, Provenance
from pipeline.report.data import Backbone, Initialisation, Inputs, Run, record_of
from pipeline.report.described import described, differing, flat, shared, words
from pipeline.report.examples import Dataset, Selection, Units
from pipeline.report.recalled import Recall
from pipeline.report.searches import Search
from pipeline.tables import read_table

TIMES = "\N{MULTIPLICATION SIGN}"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ShownDataset:
    """A dataset in numbers."""

    name: str
    roles: str
    classes: int
    images: dict[str, int]


@dataclass(frozen=True)
class ShownBackbone:
    """A backbone in words."""

    name: str
    network: str
    weights: str
    size: str
    accuracy: float | None


@dataclass(frozen=True)
class Ran:
    """What was run.

    Attributes:
        datasets: With their images by part.
        backbones: In words.
        apart: Keys in words that recipes differ in.
        recipes: Each recipe's values of those.
        common: What all recipes have the same, where it is not the default.
        settings: Every resolved setting by section and name, as dotted keys.
        versions: Of libraries.
        code: Step, the components it was run with, and digest.
    """

    datasets: list[ShownDataset]
    backbones: list[ShownBackbone]
    apart: list[str]
    recipes: dict[str, list[str]]
    common: list[tuple[str, str]]
    settings: dict[str, dict[str, list[tuple[str, str]]]]
    versions: dict[str, str]
    code: list[tuple[str, str, str]]


def what_was_run(
    backbones: Sequence[Backbone],
    datasets: Mapping[str, Dataset],
    runs: Sequence[Run],
    firsts: Sequence[Initialisation],
    selections: Sequence[Selection],
    units: Mapping[str, Units],
    searches: Sequence[Search],
    recall: Recall | None,
    inputs: Inputs,
    written: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> Ran:
    """Gather it from the records of everything that the page is made of."""
    recipes = {run.way.recipe: run.settings for run in reversed(runs)}
    recipes = {name: recipes[name] for name in dict.fromkeys(run.way.recipe for run in runs)}
    apart = differing(recipes)
    changed = written.get("recipes", {})
    tables = [
        *(("metrics", inputs.metrics), ("comparison", inputs.comparison)),
        *(("selection", path) for path in inputs.selections),
        *(("leaks", path) for path in inputs.leaks),
        *(("claims", path) for path in [inputs.claims] if path),
        *(("gap_and_accuracy", path) for path in [inputs.domain_gap] if path),
        *(("feature_maps", path) for path in [inputs.feature_maps] if path),
    ]
    records = [
        *(dataset.record for dataset in datasets.values()),
        *(backbone.record for backbone in backbones),
        *(found.record for found in units.values()),
        *(first.record for first in firsts),
        *(run.record for run in runs),
        *(search.record for search in searches),
        *(record_of(read_table(kind, path, [])) for kind, path in tables),
        *(selection.explanation.record for selection in selections),
        *([recall.record] if recall else []),
    ]
    sources = {s.source for s in selections} | {str(b.record.settings.get("dataset")) for b in backbones}
    return Ran(
        [_dataset(dataset, sources, {run.pair.target for run in runs}) for dataset in datasets.values()],
        [_backbone(backbone, written.get("backbones", {}).get(backbone.name)) for backbone in backbones],
        [words(key) for key in apart],
        {
            name: [
                described(recipe.get(key), _written(changed.get(name, {}).get(key), recipe.get(key)))
                for key in apart
            ]
            for name, recipe in recipes.items()
        },
        shared(recipes, changed),
        {
            "Recipe": {name: flat(_without(recipe, "run")) for name, recipe in recipes.items()},
            "Selection": {s.name: flat({**s.settings, "units": s.units}) for s in selections},
            "Backbone": {backbone.name: flat(backbone.record.settings) for backbone in backbones},
            "Dataset": {name: flat(dataset.record.settings) for name, dataset in datasets.items()},
        },
        _versions(records),
        _code(records),
    )


def _written(value: Any, resolved: Any) -> Any:
    """What was written of a group; of a group left at its default, only its name is worth saying."""
    return {} if value is None and isinstance(resolved, Mapping) else value


def _without(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != key}


def _dataset(dataset: Dataset, sources: set[str], targets: set[str]) -> ShownDataset:
    roles = [role for role, names in (("source", sources), ("target", targets)) if dataset.name in names]
    counts = Counter(dataset.samples.split.tolist())
    images = {split: counts[split] for split in SPLITS}
    return ShownDataset(dataset.name, " and ".join(roles), len(dataset.samples.class_names), images)


def _backbone(backbone: Backbone, written: Mapping[str, Any] | None) -> ShownBackbone:
    settings = backbone.record.settings
    architecture = settings.get("architecture") or {"name": settings.get("weights", "")}
    method, training = settings.get("method"), backbone.training
    if method and training:
        budget = described(_without(method["budget"], "name"))
        weights = f"pre-trained here on {settings['dataset']}: {words(method['name'])}, {budget}"
    else:
        chosen = {key: settings[key] for key in ("weights", "path", "url", "epoch") if settings.get(key)}
        weights = ", ".join([words(settings.get("origin", "")), *(described(v) for v in chosen.values())])
    crop = settings.get("preprocessing", {}).get("crop")
    curve = training.history.get(("validation", "top1")) if training else None
    return ShownBackbone(
        backbone.name,
        described(architecture, written.get("architecture") if written else None),
        weights.strip(", "),
        f"{crop} {TIMES} {crop}" if crop else "",
        float(curve.values[-1]) if curve else None,
    )


def _versions(records: Iterable[Provenance]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for record in records:
        for name, version in record.versions.items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(found[name])) for name in sorted(found, key=str.lower)}


def _code(records: Iterable[Provenance]) -> list[tuple[str, str, str]]:
    found = []
    for text in dict.fromkeys(record.code for record in records if "=" in record.code):
        (step, *components), digest = CodeDigest.parse(text)
        found.append((step, ", ".join(name.removeprefix("pipeline.") for name in components), digest))
    return found
