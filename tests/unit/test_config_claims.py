"""Settings of claims: which runs are paired, and what cannot be."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from pipeline.claims.measures import MEASURES
from pipeline.config.claims import Measure
from pipeline.config.loading import load_config
from pipeline.config.pairing import claimed_tables, claims_settings, draws_of
from pipeline.errors import PipelineError

ROOT = Path(__file__).parents[2]
CONFIG = """
datasets:
  photos: {format: image_folder, path: photos, classes: 10}
  birds: {format: csv, path: birds.csv}
  five_0: &birds {format: csv, path: birds.csv, subset: {by: number, per_class: 5, draw: 0}}
  five_1: {<<: *birds, subset: {by: number, per_class: 5, draw: 1}}
  ten_0: {<<: *birds, subset: {by: number, per_class: 10, draw: 0}}
  ten_1: {<<: *birds, subset: {by: number, per_class: 10, draw: 1}}
  ten_2: {<<: *birds, subset: {by: number, per_class: 10, draw: 2}}
backbones:
  small:
    origin: pretraining
    dataset: photos
    architecture: {name: small_resnet}
    preprocessing: {resize: 32, crop: 28}
    method: {name: supervised, budget: {epochs: 8}}
selections:
  uot: {method: uot, count: 4}
  random_0: {method: random, count: 4, seed: 0}
  random_1: {method: random, count: 4, seed: 1}
  random_2: {method: random, count: 4, seed: 2}
recipes:
  plain: {budget: {epochs: 10}}
  reuse: {budget: {epochs: 10}, reuse: {name: labelled}}
experiments:
  - &all
    name: draw 0
    backbones: [small]
    targets: [five_0, ten_0]
    selections: [uot, random_0]
    recipes: [plain, reuse]
    seeds: [0]
  - {<<: *all, name: draw 1, targets: [five_1, ten_1], selections: [uot, random_1], seeds: [1]}
  - {<<: *all, name: draw 2, targets: [ten_2], selections: [uot, random_2], seeds: [2]}
  - {<<: *all, name: the whole set, targets: [birds], recipes: [plain, reuse], seeds: [0, 1, 2]}
claims:
  questions:
    - &one
      claim: UOT is not worse than random
      kind: non_inferiority
      margin: 0.01
      backbone: small
      targets: [ten_0, ten_1, ten_2]
      better: {recipe: reuse, selections: [uot]}
      baseline: {recipe: reuse, selections: [random_0, random_1, random_2]}
