"""Successive halving through the workflow: who goes on, from where, and what a changed grid runs."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.tables import read_table

from .project import Project, doodles, job_table, small_config

# Eight trials up to the first epoch of four, four up to the second, two to the end.
CONFIG = """
selections:
  random: {method: random, count: 2}
recipes:
  plain: &plain
    budget: {epochs: 4}
    batch_size: 8
    search:
      grid: {optimiser.head_ratio: [1.0, 10.0]}
  reuse:
    <<: *plain
    reuse: {name: labelled, leaks: keep}
    take: {recipe: plain, keys: [optimiser.head_ratio]}
    search:
      grid: {optimiser.learning_rate: [1.0e-9, 0.01, 0.02, 0.05], reuse.weight: [0.1, 1.0]}
      halving: {first: 0.25, factor: 2}
experiments:
  - {name: halved, backbones: [small], targets: [target], selections: [random], recipes: [reuse]}
"""
SEARCH = Path("results/searches/small/target/random/reuse")
RUNGS = [0.25, 0.5, 1.0]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose search was halved; the last rung of one trial was killed on the way."""
    project = Project(tmp_path_factory.mktemp("halving"), small_config(CONFIG))
    project.write("source.parquet", doodles("source", 3, 20))
    project.write("target.parquet", doodles("target", 2))
    planned = job_table(project.run())
    # Which trials the later rungs have, only the rankings before will tell.
    assert (planned["trial"], planned["trial_to_rung"], planned["rank"], planned["choose"]) == (
        "2",
        "8",
        "2",
        "2",
    )
    return project


def ranking(project: Project, name: str) -> list[dict[str, Any]]:
    rows = read_table("search", project.folder / SEARCH / f"{name}.parquet").to_pylist()
    return [row | {"values": json.loads(row["values"])} for row in rows]


def test_the_better_half_goes_on_from_where_it_was(project: Project) -> None:
    tables = [ranking(project, name) for name in ("rung0", "rung1", "search")]
    for number, table in enumerate(tables):
        assert len(table) == 8
        taking_part = [row for row in table if row["rung"] == number]
        assert [row["share"] for row in taking_part] == [RUNGS[number]] * (8, 4, 2)[number]
        chosen = (4, 2, 1)[number]
        assert [row["chosen"] for row in table] == [True] * chosen + [False] * (8 - chosen)
        assert taking_part == table[: len(taking_part)]
    for before, after in pairwise(tables):
        going_on = {row["trial"] for row in before if row["chosen"]}
        assert {row["trial"] for row in after[: len(going_on)]} == going_on
    for row in tables[-1]:
        folder = project.folder / SEARCH / row["trial"]
        assert sorted(path.name for path in folder.iterdir()) == [f"rung{n}" for n in range(row["rung"] + 1)]
        history = read_table("history", folder / f"rung{row['rung']}" / "history.parquet")
        assert set(history["epoch"].to_pylist()) == set(range(1, (1, 2, 4)[row["rung"]] + 1))
        for rung in range(1, row["rung"] + 1):
            log = project.folder / "results/logs" / SEARCH.relative_to("results") / row["trial"]
            assert f"resumed after epoch {(1, 2)[rung - 1]}" in (log / f"rung{rung}.log").read_text()


def test_nothing_is_left_that_only_a_running_search_needs(project: Project) -> None:
    assert not list((project.folder / SEARCH).glob("*/rung*/*.jsonl"))
    assert "Nothing to be done" in project.run("--dry-run")


def test_the_report_says_how_far_trials_went(project: Project) -> None:
    page = (project.folder / "results/report.html").read_text(encoding="utf-8")
    assert (
        "8 trials up to 25.0 % of the budget, then 4 trials up to 50.0 % of the budget, then 2 trials up to "
        "100.0 % of the budget"
    ) in " ".join(page.split())


def test_a_changed_grid_trains_its_new_trials(project: Project) -> None:
    """Their rate is too small to go on; what went on before is not trained again."""
    paths = sorted((project.folder / SEARCH).glob("*/rung*/predictions.parquet"))
    before = {path: path.stat().st_mtime_ns for path in paths}
    project.config["recipes"]["reuse"]["search"]["grid"]["optimiser.learning_rate"][0] = 1e-10
    project.write_config()
    assert job_table(project.run())["trial_to_rung"] == "2"
    kept = {path: path.stat().st_mtime_ns for path in paths}
    assert kept == before
    assert len(ranking(project, "search")) == 8
