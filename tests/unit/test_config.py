"""Settings: what is refused and in which words, what the rules are told, and what is made from the models."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import jsonschema
import pytest
import yaml

from pipeline.config.base import Settings
from pipeline.config.datasets import TorchvisionSet
from pipeline.config.documentation import PAGE, SCHEMA, page, schema
from pipeline.config.initialisation import Coin
from pipeline.config.loading import load_config
from pipeline.config.model import Config
from pipeline.config.objectives import (
    BiTuning,
    Bss,
    CoreTuning,
    CoTuning,
    Delta,
    L2Sp,
    SupervisedContrastiveLearning,
)
from pipeline.config.resolve import Resolver, to_json
from pipeline.config.reuse import LabelledReuse
from pipeline.config.selections import Clusters, GreedyOt, Nearest, Uot
from pipeline.config.training import Sgd, StepSchedule
from pipeline.errors import PipelineError

ROOT = Path(__file__).parents[2]
GONE = object()
CONFIG = """
datasets:
  photos: {format: image_folder, path: photos, classes: 10}
  scans: {format: parquet, path: scans.parquet, label: null}
  birds: {format: csv, path: birds.csv, classes: 4}
backbones:
  small: &small
    origin: pretraining
    dataset: photos
    architecture: {name: small_resnet}
    preprocessing: {resize: 32, crop: 28}
    method: {name: supervised, budget: {epochs: 8}}
    keep_epochs: [2, 4]
  early: {origin: kept_epoch, of: small, epoch: 2}
  contrast:
    origin: pretraining
    dataset: scans
    architecture: {name: small_resnet}
    preprocessing: {resize: 32, crop: 28}
    method: {name: moco_v2, budget: {epochs: 8}, batch_size: 64}
  fetched:
    origin: checkpoint
    architecture: {name: torchvision, model: resnet18}
    preprocessing: {resize: 256, crop: 224}
    path: weights.pt
    sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
selections:
  random: {method: random, count: 4}
  uot: {method: uot, count: 4}
  clusters: {method: uot, units: {by: cluster, clusters: 20}, count: 5}
recipes:
  plain: {budget: {epochs: 10}}
  coin: {budget: {epochs: 10}, initialise: {name: coin}}
  reuse: {budget: {epochs: 10}, reuse: {name: labelled}}
  both: {budget: {epochs: 10}, initialise: {name: coin}, reuse: {name: labelled, head: pretraining}}
experiments:
  - {name: first, backbones: [small], targets: [birds], selections: [random, uot, clusters], recipes: [reuse]}
  - {name: second, backbones: [early], targets: [birds], recipes: [plain, coin], seeds: [0, 1, 2]}