"""
TREND = {"kind": "trend", "margin": 0.0, "baseline": {"recipe": "plain"}}
PLAIN: dict[str, Any] = {"baseline": {"recipe": "plain"}}


def with_claim(**changes: Any) -> dict[str, Any]:
    """The config above with its claim changed."""
    config = yaml.safe_load(CONFIG)
    config["claims"]["questions"][0] |= changes
    return config


def test_arms_are_paired_by_draw_and_seed() -> None:
    config = load_config(with_claim())
    draws = draws_of(config, config.claims.questions[0])
    assert [
        (key.draw, key.seed, pair.target, pair.images, pair.better.selection, pair.baseline.selection)
        for key, pairs in draws.items()
        for pair in pairs
    ] == [(draw, draw, f"ten_{draw}", 10, "uot", f"random_{draw}") for draw in range(3)]
    assert {table: len(runs) for table, runs in claimed_tables(config).items()} == {
        "predictions": 6,
        "metrics": 0,
        "timings": 0,
    }
    (settings,) = claims_settings(config)["claims"]
    pair = {"target": "ten_2", "images": 10, "seed": 2, "better": "uot", "baseline": "random_2"}
    assert settings["draws"][2] == [pair]


def test_a_trend_takes_the_draws_that_have_all_sizes() -> None:
    targets = ["five_0", "five_1", "ten_0", "ten_1", "ten_2"]
    config = load_config(with_claim(**TREND, targets=targets))
    draws = draws_of(config, config.claims.questions[0])
    found = {key.draw: [(pair.target, pair.images) for pair in pairs] for key, pairs in draws.items()}
    assert found == {draw: [(f"five_{draw}", 5), (f"ten_{draw}", 10)] for draw in (0, 1)}


def test_seeds_are_draws_where_there_is_no_subset() -> None:
    config = load_config(with_claim(**PLAIN, targets=["birds"]))
    draws = draws_of(config, config.claims.questions[0])
    assert [(key.draw, key.seed) for key in draws] == [(None, 0), (None, 1), (None, 2)]


def test_a_measure_says_which_tables_are_read() -> None:
    config = with_claim(measure="s_dbw")
    (one,) = config["claims"]["questions"]
    cost = {**one, "measure": "seconds", "targets": ["ten_0", "ten_1"], "relative_margin": 0.05}
    del cost["margin"]
    config["claims"] |= {"questions": [one, cost, {**cost, "claim": "once more"}], "resamples": 1000}
    loaded = load_config(config)
    found = claimed_tables(loaded)
    assert {table: len(runs) for table, runs in found.items()} == {
        "predictions": 0,
        "metrics": 6,
        "timings": 4,
    }
    _, settings, _ = claims_settings(loaded)["claims"]
    assert {key: settings[key] for key in ("measure", "margin", "relative_margin")} == {
        "measure": "seconds",
        "margin": None,
        "relative_margin": 0.05,
    }


def test_the_settings_name_every_measure() -> None:
    assert get_args(Measure) == tuple(MEASURES)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown selection": (
        {"better": {"recipe": "reuse", "selections": ["uott"]}},
        ".better.selections: no selection is named 'uott'; defined: uot, random_0, random_1, random_2; "
        "did you mean 'uot'?",
    ),
    "an arm twice": (
        {"baseline": {"recipe": "reuse", "selections": ["uot"]}},
        ".baseline: found the same arm as better; name another",
    ),
    "no run": (
        {"baseline": {"recipe": "reuse"}, "targets": ["ten_0"]},
        ".baseline: no experiment runs recipe 'reuse' with no selection on 'ten_0' by 'small'",
    ),
    "two runs of a seed": (
        {"better": {"recipe": "reuse", "selections": ["uot", "random_0"]}, **PLAIN, "targets": ["ten_0"]},
        ".better: selections 'uot' and 'random_0' both have a run on 'ten_0' with seed 0; expected one",
    ),
    "one draw": (
        {**PLAIN, "targets": ["ten_0"]},
        ".targets: found 1 draw; an interval needs at least two: "
        "add a seed, or targets that differ in the draw of their subset",
    ),
    "two sizes without a trend": (
        {**PLAIN, "targets": ["five_0", "ten_0", "ten_1"]},
        ".targets: 'five_0' and 'ten_0' are of draw 0 and seed 0; expected one target of each draw",
    ),
    "a trend over one size": (
        {**TREND, "targets": ["ten_0", "ten_1"]},
        ".targets: found one size; a trend needs at least two",
    ),
    "a trend of a measure": (
        {**TREND, "measure": "s_dbw", "targets": ["ten_0", "ten_1", "five_0", "five_1"]},
        ".measure: found 's_dbw'; allowed: top1",
    ),
    "an unknown metric": (
        {"measure": "sdbw"},
        f".measure: found 'sdbw'; allowed: {', '.join(MEASURES)}; did you mean 's_dbw'?",
    ),
    "a count for a metric": (
        {"measure": "images"},
        f".measure: found 'images'; allowed: {', '.join(MEASURES)}",
    ),
    "ratios of accuracies of images": (
        {"margin": None, "relative_margin": 0.05},
        ": relative_margin: top1 is compared image by image, not by ratios; give margin",
    ),
    "two margins": (
        {"measure": "seconds", "relative_margin": 0.05},
        ": found both of margin and relative_margin; give one",
    ),
    "two margins of a difference": (
        {"kind": "difference", "measure": "seconds", "relative_margin": 0.05},
        ": found both of margin and relative_margin; give one",
    ),
    "no margin": ({"margin": None}, ": found neither of margin and relative_margin; give one"),
    "more than all images": (
        {"measure": "top5", "margin": 1.5},
        ": margin: found 1.5; expected a number below 1 for top5",
    ),
    "a whole baseline": (
        {"measure": "seconds", "margin": None, "relative_margin": 1},
        ".relative_margin: found 1; expected a number below 1",
    ),
    "a trend over a whole set": (
        {**TREND, "targets": ["ten_0", "ten_1", "birds"]},
        ".targets: a trend is over sizes, and 'birds' is no subset by number",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_claim_that_cannot_be_answered_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as refusal:
        load_config(with_claim(**changes))
    assert str(refusal.value).splitlines()[1:] == [f"  claims.questions[0]{message}"]


def test_arms_with_other_seeds_are_refused() -> None:
    config = with_claim(**PLAIN)
    config["experiments"][2]["recipes"] = ["reuse"]
    config["experiments"].append(
        config["experiments"][2] | {"recipes": ["plain"], "selections": [], "seeds": [3]}
    )
    with pytest.raises(PipelineError, match=r"runs on 'ten_2' have seeds \[3\], and those of better \[2\]"):
        load_config(config)


def test_several_seeds_of_several_draws_are_refused() -> None:
    config = with_claim(**PLAIN)
    config["experiments"][2]["seeds"] = [2, 3]
    with pytest.raises(PipelineError, match=r"found 4 draws and seeds of 3 draws .*give each draw one seed"):
        load_config(config)


def test_resamples_must_suffice_for_the_level() -> None:
    config = with_claim()
    config["claims"] |= {"resamples": 1000, "level": 0.999}
    with pytest.raises(PipelineError, match=r"resamples: 1000 are too few for 1 claims .*at least 10000"):
        load_config(config)


@pytest.mark.parametrize(
    ("preset", "runs", "draws"),
    [("quickdraw_reuse", 140, [20, 20, 10, 20, 20]), ("quickdraw_long_tail", 30, [10, 10])],
)
def test_the_study_has_its_runs_and_draws(preset: str, runs: int, draws: list[int]) -> None:
    config = load_config(ROOT / "config" / "presets" / f"{preset}.yaml")
    assert len(config.runs()) == runs
    assert set(claimed_tables(config)["predictions"]) == set(config.runs())
    found = [draws_of(config, claim) for claim in config.claims.questions]
    assert [len(of_claim) for of_claim in found] == draws
    assert all(key.draw == key.seed for of_claim in found for key in of_claim)
