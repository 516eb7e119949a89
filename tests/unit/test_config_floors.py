"""Settings of floors: what is refused, which there are, and what their steps are told."""

from typing import Any

import pytest
import yaml

from pipeline.config.floor_runs import (
    baselines,
    classifier_settings,
    floors,
    has_features,
    interpolated_run,
    interpolation_settings,
)
from pipeline.config.loading import load_config
from pipeline.errors import PipelineError

CONFIG = """
datasets:
  photos: {format: image_folder, path: photos, classes: 10}
  birds: {format: csv, path: birds.csv, metric: mean_per_class}
  pets: {format: csv, path: pets.csv}
backbones:
  small: &small
    origin: pretraining
    dataset: photos
    architecture: {name: small_resnet}
    preprocessing: {resize: 32, crop: 28}
    method: {name: supervised, budget: {epochs: 8}}
  deep: {<<: *small, feature_layer: stages.0}
recipes:
  scratch: {budget: {epochs: 10}, from_scratch: true}
  coin: {budget: {epochs: 10}, initialise: {name: coin}}
  short: {budget: {epochs: 2}, threads: 2}
  plain: {budget: {epochs: 10}}
  both: {budget: {epochs: 10}, fit_on: train+validation}
experiments:
  - {name: one, backbones: [small], targets: [birds], recipes: [scratch, plain, short, coin], seeds: [0, 3]}
  - {name: two, backbones: [deep], targets: [pets], recipes: [coin]}
  - {name: three, backbones: [small], targets: [pets], recipes: [both], seeds: [1]}
"""


def config(**floors: Any) -> Any:
    return load_config({**yaml.safe_load(CONFIG), "floors": floors})


def test_every_pair_has_floors_and_every_run_of_its_baseline() -> None:
    found = config()
    assert baselines(found) == ["plain", "short", "both"]
    assert [(*floor[:4], floor.run and floor.run.recipe) for floor in floors(found)] == [
        ("small", "birds", "neighbours", 0, None),
        ("small", "birds", "linear_probe", 0, None),
        ("small", "birds", "interpolation-plain", 0, "plain"),
        ("small", "birds", "interpolation-plain", 3, "plain"),
        ("deep", "pets", "neighbours", 0, None),
        ("deep", "pets", "linear_probe", 0, None),
        ("small", "pets", "neighbours", 0, None),
        ("small", "pets", "linear_probe", 0, None),
        ("small", "pets", "interpolation-both", 1, "both"),
    ]
    names = {floor.row()["recipe"] for floor in floors(found)}
    assert names == {
        "k-nearest neighbours",
        "linear probe",
        "plain, interpolated",
        "both, interpolated",
    }
    # None of them could be a recipe's.
    assert all(" " in name for name in names)
    assert floors(found)[3].row() == {
        **{"backbone": "small", "target": "birds", "selection": "none"},
        **{"recipe": "plain, interpolated", "seed": 3},
    }
    assert [has_features(found, name) for name in ("small", "deep")] == [True, False]


@pytest.mark.parametrize(
    ("off", "kinds"),
    [
        ({"enabled": False}, set()),
        ({"interpolation": []}, {"neighbours", "linear_probe"}),
        ({"neighbours": [], "interpolation": []}, {"linear_probe"}),
        ({"regularisation": [], "interpolation": []}, {"neighbours"}),
    ],
)
def test_each_can_be_left_out(off: dict[str, Any], kinds: set[str]) -> None:
    assert {floor.floor for floor in floors(config(**off))} == kinds


def test_steps_are_told_parts_and_the_metric() -> None:
    found = config(interpolation=[0.5])
    assert classifier_settings(found, "small", "birds") == {
        **{"fit_on": ["train"], "predict": ["validation", "test"], "metric": "mean_per_class"}
    }
    assert classifier_settings(found, "small", "pets") == {
        **{"fit_on": ["train", "validation"], "predict": ["test"], "metric": "top1"}
    }
    assert interpolation_settings(found, interpolated_run(found, "small", "pets", "both", 1)) == {
        **{"interpolation": [0.5], "predict": ["test"], "metric": "top1", "threads": 1}
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regularisation": []}, "floors: interpolation starts from the linear probe, and regularisation is"),
        ({"interpolation": [1.0]}, r"floors\.interpolation\[0\]: .*1"),
        ({"neighbours": [0]}, r"floors\.neighbours\[0\]: .*1"),
        ({"neighbors": [1]}, r"floors\.neighbors: .*neighbours"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        config(**changes)