"""
RECIPE_KEYS = (
    "budget, batch_size, accumulate, precision, compile, threads, gpu, optimiser, schedule, augmentation, "
    "evaluate_every, initialise, objective, reuse, trainable, batch_norm, from_scratch, checkpoint, "
    "keep_epochs, fit_on, tuned, take, search"
)
SGD_KEYS = "name, learning_rate, momentum, nesterov, weight_decay, head_ratio, groups, layer_decay"
NAME = "letters, digits, '_', '-' and '.', the first a letter or a digit"
MAPPING = "a mapping of keys to values"
TEXT = "text (in quotes where YAML would take it for something else)"
NO_HEAD = "recipe 'both' starts the source head from pre-training, and backbone"


def edited(changes: dict[str, Any]) -> dict[str, Any]:
    """The config above with values put at dotted key paths, or taken away."""
    config = yaml.safe_load(CONFIG)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place = config
        for part in parents:
            place = place[part]
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    return config


def experiment(**changes: Any) -> dict[str, Any]:
    """The config with its only experiment changed."""
    whole = {"name": "one", "backbones": ["small"], "targets": ["birds"], "recipes": ["plain"]}
    return {"experiments": [whole | changes]}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    # Keys
    "unknown section": (
        {"recipies": {}},
        "recipies: unknown key; allowed: datasets, backbones, selections, recipes, experiments, features, "
        "floors, leakage, explanation, claims, tracking; did you mean 'recipes'?",
    ),
    "unknown key of an entry": (
        {"recipes.plain.optimizer": {}},
        f"recipes.plain.optimizer: unknown key; allowed: {RECIPE_KEYS}; did you mean 'optimiser'?",
    ),
    "unknown key in a kind": (
        {"recipes.plain.optimiser": {"name": "sgd", "learning_rat": 1}},
        f"recipes.plain.optimiser.learning_rat: unknown key; allowed: {SGD_KEYS}; "
        "did you mean 'learning_rate'?",
    ),
    "unknown key of another kind": (
        {"recipes.plain.optimiser": {"name": "sgd", "betas": [0.9, 0.99]}},
        f"recipes.plain.optimiser.betas: unknown key; allowed: {SGD_KEYS}",
    ),
    "unknown key, deep": (
        {"backbones.small.method.budget.epoch": 3},
        "backbones.small.method.budget.epoch: unknown key; allowed: epochs, iterations; "
        "did you mean 'epochs'?",
    ),
    "unknown key in a list": (
        {"experiments.1.seed": 1},
        "experiments[1].seed: unknown key; allowed: name, backbones, source, targets, selections, recipes, "
        "seeds, recall, domain_gap, feature_map; did you mean 'seeds'?",
    ),
    "unknown key where null is allowed": (
        {"datasets.birds.split": {"validate": 0.1}},
        "datasets.birds.split.validate: unknown key; allowed: validation, test, seed; "
        "did you mean 'validation'?",
    ),
    "key of class units": (
        {"selections.uot.units": {"by": "class", "clusters": 3}},
        "selections.uot.units.clusters: unknown key; allowed: by",
    ),
    "missing section": ({"datasets": GONE}, "datasets: missing; this key is required"),
    "missing key": ({"recipes.plain.budget": GONE}, "recipes.plain.budget: missing; this key is required"),
    "missing key in a kind": (
        {"backbones.early.epoch": GONE},
        "backbones.early.epoch: missing; this key is required",
    ),
    "missing kind": (
        {"datasets.birds.format": GONE},
        "datasets.birds.format: missing; this key is required",
    ),
    "unknown kind": (
        {"recipes.coin.initialise.name": "coyn"},
        "recipes.coin.initialise.name: found 'coyn'; allowed: none, coin, linear_probe, noisy_tune; "
        "did you mean 'coin'?",
    ),
    "unknown torchvision set": (
        {"datasets.birds": {"format": "torchvision", "name": "CIFAR1O"}},
        "datasets.birds.name: found 'CIFAR1O'; allowed: CIFAR10, CIFAR100, Caltech101, Caltech256, "
        "Country211, DTD, EuroSAT, FGVCAircraft, FashionMNIST, Flowers102, Food101, GTSRB, Imagenette, "
        "KMNIST, MNIST, OxfordIIITPet, STL10, SUN397, SVHN, StanfordCars, USPS; did you mean 'CIFAR10'?",
    ),
    "unknown kind of entry": (
        {"datasets.birds.format": "cvs"},
        "datasets.birds.format: found 'cvs'; allowed: image_folder, parquet, csv, published, torchvision, "
        "class_means; "
        "did you mean 'csv'?",
    ),
    "unknown kind, deep": (
        {"selections.uot.units": {"by": "clusters"}},
        "selections.uot.units.by: found 'clusters'; allowed: class, cluster, sample; did you mean 'cluster'?",
    ),
    "number as a kind": (
        {"recipes.coin.initialise.name": 3},
        "recipes.coin.initialise.name: found 3; allowed: none, coin, linear_probe, noisy_tune",
    ),
    "unknown choice": (
        {"recipes.plain.checkpoint": "latest"},
        "recipes.plain.checkpoint: found 'latest'; allowed: last, best; did you mean 'last'?",
    ),
    "unknown number of a choice": (
        {"backbones.small.architecture.stem_stride": 3},
        "backbones.small.architecture.stem_stride: found 3; allowed: 1, 2",
    ),
    # Types
    "text for a whole number": (
        {"recipes.plain.batch_size": "many"},
        "recipes.plain.batch_size: found 'many'; expected a whole number",
    ),
    "fraction for a whole number": (
        {"recipes.plain.batch_size": 1.5},
        "recipes.plain.batch_size: found 1.5; expected a whole number",
    ),
    "true for a number": (
        {"recipes.plain.batch_size": True},
        "recipes.plain.batch_size: found true; expected a number",
    ),
    "text for a number": (
        {"recipes.coin.initialise.temperature": "warm"},
        "recipes.coin.initialise.temperature: found 'warm'; expected a number",
    ),
    "text for true or false": (
        {"recipes.plain.from_scratch": "perhaps"},
        "recipes.plain.from_scratch: found 'perhaps'; expected true or false",
    ),
    "number for text": (
        {"datasets.birds.path": 3},
        f"datasets.birds.path: found 3; expected {TEXT}",
    ),
    "list for a section": ({"recipes": [1]}, f"recipes: found [1]; expected {MAPPING}"),
    "nothing for a section": ({"recipes": None}, f"recipes: found null; expected {MAPPING}"),
    "nothing for an entry": ({"recipes.plain": None}, f"recipes.plain: found null; expected {MAPPING}"),
    "nothing for a choice": (
        {"recipes.plain.reuse": None},
        f"recipes.plain.reuse: found null; expected {MAPPING}",
    ),
    "text for a choice of kinds": (
        {"recipes.plain.optimiser": "sgd"},
        f"recipes.plain.optimiser: found 'sgd'; expected {MAPPING}",
    ),
    "number where a mapping or null is allowed": (
        {"datasets.birds.split": 0.1},
        f"datasets.birds.split: found 0.1; expected {MAPPING}",
    ),
    "number for a list": (
        {"experiments.0.seeds": 3},
        "experiments[0].seeds: found 3; expected a list",
    ),
    "text for a list in a mapping": (
        {"datasets.scans.where": {"part": "target"}},
        "datasets.scans.where.part: found 'target'; expected a list",
    ),
    "text in a list": (
        {"backbones.small.keep_epochs": [3, "x"]},
        "backbones.small.keep_epochs[1]: found 'x'; expected a whole number",
    ),
    # Ranges
    "zero": (
        {"recipes.plain.batch_size": 0},
        "recipes.plain.batch_size: found 0; expected at least 1",
    ),
    "not above zero": (
        {"recipes.coin.initialise.temperature": 0},
        "recipes.coin.initialise.temperature: found 0; expected a number above 0",
    ),
    "too large": (
        {"recipes.plain.augmentation": {"fill": 256}},
        "recipes.plain.augmentation.fill: found 256; expected at most 255",
    ),
    "a share of one": (
        {"recipes.coin.initialise.share": 1},
        "recipes.coin.initialise.share: found 1; expected a number below 1",
    ),
    "not a number": (
        {"recipes.coin.initialise.temperature": math.nan},
        "recipes.coin.initialise.temperature: found nan; expected a finite number",
    ),
    "infinity": (
        {"selections.uot.tau2": math.inf},
        "selections.uot.tau2: found inf; expected a finite number",
    ),
    "not a number in a list": (
        {"backbones.small.preprocessing.mean": [0.5, math.nan, 0.5]},
        "backbones.small.preprocessing.mean[1]: found nan; expected a finite number",
    ),
    "milestone in epochs": (
        {"recipes.plain.schedule": {"name": "step", "milestones": [0.5, 80]}},
        "recipes.plain.schedule.milestones[1]: found 80; expected a number below 1",
    ),
    "list too short": (
        {"backbones.small.preprocessing.mean": [0.5, 0.5]},
        "backbones.small.preprocessing.mean[2]: the list ends before this value",
    ),
    "list too long": (
        {"backbones.small.preprocessing.mean": [0.5, 0.5, 0.5, 0.5]},
        "backbones.small.preprocessing.mean: found [0.5, 0.5, 0.5, 0.5]; expected a list of at most 3",
    ),
    "no seeds": (
        {"experiments.0.seeds": []},
        "experiments[0].seeds: found []; expected a list of at least 1",
    ),
    "negative seed": (
        {"experiments.0.seeds": [0, -1]},
        "experiments[0].seeds[1]: found -1; expected at least 0",
    ),
    "no experiments": ({"experiments": []}, "experiments: found []; expected a list of at least 1"),
    # Names
    "slash in a name": (
        {"recipes.a/b": {"budget": {"epochs": 1}}},
        f"recipes.a/b: the name 'a/b' is not allowed; expected {NAME}",
    ),
    "space in a name": (
        {"recipes.a b": {"budget": {"epochs": 1}}},
        f"recipes.a b: the name 'a b' is not allowed; expected {NAME}",
    ),
    "name of the folder above": (
        {"datasets": {"..": {"format": "csv", "path": "x"}}},
        f"datasets...: the name '..' is not allowed; expected {NAME}",
    ),
    "long name": (
        {f"recipes.{'a' * 61}": {"budget": {"epochs": 1}}},
        f"recipes.{'a' * 61}: the name '{'a' * 56}... is not allowed; expected at most 60 characters",
    ),
    "number as a name": (
        {"recipes.3": {"budget": {"epochs": 1}}},
        f"recipes[3]: the name 3 is not allowed; expected {TEXT}",
    ),
    "name of no selection": (
        {"selections.none": {"method": "random"}},
        "selections.none: this name stands for runs without reuse; take another",
    ),
    # What one section says twice, or not at all
    "budget in both": (
        {"recipes.plain.budget.iterations": 3},
        "recipes.plain.budget: found both of epochs and iterations; give one",
    ),
    "budget in neither": (
        {"recipes.plain.budget": {}},
        "recipes.plain.budget: found neither of epochs and iterations; give one",
    ),
    "crop above resize": (
        {"backbones.small.preprocessing.crop": 33},
        "backbones.small.preprocessing: crop 33 is larger than resize 32",
    ),
    "count above clusters": (
        {"selections.clusters.count": 21},
        "selections.clusters: count 21 is above the number of clusters 20",
    ),
    "skip and count above clusters": (
        {"selections.clusters.skip": 16},
        "selections.clusters: count 5 after skip 16 is above the number of clusters 20",
    ),
    "order unknown": (
        {"selections.uot.order": "wrst"},
        "selections.uot.order: found 'wrst'; allowed: best, worst; did you mean 'worst'?",
    ),
    "skip below zero": (
        {"selections.uot.skip": -1},
        "selections.uot.skip: found -1; expected at least 0",
    ),
    "checkpoint with path and url": (
        {"backbones.fetched.url": "https://example.org/weights.pt"},
        "backbones.fetched: found both of path and url; give one",
    ),
    "checkpoint from nowhere": (
        {"backbones.fetched.path": GONE},
        "backbones.fetched: found neither of path and url; give one",
    ),
    "digest in capitals": (
        {"backbones.fetched.sha256": "0123456789ABCDEF" * 4},
        "backbones.fetched.sha256: found '0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF01234567...; "
        "expected 64 of the digits 0-9 and a-f",
    ),
    "short digest": (
        {"backbones.fetched.sha256": "abc"},
        "backbones.fetched.sha256: found 'abc'; expected 64 of the digits 0-9 and a-f",
    ),
    "queue in parts of batches": (
        {"backbones.contrast.method.queue": 100},
        "backbones.contrast.method: queue 100 is no multiple of batch_size 64",
    ),
    "kept epoch after the last": (
        {"backbones.small.keep_epochs": [2, 9]},
        "backbones.small: keep_epochs 9 is after the 8 epochs of the budget",
    ),
    "kept epoch after the last of fine-tuning": (
        {"recipes.plain.keep_epochs": [11]},
        "recipes.plain: keep_epochs 11 is after the 10 epochs of the budget",
    ),
    "kept epoch of the first stage": (
        {"recipes.coin.keep_epochs": [8, 7]},
        "recipes.coin: keep_epochs 7 lies in the stage before, which takes 7 of 10 epochs",
    ),
    "halving by less than half": (
        {"recipes.plain.search": {"grid": {"threads": [1, 2]}, "halving": {"first": 0.1, "factor": 1}}},
        "recipes.plain.search.halving.factor: found 1; expected at least 2",
    ),
    "halving of iterations": (
        {
            "recipes.plain.budget": {"iterations": 100},
            "recipes.plain.search": {"grid": {"threads": [1, 2]}, "halving": {"first": 0.1}},
        },
        "recipes.plain: search.halving stops between epochs; give the budget in epochs",
    ),
    "tuned and searched": (
        {
            "recipes.plain.search": {"grid": {"threads": [1, 2]}},
            "recipes.plain.tuned": [{"target": "birds", "values": {"threads": 3}}],
        },
        "recipes.plain: threads: searched here, and set by tuned",
    ),
    "tuned and taken": (
        {
            "recipes.plain.search": {"grid": {"threads": [1, 2]}},
            "recipes.reuse.take": {"recipe": "plain", "keys": ["threads"]},
            "recipes.reuse.tuned": [{"values": {"threads": 3}}],
        },
        "recipes.reuse: threads: taken from another recipe, and set by tuned",
    ),
    "rungs of one epoch": (
        {
            "recipes.plain.search": {
                "grid": {"threads": [1, 2, 3, 4, 5, 6, 7, 8]},
                "halving": {"first": 0.04, "factor": 2},
            }
        },
        "recipes.plain: search.halving: its rungs would end after 1, 1, 2 of 10 epochs, some at the same; "
        "start with a larger share (first)",
    ),
    "crop from large to small": (
        {"recipes.plain.augmentation": {"resized_crop": [1, 0.2]}},
        "recipes.plain.augmentation: resized_crop goes from 1.0 to 0.2; write the smaller first",
    ),
    "all images held out": (
        {"datasets.birds.split": {"validation": 0.5, "test": 0.5}},
        "datasets.birds.split: validation 0.5 and test 0.5 leave nothing to train on",
    ),
    "stage thrown away": (
        {"recipes.coin.from_scratch": True},
        "recipes.coin: from_scratch would throw away what initialise coin made",
    ),
    "head without its backbone": (
        {
            "recipes.reuse": {
                "budget": {"epochs": 1},
                "from_scratch": True,
                "reuse": {"name": "labelled", "head": "pretraining"},
            }
        },
        "recipes.reuse: from_scratch does not go with reuse.head pretraining, whose features it lacks",
    ),
    "source head without its backbone": (
        {
            "recipes.plain": {
                "budget": {"epochs": 1},
                "from_scratch": True,
                "objective": {"name": "co_tuning"},
            }
        },
        "recipes.plain: from_scratch does not go with objective co_tuning, which trains pre-training's head",
    ),
    "a start that is not kept": (
        {"recipes.plain": {"budget": {"epochs": 1}, "from_scratch": True, "objective": {"name": "l2_sp"}}},
        "recipes.plain: from_scratch does not go with objective l2_sp, which stays near the start",
    ),
    # Names that no entry has
    "no such dataset": (
        {"backbones.small.dataset": "photo"},
        "backbones.small.dataset: no dataset is named 'photo'; defined: photos, scans, birds; "
        "did you mean 'photos'?",
    ),
    "no such origin": (
        {"backbones.early.of": "smal"},
        "backbones.early.of: no backbone is named 'smal'; defined: small, early, contrast, fetched; "
        "did you mean 'small'?",
    ),
    "no such backbone": (
        {"experiments.1.backbones": ["erly"]},
        "experiments[1].backbones: no backbone is named 'erly'; defined: small, early, contrast, fetched; "
        "did you mean 'early'?",
    ),
    "no such source": (
        {"experiments.0.source": "photograph"},
        "experiments[0].source: no dataset is named 'photograph'; defined: photos, scans, birds; "
        "did you mean 'photos'?",
    ),
    "no such target": (
        {"experiments.0.targets": ["birds", "insects"]},
        "experiments[0].targets: no dataset is named 'insects'; defined: photos, scans, birds",
    ),
    "no such selection": (
        {"experiments.0.selections": ["ot"]},
        "experiments[0].selections: no selection is named 'ot'; defined: random, uot, clusters; "
        "did you mean 'uot'?",
    ),
    "no selections at all": (
        {"selections": {}, "experiments.0.selections": ["ot"]},
        "experiments[0].selections: no selection is named 'ot'; defined: none",
    ),
    "no such recipe": (
        {"experiments.1.recipes": ["plane"]},
        "experiments[1].recipes: no recipe is named 'plane'; defined: plain, coin, reuse, both; "
        "did you mean 'plain'?",
    ),
    # Combinations
    "count above classes": (
        {"selections.uot.count": 11},
        "experiments[0].selections: selection 'uot' wants 11 units, and source 'photos' has 10 classes",
    ),
    "co-tuning without a head": (
        {"recipes.plain.objective": {"name": "co_tuning"}, "experiments.1.backbones": ["contrast"]},
        "experiments[1].recipes: recipe 'plain' trains the head of pre-training (objective co_tuning), and "
        "backbone 'contrast' has none",
    ),
    "skip and count above classes": (
        {"selections.uot.skip": 7},
        "experiments[0].selections: selection 'uot' wants 4 units after skip 7, and source 'photos' has 10 "
        "classes",
    ),
    "labels of an unlabelled source": (
        experiment(source="scans", recipes=["reuse"], selections=["clusters"]),
        "experiments[0].recipes: recipe 'reuse' reuses labels, and source 'scans' has none",
    ),
    "classes of an unlabelled source": (
        {
            "datasets.photos": {"format": "csv", "path": "photos.csv", "label": None},
            "backbones": {"fetched": {"origin": "torchvision", "weights": "ResNet18_Weights.IMAGENET1K_V1"}},
        }
        | experiment(backbones=["fetched"], source="photos", recipes=["reuse"], selections=["uot"]),
        "experiments[0].recipes: recipe 'reuse' reuses labels, and source 'photos' has none\n"
        "experiments[0].selections: selection 'uot' selects classes, and source 'photos' has no labels; "
        "use units: {by: cluster} or {by: sample}",
    ),
    "reuse without selection": (
        experiment(recipes=["plain", "reuse"]),
        "experiments[0].selections: recipe 'reuse' reuses source data, and no selection is named",
    ),
    "selection without reuse": (
        experiment(selections=["uot"]),
        "experiments[0].selections: no recipe of this experiment reuses source data",
    ),
    "fetched backbone without source": (
        experiment(backbones=["fetched"], recipes=["reuse"], selections=["uot"]),
        "experiments[0].source: missing; backbone 'fetched' was fetched, so name the data to reuse",
    ),
    "epoch not kept": (
        {"backbones.early.epoch": 3},
        "backbones.early.epoch: 'small' does not keep epoch 3; it keeps: 2, 4",
    ),
    "no epoch kept": (
        {"backbones.small.keep_epochs": []},
        "backbones.early.epoch: 'small' does not keep epoch 2; it keeps: none",
    ),
    "epoch of a fetched backbone": (
        {"backbones.early.of": "fetched"},
        "backbones.early.of: backbone 'fetched' is not pre-trained here, so it keeps no epochs",
    ),
    "supervised without labels": (
        {"backbones.contrast.method": {"name": "supervised", "budget": {"epochs": 1}}},
        "backbones.contrast.method: supervised pre-training needs labels, and dataset 'scans' has none",
    ),
    "target without labels": (
        experiment(targets=["scans"]),
        "experiments[0].targets: target 'scans' has no labels to fine-tune on",
    ),
    "projection of a supervised backbone": (
        {"backbones.small.feature_layer": "projection"},
        "backbones.small.feature_layer: found 'projection', and this backbone has no projection head",
    ),
    "head of a fetched backbone": (
        experiment(backbones=["fetched"], source="photos", recipes=["both"], selections=["uot"])
        | {"backbones.fetched.projection": {}},
        f"experiments[0].recipes: {NO_HEAD} 'fetched' has no head for source 'photos'",
    ),
    "head of a self-supervised backbone": (
        experiment(backbones=["contrast"], source="photos", recipes=["both"], selections=["uot"]),
        f"experiments[0].recipes: {NO_HEAD} 'contrast' has no head for source 'photos'",
    ),
    "head for another source": (
        experiment(source="birds", targets=["photos"], recipes=["both"], selections=["uot"]),
        f"experiments[0].recipes: {NO_HEAD} 'small' has no head for source 'birds'",
    ),
    "equal runs of different sources": (
        {
            "experiments.1": {
                "name": "other source",
                "backbones": ["small"],
                "source": "birds",
                "targets": ["birds"],
                "selections": ["uot"],
                "recipes": ["reuse"],
            }
        },
        "experiments[1].source: backbone 'small', target 'birds', selection 'uot' and recipe 'reuse' reuse "
        "'birds' here and 'photos' in experiments[0]; give one of them another name",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_bad_config_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as refusal:
        load_config(edited(changes))
    head, *lines = str(refusal.value).splitlines()
    assert lines == [f"  {line}" for line in message.splitlines()]
    assert head == f"the config has {'a problem' if len(lines) == 1 else f'{len(lines)} problems'}:"


def test_all_problems_are_told_at_once() -> None:
    changes = {"recipes.plain.batch_sise": 3, "recipes.plain.thread": 1, "recipes.coin.budget": GONE}
    with pytest.raises(PipelineError, match="3 problems") as refusal:
        load_config(edited(changes))
    keys = [line.strip().partition(":")[0] for line in str(refusal.value).splitlines()[1:]]
    assert keys == ["recipes.plain.batch_sise", "recipes.plain.thread", "recipes.coin.budget"]


BAD_YAML = {
    "empty": ("", "found an empty file; expected a mapping of sections"),
    "a list": ("- datasets\n- recipes\n", "found ['datasets', 'recipes']; expected a mapping of sections"),
    "broken": (
        "datasets:\n  birds: {format: csv\nrecipes: {}\n",
        "not valid YAML: line 3, column 8: while parsing a flow mapping, expected ',' or '}', but got ':'",
    ),
    "tab": (
        "datasets:\n\tbirds: {}\n",
        "not valid YAML: line 2, column 1: while scanning for the next token, "
        "found character '\\t' that cannot start any token",
    ),
    "key twice": (
        "recipes:\n  plain: {budget: {epochs: 1}}\n  coin: {budget: {epochs: 1}}\n  plain: {}\n",
        "not valid YAML: line 4, column 3: key 'plain' is in line 2 already",
    ),
    "section twice": (
        "recipes: {}\ndatasets: {}\nrecipes: {}\n",
        "not valid YAML: line 3, column 1: key 'recipes' is in line 1 already",
    ),
    "object": (
        "datasets: !!python/object/apply:os.getcwd []\n",
        "not valid YAML: line 1, column 11: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.getcwd'",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_YAML.values(), ids=BAD_YAML)
def test_a_file_that_is_no_config_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(PipelineError) as refusal:
        load_config(file)
    assert str(refusal.value) == f"{file}: {message}"


def test_a_config_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(PipelineError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("näme: 1".encode("latin-1"))
    with pytest.raises(PipelineError, match=r"latin\.yaml: not valid YAML"):
        load_config(tmp_path / "latin.yaml")


def test_merged_keys_may_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    again = "  again:\n    <<: *small\n    seed: 7\n    keep_epochs: []\nselections:"
    file.write_text(CONFIG.replace("selections:", again, 1))
    backbones = load_config(file).backbones
    assert backbones["again"] == backbones["small"].model_copy(update={"seed": 7, "keep_epochs": []})


def test_yaml_that_writes_a_number_without_a_dot_means_the_number() -> None:
    changes = yaml.safe_load("recipes.plain.optimiser: {name: sgd, weight_decay: 1e-3}")
    assert changes["recipes.plain.optimiser"]["weight_decay"] == "1e-3"
    assert load_config(edited(changes)).recipes["plain"].optimiser.weight_decay == 0.001


def test_runs_are_the_crossing_and_each_comes_once() -> None:
    config = load_config(edited({}))
    runs = config.runs()
    assert [run.selection for run in runs if run.recipe == "reuse"] == ["random", "uot", "clusters"]
    assert {run.source for run in runs if run.recipe == "reuse"} == {"photos"}
    assert [(run.recipe, run.seed) for run in runs[3:]] == [
        (recipe, seed) for recipe in ("plain", "coin") for seed in (0, 1, 2)
    ]
    assert {(run.source, run.selection) for run in runs[3:]} == {(None, "none")}
    twice = edited({})
    twice["experiments"] *= 2
    assert load_config(twice).runs() == runs


def reordered(value: Any) -> Any:
    """The same YAML with the keys of every mapping in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(inner) for key, inner in reversed(value.items())}
    return [reordered(inner) for inner in value] if isinstance(value, list) else value


