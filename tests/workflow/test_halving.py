"""Successive halving through the workflow: who goes on, from where, and what a changed grid runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute as compute
import pyarrow.parquet as parquet
import pytest
import yaml

from pipeline.tables import read_table

ROOT = Path(__file__).parents[2]
CONFIG = """
datasets:
  source: {format: parquet, path: source.parquet, classes: 3}
  target: {format: parquet, path: target.parquet}
backbones:
  small:
    origin: pretraining
    dataset: source
    architecture: {name: small_resnet, widths: [4]}
    preprocessing: {resize: 14, crop: 14}
    method: {name: supervised, budget: {epochs: 1}, batch_size: 32}
recipes:
  plain:
    budget: {epochs: 4}
    batch_size: 16
    search:
      grid: {optimiser.learning_rate: [1.0e-9, 0.01, 0.02, 0.05]}
      halving: {first: 0.25, factor: 2}
experiments:
  - {name: halved, backbones: [small], targets: [target], recipes: [plain]}
"""
SEARCH = Path("results/searches/small/target/none/plain")


def snakemake(folder: Path, config: dict[str, Any], *arguments: str) -> str:
    """Run this checkout's workflow in `folder`; what it printed."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    done = subprocess.run(
        [*command, "--configfile", "config.yaml", "--show-failed-logs", *arguments],
        cwd=folder,
        env=os.environ | {"SLURM_CONF": os.devnull},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def jobs(output: str) -> dict[str, int]:
    """The jobs that were planned, by rule."""
    found = re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)
    return {rule: int(count) for rule, count in found if rule != "total"}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return dict(yaml.safe_load(CONFIG))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Path:
    """A project whose search was halved."""
    folder = tmp_path_factory.mktemp("halving")
    whole = parquet.read_table(ROOT / "data" / "quickdraw.parquet")
    for part, classes, images in (("source", 3, 60), ("target", 2, 200)):
        rows = whole.filter(compute.equal(whole["part"].cast("string"), part))
        rows = rows.filter(compute.less(rows["label"], classes))
        parquet.write_table(rows.slice(0, images * classes), folder / f"{part}.parquet")
    snakemake(folder, config)
    return folder


def ranking(folder: Path, name: str) -> list[dict[str, Any]]:
    rows = read_table("search", folder / SEARCH / f"{name}.parquet").to_pylist()
    return [row | {"values": json.loads(row["values"])} for row in rows]


def test_the_better_half_goes_on_from_where_it_was(folder: Path) -> None:
    first, last = ranking(folder, "rung0"), ranking(folder, "search")
    going_on = {row["trial"] for row in first if row["chosen"]}
    assert len(first) == len(last) == 4
    assert going_on == {row["trial"] for row in first[:2]} == {row["trial"] for row in last[:2]}
    assert [(row["rung"], row["share"]) for row in last] == 2 * [(1, 0.5)] + 2 * [(0, 0.25)]
    assert [row["chosen"] for row in last] == [True, False, False, False]
    for row in first:
        trained = folder / SEARCH / row["trial"]
        history = read_table("history", trained / "rung0" / "history.parquet")
        assert set(history["epoch"].to_pylist()) == {1}
        assert (trained / "rung1").exists() == row["chosen"]
    for name in going_on:
        history = read_table("history", folder / SEARCH / name / "rung1" / "history.parquet")
        assert set(history["epoch"].to_pylist()) == {1, 2}
        log = folder / "results/logs" / SEARCH.relative_to("results") / name / "rung1.log"
        assert "resumed after epoch 1" in log.read_text()


def test_nothing_is_left_that_only_a_running_search_needs(folder: Path, config: dict[str, Any]) -> None:
    assert not list((folder / SEARCH).glob("*/state"))
    assert not list((folder / SEARCH).glob("*/rung*/*.jsonl"))
    assert "Nothing to be done" in snakemake(folder, config, "--dry-run")


def test_the_report_says_how_far_trials_went(folder: Path) -> None:
    page = (folder / "results/report.html").read_text(encoding="utf-8")
    assert "4 trials up to 25.0 % of the budget, then 2 trials up to 50.0 % of the budget" in page


def test_a_dry_run_plans_the_first_rung_and_every_ranking(tmp_path: Path, config: dict[str, Any]) -> None:
    grid = {"optimiser.learning_rate": [0.01 * step for step in range(1, 9)]}
    search = {"grid": grid, "halving": {"first": 0.25, "factor": 2}}
    changed = config | {"recipes": {"plain": config["recipes"]["plain"] | {"search": search}}}
    planned = jobs(snakemake(tmp_path, changed, "--dry-run"))
    # Three rungs: of four and two trials, the rankings before will tell which.
    assert (planned["trial_to_rung"], planned["rank"], planned["choose"]) == (8, 2, 1)


def test_a_changed_grid_trains_its_new_trial(folder: Path, config: dict[str, Any]) -> None:
    paths = sorted((folder / SEARCH).glob("*/rung*/predictions.parquet"))
    before = {path: path.stat().st_mtime_ns for path in paths}
    config["recipes"]["plain"]["search"]["grid"]["optimiser.learning_rate"].append(1e-10)
    output = snakemake(folder, config)
    assert jobs(output)["trial_to_rung"] == 1
    assert {path: path.stat().st_mtime_ns for path in paths} == before
    assert len(ranking(folder, "search")) == 5
