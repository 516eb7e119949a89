"""Settings of feature maps: what is refused, whose features are drawn, and with what."""

from typing import Any

import pytest
import yaml

from pipeline.config.loading import load_config
from pipeline.config.resolve import Resolver
from pipeline.errors import PipelineError
from pipeline.estimate.jobs import FEATURES, FLOOR_FEATURES, gpu_jobs

CONFIG = """
datasets:
  photos: {format: image_folder, path: photos}
  birds: {format: csv, path: birds.csv}
  cars: {format: csv, path: cars.csv}
backbones:
  small: &small
    origin: pretraining
    dataset: photos
    architecture: {name: small_resnet}
    preprocessing: {resize: 32, crop: 28}
    method: {name: supervised, budget: {epochs: 8}}
  inner: {<<: *small, feature_layer: stages.1}
recipes:
  plain: {budget: {epochs: 10}}
  coin: {budget: {epochs: 10}, initialise: {name: coin}}
"""
EXPERIMENT = {
    **{"name": "one", "backbones": ["small"], "targets": ["birds"], "recipes": ["plain", "coin"]},
    **{"seeds": [3, 4], "feature_map": {}},
}
DEFAULTS = {"method": "tsne", "images": 100, "perplexity": 30.0, "seed": 0}


def resolver(*experiments: dict[str, Any], **sections: Any) -> Resolver:
    """The config above with these experiments, each told by what differs, and further sections."""
    crossed = [EXPERIMENT | changes for changes in experiments]
    return Resolver(load_config({**yaml.safe_load(CONFIG), "experiments": crossed, **sections}))


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no run": (
        [{"recipes": []}],
        "experiments[0].feature_map: this experiment has no recipes, so no run whose features to draw",
    ),
    "a figure drawn in two ways": (
        [{}, {"recipes": ["coin"], "feature_map": {"method": "pca"}}],
        "experiments[1].feature_map: features by backbone 'small' on target 'birds' are drawn in another way "
        "than in experiments[0], whose figure they share",
    ),
    "no image": (
        [{"feature_map": {"images": 0}}],
        "experiments[0].feature_map.images: found 0; expected at least 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_drawn_is_refused(name: str) -> None:
    experiments, message = BAD[name]
    with pytest.raises(PipelineError) as error:
        resolver(*experiments)
    assert message in str(error.value)


def test_nothing_is_drawn_unless_asked_for() -> None:
    resolve = resolver({"feature_map": None})
    assert (resolve.config.mapped(), resolve.map_panels()) == ([], [])


def test_the_first_seed_of_each_recipe_is_drawn_beside_the_untouched_backbone() -> None:
    resolve = resolver({}, {"seeds": [3], "recipes": ["plain"]}, {"seeds": [9], "feature_map": None})
    assert resolve.map_settings("small", "birds") == DEFAULTS
    found = [(panel["recipe"], panel["selection"], panel["seed"]) for panel in resolve.map_panels()]
    assert found == [(None, None, None), ("plain", "none", 3), ("coin", "none", 3)]


def test_each_figure_has_its_settings_and_the_floor_of_its_backbone() -> None:
    other = {"backbones": ["inner"], "targets": ["cars"], "feature_map": {"method": "pca"}}
    resolve = resolver({"recipes": ["plain"]}, other | {"recipes": ["plain"]})
    assert resolve.map_settings("inner", "cars") == DEFAULTS | {"method": "pca"}
    found = [
        (panel["backbone"], panel["target"], panel["recipe"], panel["method"], panel["measured"])
        for panel in resolve.map_panels()
    ]
    assert found == [
        ("small", "birds", None, "tsne", "linear probe"),
        ("small", "birds", "plain", "tsne", "plain"),
        ("inner", "cars", None, "pca", "linear probe"),
        ("inner", "cars", "plain", "pca", "plain"),
    ]
    assert [floor.floor for floor in resolve.map_floors().values()] == ["linear_probe"] * 2


def test_without_floors_nothing_is_measured_of_the_untouched_backbone() -> None:
    resolve = resolver({}, floors={"enabled": False})
    assert resolve.map_floors() == {}
    assert resolve.map_panels()[0]["measured"] is None
    neighbours = {"regularisation": [], "interpolation": []}
    assert resolver({}, floors=neighbours).map_panels()[0]["measured"] == "k-nearest neighbours"


def test_features_of_the_untouched_backbone_are_estimated() -> None:
    changes = {"backbones": ["small", "inner"], "targets": ["birds", "cars"]}
    jobs = gpu_jobs(resolver(changes, floors={"enabled": False}), lambda name: None)
    found = [(job.kind, job.backbone, job.dataset) for job in jobs if "eature" in job.kind]
    cached = [(FEATURES, "small", name) for name in ("birds", "cars")]
    assert found == cached + [(FLOOR_FEATURES, "inner", name) for name in ("birds", "cars")]