def told(config: Config) -> dict[str, Any]:
    """All that the rules are told of a config."""
    resolve = Resolver(config)
    stages = [stage for run, trial in resolve.trained() if (stage := resolve.stage(run, trial))]
    return {
        "datasets": {name: to_json(entry.plain()) for name, entry in config.datasets.items()},
        "pretraining": to_json(resolve.weights_settings("small")),
        "selections": {name: to_json(resolve.selection_settings(name)) for name in config.selections},
        "units": {
            key: to_json(resolve.units_settings(key))
            for key in [resolve.units_key(name) for name in config.selections]
        },
        "initialisations": {stage.key: to_json(stage.settings) for stage in stages},
        "finetuning": {str(run): to_json(resolve.finetuning_settings(run)) for run in config.runs()},
        "components": {str(run): resolve.finetuning_components(run) for run in config.runs()},
    }


def test_the_order_of_keys_changes_nothing() -> None:
    config = edited({})
    assert to_json(reordered(config)) == to_json(config)
    assert str(reordered(config)) != str(config)
    assert told(load_config(reordered(config))) == told(load_config(config))


def test_keys_of_units_stay_as_they_are() -> None:
    """Another key is another folder of results, so it must not change by accident."""
    resolve = Resolver(load_config(edited({})))
    assert resolve.units_key("uot") == resolve.units_key("random") == "classes"
    assert resolve.units_key("clusters") == "clusters20-62d804b0"


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"recipes.both.reuse.weight": 2.0}, True),
        ({"recipes.both.checkpoint": "best"}, True),
        ({"recipes.both.objective": {"name": "cross_entropy", "label_smoothing": 0.1}}, True),
        ({"recipes.both.initialise.temperature": 0.5}, False),
        ({"recipes.both.batch_size": 64}, False),
        ({"recipes.both.compile": True}, False),
        ({"recipes.both.budget.epochs": 11}, False),
    ],
)
def test_equal_first_stages_share_a_folder(changes: dict[str, Any], same: bool) -> None:
    config = edited(changes)
    config["experiments"].append(
        {
            "name": "third",
            "backbones": ["small"],
            "targets": ["birds"],
            "selections": ["uot"],
            "recipes": ["both"],
        }
    )
    resolve = Resolver(load_config(config))
    stages = {run.recipe: resolve.stage(run) for run in resolve.config.runs()}
    coin, both = stages["coin"], stages["both"]
    assert coin is not None
    assert both is not None
    assert coin.key.startswith("coin-")
    assert (coin.key == both.key) is same
    assert resolve.stage_of(coin.key) == coin


