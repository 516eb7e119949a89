"""Settings of experiments that only select, of class means and recall: what is refused, what is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.loading import load_config
from pipeline.config.resolve import Resolver
from pipeline.config.runs import Ranking
from pipeline.errors import PipelineError

ROOT = Path(__file__).parents[2]
CONFIG = """
datasets:
  photos: {format: image_folder, path: photos, classes: 10, concepts: concepts.csv}
  scans: {format: image_folder, path: scans, classes: 10}
  birds: {format: csv, path: birds.csv}
  world: {format: class_means, path: "means/world.{backbone}.parquet", classes: 9}
  owls: {format: class_means, path: "means/owls.{backbone}.parquet"}
  owls_of_one: {format: class_means, path: means/owls.parquet}
backbones:
  small: &small
    origin: pretraining
    dataset: photos
    architecture: {name: small_resnet}
    preprocessing: {resize: 32, crop: 28}
    method: {name: supervised, budget: {epochs: 8}}
  fetched: {origin: torchvision, weights: ResNet18_Weights.IMAGENET1K_V1}
  far: {origin: elsewhere}
  farther: {origin: elsewhere}
selections:
  uot: {method: uot, count: 4}
  clusters: {method: uot, units: {by: cluster, clusters: 20}, count: 5}
  concept: {method: label, concepts: [bird]}
  mapped: {method: label, mapping: mapping.csv}
recipes:
  plain: {budget: {epochs: 10}}
  reuse: {budget: {epochs: 10}, reuse: {name: labelled}}
experiments:
  - name: means
    backbones: [far, farther]
    source: world
    targets: [owls]
    selections: [uot, concept]
    recall: {owls: [bird, owl]}
  - {name: images, backbones: [small], targets: [birds], selections: [mapped, clusters]}
