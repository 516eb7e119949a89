"""Settings of the domain gap: what is refused, which runs are measured and with which selections."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.loading import load_config
from pipeline.config.resolve import Resolver
from pipeline.errors import PipelineError

ROOT = Path(__file__).parents[2]
CONFIG = """
datasets:
  photos: {format: image_folder, path: photos, classes: 10}
  birds: {format: csv, path: birds.csv}
backbones:
  small:
    origin: pretraining
    dataset: photos
    architecture: {name: small_resnet}
    preprocessing: {resize: 32, crop: 28}
    method: {name: supervised, budget: {epochs: 8}}
selections:
  best: {method: uot, count: 4}
  worst: {method: uot, count: 4, order: worst}
  single: {method: uot, count: 1}
recipes:
  plain: {budget: {epochs: 10}}
  reuse:
    budget: {epochs: 10}
    reuse: {name: labelled, weight: 0.3, share: 0.5}
    tuned: [{selection: worst, values: {reuse.share: 0.25}}]
  pseudo: {budget: {epochs: 10}, reuse: {name: pseudo_labelled}}
"""
EXPERIMENT = {
    **{"name": "one", "backbones": ["small"], "targets": ["birds"], "selections": ["best", "worst"]},
    **{"recipes": ["plain", "reuse"], "domain_gap": {"batches": 5}},
}


def with_experiments(*experiments: dict[str, Any]) -> dict[str, Any]:
    """The config above with these experiments, each told by what differs."""
    return {**yaml.safe_load(CONFIG), "experiments": [EXPERIMENT | changes for changes in experiments]}


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "nothing reused": (
        [{"recipes": ["plain"], "selections": []}],
        "experiments[0].domain_gap: the gap is to reused data, and no recipe of this experiment reuses any",
    ),
    "two kinds of reuse": (
        [{"recipes": ["reuse", "pseudo"]}],
        "experiments[0].domain_gap: found recipes that reuse data in several ways (labelled, "
        "pseudo_labelled), whose gaps differ; make an experiment of each",
    ),
    "one class": (
        [{"selections": ["single"]}],
        "experiments[0].domain_gap: selection 'single' selects one class; a head for it has no "
        "loss to measure",
    ),
    "a run measured in two ways": (
        [{}, {"selections": ["worst"], "domain_gap": {"batches": 6}}],
        "experiments[1].domain_gap: backbone 'small', target 'birds', selection 'none' and recipe 'plain' "
        "are measured in another way than in experiments[0]",
    ),
    "too few batches": (
        [{"domain_gap": {"batches": 2}}],
        "experiments[0].domain_gap.batches: found 2; expected at least 3",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_measured_is_refused(name: str) -> None:
    experiments, message = BAD[name]
    with pytest.raises(PipelineError) as error:
        load_config(with_experiments(*experiments))
    assert message in str(error.value)


def test_runs_with_reuse_are_measured_with_their_selection_and_others_with_all() -> None:
    resolve = Resolver(load_config(with_experiments({}, {"name": "two", "selections": ["worst", "best"]})))
    found = [(gap.run.recipe, gap.run.selection, gap.selections) for gap in resolve.gaps()]
    assert found == [
        ("plain", "none", ("best", "worst")),
        ("reuse", "best", ("best",)),
        ("reuse", "worst", ("worst",)),
    ]
    plain, own, _ = resolve.gaps()
    assert resolve.gap(plain.run) == plain
    expected = {"batch_size": 256, "batches": 5, "head_images": 100, "threads": 1}
    half = {"name": "labelled", "share": 0.5, "draw": 0}
    reuse = {"best": half, "worst": half | {"share": 0.25}}
    assert resolve.gap_settings(plain) == expected | {"selections": ["best", "worst"], "reuse": reuse}
    assert resolve.gap_settings(own) == expected | {"selections": ["best"], "reuse": None}
    assert resolve.gap_components(plain) == resolve.gap_components(own)
    assert resolve.gap_components(own)[1] == "pipeline.reuse.labelled"


def test_nothing_is_measured_unless_asked_for() -> None:
    assert load_config(with_experiments({"domain_gap": None})).gaps() == []


def test_the_tenths_of_figure_4b_are_measured() -> None:
    gaps = load_config(ROOT / "config" / "presets" / "uot_figure4b.yaml").gaps()
    assert len(gaps) == 2 * 3 * 11  # targets, seeds, and plain fine-tuning beside ten tenths
    assert {len(gap.selections) for gap in gaps} == {1, 10}
