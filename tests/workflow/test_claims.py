"""Claims through the workflow: two arms, three draws of few doodles, twice the same answers."""

from math import prod
from pathlib import Path

import pyarrow.compute as compute
import pytest

from pipeline.tables import read_table

from .project import Project, doodles, small_config

CONFIG = """
datasets:
  source: {format: parquet, path: source.parquet, classes: 3}
  target_0: &target {format: parquet, path: target.parquet, subset: {by: number, per_class: 4, draw: 0}}
  target_1: {<<: *target, subset: {by: number, per_class: 4, draw: 1}}
  target_2: {<<: *target, subset: {by: number, per_class: 4, draw: 2}}
selections:
  random: {method: random, count: 2}
recipes:
  plain: &plain {budget: {epochs: 20}, batch_size: 8, optimiser: {name: sgd, learning_rate: 0.05}}
  reuse: {<<: *plain, reuse: {name: labelled, leaks: keep}}
  staged: {<<: *plain, initialise: {name: coin}}
experiments:
  - &draw
    name: zero
    backbones: [small]
    targets: [target_0]
    selections: [random]
    recipes: [plain, reuse, staged]
    seeds: [0]
  - {<<: *draw, name: one, targets: [target_1], seeds: [1]}
  - {<<: *draw, name: two, targets: [target_2], seeds: [2]}
claims:
  resamples: 1000
  questions:
    - &claim
      claim: Reuse is not worse by more than half
      kind: non_inferiority
      margin: 0.5
      backbone: small
      targets: [target_0, target_1, target_2]
      better: {recipe: reuse, selections: [random]}
      baseline: {recipe: plain}
    - {<<: *claim, claim: Reuse is better, kind: difference, margin: 0}
    - &cost
      claim: Another stage costs at most 90 % more
      kind: non_inferiority
      measure: seconds
      relative_margin: 0.9
      backbone: small
      targets: [target_0, target_1, target_2]
      better: {recipe: staged}
      baseline: {recipe: plain}
    - {<<: *cost, claim: Its S_Dbw is lower, kind: difference, measure: s_dbw, relative_margin: null}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose target has no validation part, as the study's."""
    project = Project(tmp_path_factory.mktemp("claims"), small_config(CONFIG))
    project.write("source.parquet", doodles("source", 3))
    project.write("target.parquet", doodles("target", 2).filter(compute.field("split") != "validation"))
    project.run("results/claims.txt")
    return project


def test_claims_are_answered_from_the_runs(project: Project) -> None:
    rows = read_table("claims", project.folder / "results" / "claims.parquet").to_pylist()
    assert [row["measure"] for row in rows] == ["top1", "top1", "seconds", "s_dbw"]
    gains = []
    for draw in range(3):
        right = []
        for way in ("random/reuse", "none/plain"):
            folder = project.folder / "results" / "runs" / "small" / f"target_{draw}" / way / f"seed{draw}"
            table = read_table("predictions", folder / "predictions.parquet").to_pandas()
            assert len(table) == 140
            right.append((table["label"] == table["prediction"]).mean())
        gains.append(right[0] - right[1])
    assert rows[0]["estimate"] == pytest.approx(sum(gains) / 3)
    assert (rows[0]["draws"], rows[0]["images"]) == (3, 140)
    assert {row["answer"] for row in rows} <= {"replicated", "not replicated", "undecided"}
    text = (project.folder / "results" / "claims.txt").read_text(encoding="utf-8")
    assert f"1. Reuse is not worse by more than half: {rows[0]['answer'].upper()}" in text


def test_claims_about_numbers_of_runs_take_all_of_a_run(project: Project) -> None:
    results = project.folder / "results"
    rows = read_table("claims", results / "claims.parquet").to_pylist()[2:]
    ratios, gains = [], []
    for draw in range(3):
        place = Path("small") / f"target_{draw}"
        staged, plain = (
            results / "runs" / place / "none" / name / f"seed{draw}" for name in ("staged", "plain")
        )
        (first,) = (results / "initialisations" / place).glob(f"coin-*/seed{draw}")
        seconds = {
            folder: sum(read_table("timings", folder / "timings.parquet")["seconds"].to_pylist())
            for folder in (first, staged, plain)
        }
        ratios.append((seconds[first] + seconds[staged]) / seconds[plain])
        found = [read_table("metrics", folder / "metrics.parquet").to_pylist() for folder in (staged, plain)]
        (low,), (high,) = (
            [row["value"] for row in table if (row["split"], row["metric"]) == ("test", "s_dbw")]
            for table in found
        )
        gains.append(low - high)
    assert rows[0]["estimate"] == pytest.approx(prod(ratios) ** (1 / 3) - 1)
    assert rows[1]["estimate"] == pytest.approx(sum(gains) / 3)
    assert [(row["draws"], row["images"], row["side"]) for row in rows] == [(3, None, "below")] * 2
    assert all(row["low"] < row["estimate"] < row["high"] for row in rows)


def test_claims_are_the_same_twice(project: Project) -> None:
    paths = [project.folder / "results" / name for name in ("claims.parquet", "claims.txt")]
    before = [path.read_bytes() for path in paths]
    project.run("results/claims.txt", "--forcerun", "claims")
    assert [path.read_bytes() for path in paths] == before