"""


def edited(changes: dict[str, Any]) -> dict[str, Any]:
    """The config above with values put at dotted key paths."""
    config = yaml.safe_load(CONFIG)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place = config
        for part in parents:
            place = place[part]
        place[last] = value
    return config


def only(**experiment: Any) -> dict[str, Any]:
    """The config with one experiment, on images if nothing else is said."""
    whole = {"name": "one", "backbones": ["small"], "targets": ["birds"], "selections": ["uot"]}
    return {"experiments": [whole | experiment]}


def on_means(**experiment: Any) -> dict[str, Any]:
    """The config with one experiment on class means."""
    whole = {"backbones": ["far"], "source": "world", "targets": ["owls"]}
    return only(**whole | experiment)


MEANS = "has class means and no images for backbone"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "neither recipes nor selections": (
        only(selections=[]),
        "experiments[0]: found neither recipes nor selections; without recipes an experiment only selects",
    ),
    "seeds of nothing": (
        only(seeds=[0, 1]),
        "experiments[0].seeds: seeds are of recipes, and this experiment has none",
    ),
    "fetched backbone without source": (
        only(backbones=["fetched"]),
        "experiments[0].source: missing; backbone 'fetched' was fetched, so name the data to reuse",
    ),
    "means with images as target": (
        on_means(targets=["birds"]),
        "experiments[0].targets: backbone 'far' is elsewhere, and dataset 'birds' has images; "
        "name class means that it made (format: class_means)",
    ),
    "means with images as source": (
        on_means(source="photos"),
        "experiments[0].source: backbone 'far' is elsewhere, and dataset 'photos' has images; "
        "name class means that it made (format: class_means)",
    ),
    "means with a backbone that is here": (
        only(targets=["owls"]),
        f"experiments[0].targets: dataset 'owls' {MEANS} 'small'; they go with origin: elsewhere",
    ),
    "means as the source of a backbone that is here": (
        only(source="world"),
        f"experiments[0].source: dataset 'world' {MEANS} 'small'; they go with origin: elsewhere",
    ),
    "means without source": (
        on_means(source=None),
        "experiments[0].source: missing; backbone 'far' is elsewhere, so name the data to reuse",
    ),
    "means with recipes": (
        on_means(recipes=["reuse"]),
        "experiments[0].recipes: backbone 'far' is elsewhere, so nothing can be fine-tuned; "
        "leave recipes out",
    ),
    "means of one backbone for two": (
        on_means(backbones=["far", "farther"], targets=["owls_of_one"]),
        "experiments[0].targets: the path of dataset 'owls_of_one' has no {backbone}, so it is of one "
        "backbone; found far, farther",
    ),
    "clusters of means": (
        on_means(selections=["clusters"]),
        "experiments[0].selections: selection 'clusters' is over units of images, and source 'world' has "
        "class means; use units: {by: class}",
    ),
    "more classes than means": (
        on_means(selections=["uot"]) | {"selections.uot.count": 10},
        "experiments[0].selections: selection 'uot' wants 10 units, and source 'world' has 9 classes",
    ),
    "pre-training on means": (
        {"backbones.small.dataset": "world"} | on_means(),
        "backbones.small.dataset: found 'world', which has class means and no images to pre-train on",
    ),
    "epoch of a backbone elsewhere": (
        {"backbones.early": {"origin": "kept_epoch", "of": "far", "epoch": 1}},
        "backbones.early.of: backbone 'far' is not pre-trained here, so it keeps no epochs",
    ),
    "another placeholder": (
        {"datasets.owls.path": "means/{dataset}.parquet"},
        "datasets.owls.path: found {dataset}; only {backbone} stands for something",
    ),
    "a key that means have not": (
        {"datasets.owls.per_class": 5},
        "datasets.owls.per_class: unknown key; allowed: format, path, classes; did you mean 'classes'?",
    ),
    "recall of no target": (
        only(recall={"owls": ["bird"]}),
        "experiments[0].recall: 'owls' is no target of this experiment; found birds",
    ),
    "recall without selections": (
        only(selections=[], recipes=["plain"], recall={"birds": ["bird"]}),
        "experiments[0].recall: no selection of this experiment can find a concept",
    ),
    "recall by clusters": (
        only(selections=["clusters"], recall={"birds": ["bird"]}),
        "experiments[0].recall: selection 'clusters' is not over classes, and only classes have concepts",
    ),
    "recall without concepts": (
        only(source="scans", recall={"birds": ["bird"]}),
        "experiments[0].recall: source 'scans' has no concepts; give it a file of them (concepts)",
    ),
    "recall of nothing": (
        only(recall={"birds": []}),
        "experiments[0].recall.birds: found []; expected a list of at least 1",
    ),
    "concepts of a source without": (
        only(source="scans", selections=["concept"]),
        "experiments[0].selections: selection 'concept' selects concepts, and source 'scans' has none; "
        "give it a file of them (concepts)",
    ),
    "names of clusters": (
        {"selections.concept.units": {"by": "cluster"}},
        "selections.concept: label selects classes by their names; found units by cluster",
    ),
    "concepts and mapping": (
        {"selections.concept.mapping": "mapping.csv"},
        "selections.concept: found both of concepts and mapping; give one at most",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_bad_config_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    later = {key: value for key, value in changes.items() if key != "experiments"}
    config = edited({key: value for key, value in changes.items() if key == "experiments"} | later)
    with pytest.raises(PipelineError) as refusal:
        load_config(config)
    assert str(refusal.value).splitlines()[1:] == [f"  {message}"]


def test_experiments_without_recipes_make_rankings_and_no_runs() -> None:
    config = load_config(edited({}))
    assert config.runs() == []
    means = [
        Ranking(backbone, "world", "owls", selection)
        for backbone in ("far", "farther")
        for selection in ("uot", "concept")
    ]
    images = [Ranking("small", "photos", "birds", selection) for selection in ("mapped", "clusters")]
    assert config.rankings() == [*means, *images]


def test_rankings_of_runs_are_those_that_they_read() -> None:
    config = load_config(edited(only(selections=["uot", "clusters"], recipes=["plain", "reuse"])))
    assert config.rankings() == [Ranking("small", "photos", "birds", name) for name in ("uot", "clusters")]
    read = {(run.source, run.selection) for run in config.runs() if run.source is not None}
    assert read == {(ranking.source, ranking.selection) for ranking in config.rankings()}
    assert load_config(edited(only(selections=[], recipes=["plain"]))).rankings() == []


def test_rankings_of_images_can_be_explained_with_or_without_runs() -> None:
    explained = Resolver(load_config(edited({}))).explainable()
    assert explained == [Ranking("small", "photos", "birds", name) for name in ("mapped", "clusters")]
    both = only(source="scans", recipes=["plain", "reuse"])
    assert Resolver(load_config(edited(both))).explainable() == [Ranking("small", "scans", "birds", "uot")]
    assert Resolver(load_config(edited(on_means()))).explainable() == []


def test_every_file_that_is_needed_is_told_by_its_key() -> None:
    files = list(Resolver(load_config(edited({}))).used_files())
    assert files == [
        ("datasets.photos.path", "photos"),
        ("datasets.photos.concepts", "concepts.csv"),
        ("datasets.world.path", "means/world.far.parquet"),
        ("datasets.world.path", "means/world.farther.parquet"),
        ("datasets.owls.path", "means/owls.far.parquet"),
        ("datasets.owls.path", "means/owls.farther.parquet"),
        ("datasets.birds.path", "birds.csv"),
        ("selections.mapped.mapping", "mapping.csv"),
    ]


def test_recall_is_told_of_the_targets_that_ask_for_it() -> None:
    resolve = Resolver(load_config(edited({})))
    asked = [
        {
            "backbone": backbone,
            "source": "world",
            "target": "owls",
            "selection": name,
            "concepts": ["bird", "owl"],
        }
        for backbone in ("far", "farther")
        for name in ("uot", "concept")
    ]
    assert resolve.recall_settings() == {"experiments": [{"name": "means", "rankings": asked}]}
    assert resolve.recalled() == resolve.config.rankings()[:4]


@pytest.mark.parametrize(("preset", "selections"), [("uot_table4", 20), ("uot_recall", 90)])
def test_the_presets_are_whole(preset: str, selections: int) -> None:
    config = load_config(ROOT / "config" / "presets" / f"{preset}.yaml")
    assert len(config.rankings()) == selections
    assert {name for ranking in config.rankings() for name in (ranking.source, ranking.target)} == set(
        config.datasets
    )
    assert {ranking.selection for ranking in config.rankings()} == set(config.selections)