def test_a_run_is_found_by_its_keys() -> None:
    config = load_config(edited({}))
    resolve = Resolver(config)
    assert [resolve.run(**run.keys()) for run in config.runs()] == config.runs()
    with pytest.raises(KeyError):
        resolve.run("small", "birds", "none", "plain", 9)


def test_used_entries_are_those_of_runs() -> None:
    config = load_config(edited(experiment(backbones=["early"], recipes=["reuse"], selections=["uot"])))
    used = [(section, name) for section, name, _ in Resolver(config).used_entries()]
    assert used == [("datasets", "photos"), ("datasets", "birds"), ("backbones", "early")]
    config = load_config(edited(experiment(backbones=["fetched"])))
    assert list(Resolver(config).used_entries()) == [
        ("datasets", "birds", config.datasets["birds"]),
        ("backbones", "fetched", config.backbones["fetched"]),
    ]


def models(kind: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for model in kind.__subclasses__():
        yield model
        yield from models(model)


def test_every_model_and_field_is_described() -> None:
    assert len(list(models())) > 30
    for model in models():
        assert model.__doc__, model
        assert model.__doc__ != model.__base__.__doc__, model
        for name, field in model.model_fields.items():
            is_tag = get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
            assert is_tag or field.description, f"{model.__name__}.{name}"


def test_defaults_are_those_of_the_papers() -> None:
    uot, sgd = Uot(method="uot"), Sgd(name="sgd")
    assert (uot.epsilon, uot.tau1, uot.tau2, uot.epsilon_c, uot.distance) == (1, 1, 100, 0.01, "cosine")
    assert (uot.count, uot.units.by, Clusters(by="cluster").clusters) == (100, "class", 2000)
    assert (uot.masses, uot.order, uot.skip) == ("unit", "best", 0)
    assert (GreedyOt(method="greedy_ot").distance, Nearest(method="nearest").distance) == ("l2", "cosine")
    assert StepSchedule(name="step").milestones == [0.6, 0.8]
    assert (sgd.nesterov, sgd.momentum) == (True, 0.9)
    coin, reuse = Coin(name="coin"), LabelledReuse(name="labelled")
    assert (coin.temperature, coin.share) == (0.3, 0.7)
    assert (reuse.weight, reuse.head, reuse.batch_size) == (1, "random", None)
    co_tuning = CoTuning(name="co_tuning")
    assert (co_tuning.weight, co_tuning.relationship) == (2.3, "calibrated")
    scl, core = SupervisedContrastiveLearning(name="scl"), CoreTuning(name="core_tuning")
    assert (scl.weight, scl.temperature, scl.projection) == (0.1, 0.3, coin.projection)
    assert (core.weight, core.alpha, core.temperature) == (1, 1, 0.07)
    assert (core.positive_threshold, core.negative_threshold) == (0.8, 0.8)
    assert (core.projection, core.depth) == (256, 2)
    assert (core.contrast, core.mixup, core.pairs) == ("focal", "hard", "per_anchor")
    bi = BiTuning(name="bi_tuning")
    assert (bi.queue, bi.momentum, bi.temperature, bi.projection) == (40, 0.999, 0.07, 128)
    l2_sp, delta, bss = L2Sp(name="l2_sp"), Delta(name="delta"), Bss(name="bss")
    assert (l2_sp.alpha, l2_sp.beta, delta.alpha, delta.beta) == (0.01, 0.01, 0.01, 0.01)
    assert (delta.attention, delta.attention_images, delta.normalise) == (True, 320, "sum")
    assert (bss.weight, bss.singular_values) == (1e-3, 1)


def test_reuse_without_labels_takes_an_unlabelled_source() -> None:
    recipe = {"budget": {"epochs": 10}, "reuse": {"name": "pseudo_labelled"}}
    config = load_config(
        edited(
            {"recipes.soft": recipe} | experiment(source="scans", recipes=["soft"], selections=["clusters"])
        )
    )
    (run,) = [run for run in config.runs() if run.recipe == "soft"]
    assert (run.source, run.selection) == ("scans", "clusters")
    components = Resolver(config).finetuning_components(run)
    assert components[1:] == ["pipeline.objectives.cross_entropy", "pipeline.reuse.pseudo_labelled"]


def test_weights_depend_on_the_code_of_their_network_and_their_format() -> None:
    mae = {"architecture": {"name": "vit"}, "format": "mae"}
    config = load_config(edited({f"backbones.fetched.{key}": value for key, value in mae.items()}))
    found = {name: Resolver(config).weights_components(name) for name in ("fetched", "early")}
    assert found == {
        "fetched": ["pipeline.backbones.architectures.vit", "pipeline.backbones.formats.mae"],
        "early": ["pipeline.backbones.architectures.small_resnet"],
    }


@pytest.mark.parametrize("backbone", ["small", "early", "fetched"])
def test_co_tuning_takes_backbones_that_may_have_a_head(backbone: str) -> None:
    """Whether a checkpoint has one, only the file tells."""
    changes = {"recipes.plain.objective": {"name": "co_tuning"}, "experiments.1.backbones": [backbone]}
    config = load_config(edited(changes))
    run = next(run for run in config.runs() if run.recipe == "plain")
    assert "pipeline.objectives.co_tuning" in Resolver(config).finetuning_components(run)


def test_settings_load_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.config.loading import load_config;"
        "from pipeline.config.resolve import Resolver;"
        "Resolver(load_config(Path('config.yaml')));"
        "import json; print(json.dumps(list(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    modules = json.loads(answer.stdout)
    heavy = {"torch", "torchvision", "numpy", "pandas", "pyarrow", "sklearn", "mlflow", "snakemake", "typer"}
    assert heavy.isdisjoint(modules)


def test_the_schema_and_the_page_are_those_of_the_models() -> None:
    advice = "is out of date: run `make docs`"
    example = (ROOT / "config.yaml").read_text()
    assert (ROOT / SCHEMA).read_text() == schema(), f"{SCHEMA} {advice}"
    assert (ROOT / PAGE).read_text() == page(example), f"{PAGE} {advice}"


def test_the_schema_takes_what_the_models_take() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema()))
    validator.validate(yaml.safe_load((ROOT / "config.yaml").read_text()))
    validator.validate(edited({}))
    first_line = (ROOT / "config.yaml").read_text().splitlines()[0]
    assert first_line == f"# yaml-language-server: $schema={SCHEMA}"


@pytest.mark.parametrize(
    "case",
    ["unknown section", "unknown key in a kind", "missing key", "unknown kind", "zero", "short digest"],
)
def test_the_schema_refuses_what_the_models_refuse(case: str) -> None:
    changes, _ = BAD[case]
    validator = jsonschema.Draft202012Validator(json.loads(schema()))
    assert not validator.is_valid(edited(changes))


def test_the_page_names_every_key_and_its_tables_are_whole() -> None:
    text = page((ROOT / "config.yaml").read_text())
    for section in Config.model_fields:
        assert f"\n## {section}\n" in text
    for model in models():
        for name in model.model_fields if model is not Config else ():
            assert f"`{name}`" in text, f"{model.__name__}.{name}"
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {5}
    anchors = {line.strip("# `") for line in text.splitlines() if line.startswith("#")}
    links = set(re.findall(r"\]\(#([\w-]+)\)", text))
    assert links <= anchors


def test_check_counts_runs_and_docs_writes_both_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.config"]
    (tmp_path / "config.yaml").write_text(CONFIG)
    checked = subprocess.run([*command, "check"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert checked.stdout.splitlines() == [
        "config.yaml is valid: 9 runs in 2 experiments",
        "     3  first",
        "     6  second",
    ]
    subprocess.run([*command, "docs"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / SCHEMA).read_text() == schema()
    assert (tmp_path / PAGE).read_text() == page(CONFIG)


def test_check_shows_an_error_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(CONFIG.replace("epochs: 10", "epoch: 10", 1))
    command = [sys.executable, "-m", "pipeline.config", "check", "bad.yaml"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 1
    head, problem = checked.stderr.splitlines()
    assert head == "error: the config has a problem:"
    assert problem.startswith("  recipes.plain.budget.epoch: unknown key; allowed: epochs, iterations")


def test_torchvision_sets_are_those_that_can_be_read() -> None:
    from pipeline.datasets.torchvision import SETS

    assert list(get_args(TorchvisionSet.model_fields["name"].annotation)) == list(SETS)
