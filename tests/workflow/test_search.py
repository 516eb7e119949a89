"""A recipe's settings searched through the workflow: trials, the choice, and what runs again."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow.compute as compute
import pytest

from pipeline.provenance import read_provenance
from pipeline.tables import read_table

from .project import Project, doodles, job_table, small_config

CONFIG = """
selections:
  random: {method: random, count: 2}
recipes:
  plain: &plain
    budget: {epochs: 2}
    batch_size: 16
    fit_on: train+validation
    search: {grid: {optimiser.learning_rate: [1.0e+30, 0.02], optimiser.head_ratio: [1, 10]}}
  reuse:
    <<: *plain
    reuse: {name: labelled}
    search: {grid: {reuse.weight: [0.3, 1.0]}}
    take: {recipe: plain, keys: [optimiser.head_ratio]}
    tuned:
      - {selection: random, values: {optimiser.learning_rate: 0.03}}
      - {target: source, values: {threads: 2}}
experiments:
  - name: searched
    backbones: [small]
    targets: [target]
    selections: [random]
    recipes: [plain, reuse]
    seeds: [0, 1]
"""
SEARCH = "results/searches/small/target/{}/search.parquet"
RUN = "results/runs/small/target/{}/seed{}"


class Searched(Project):
    """A project whose searches and runs are looked into."""

    def search(self, way: str) -> list[dict[str, Any]]:
        """The trials of a search, best first, with their values as mappings."""
        rows = read_table("search", self.folder / SEARCH.format(way)).to_pylist()
        return [row | {"values": json.loads(row["values"])} for row in rows]

    def settings(self, run: str) -> dict[str, Any]:
        """What a run was trained with."""
        record = read_provenance(self.folder / run / "predictions.parquet")
        assert record is not None
        return dict(record.settings)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    project = Searched(tmp_path_factory.mktemp("search"), small_config(CONFIG))
    project.write("source.parquet", doodles("source", 3))
    project.write("target.parquet", doodles("target", 2))
    project.run()
    return project


def test_the_best_trial_on_validation_is_chosen(project: Searched) -> None:
    rows = project.search("none/plain")
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert [row["chosen"] for row in rows] == [True, False, False, False]
    assert [row["value"] for row in rows] == sorted((row["value"] for row in rows), reverse=True)
    tried = {
        (row["values"]["optimiser.learning_rate"], row["values"]["optimiser.head_ratio"]) for row in rows
    }
    assert tried == {(1e30, 1), (1e30, 10), (0.02, 1), (0.02, 10)}
    for row in rows:
        folder = project.folder / "results/searches/small/target/none/plain" / row["trial"]
        predictions = read_table("predictions", folder / "predictions.parquet")
        assert set(predictions["split"].to_pylist()) == {"validation"}
        hits = compute.equal(predictions["label"], predictions["prediction"])
        assert row["value"] == pytest.approx(compute.mean(hits).as_py())
        assert row["images"] == len(predictions)
        assert not (folder / "model.safetensors").exists()


def test_a_trial_that_diverges_ends_the_others_not(project: Searched) -> None:
    folder = project.folder / "results/logs/searches/small/target/none/plain"
    texts = [path.read_text() for path in folder.glob("*.log")]
    assert sum("this trial is judged by the weights it began with" in text for text in texts) == 2
    assert project.search("none/plain")[0]["values"]["optimiser.learning_rate"] == 0.02


@pytest.mark.parametrize("seed", [0, 1])
def test_every_seed_trains_what_was_chosen_on_both_parts(project: Searched, seed: int) -> None:
    best = project.search("none/plain")[0]["values"]
    settings = project.settings(RUN.format("none/plain", seed))
    assert settings["optimiser"]["learning_rate"] == best["optimiser.learning_rate"]
    assert settings["optimiser"]["head_ratio"] == best["optimiser.head_ratio"]
    assert (settings["fit_on"], settings["predict"]) == (["train", "validation"], ["test"])
    predictions = read_table(
        "predictions", project.folder / RUN.format("none/plain", seed) / "predictions.parquet"
    )
    assert set(predictions["split"].to_pylist()) == {"test"}
    timings = read_table("timings", project.folder / RUN.format("none/plain", seed) / "timings.parquet")
    manifest = read_table("manifest", project.folder / "results/datasets/target/manifest.parquet", ["split"])
    fitted = sum(split != "test" for split in manifest["split"].to_pylist())
    assert timings["images"].to_pylist() == [fitted, fitted]


def test_what_another_search_decided_holds_for_trials_and_runs(project: Searched) -> None:
    ratio = project.search("none/plain")[0]["values"]["optimiser.head_ratio"]
    rows = project.search("random/reuse")
    assert {row["values"]["reuse.weight"] for row in rows} == {0.3, 1.0}
    for row in rows:
        settings = project.settings(f"results/searches/small/target/random/reuse/{row['trial']}")
        assert (settings["optimiser"]["head_ratio"], settings["optimiser"]["learning_rate"]) == (ratio, 0.03)
        assert settings["threads"] == 1
        assert settings["reuse"]["weight"] == row["values"]["reuse.weight"]
    settings = project.settings(RUN.format("random/reuse", 1))
    assert settings["optimiser"]["head_ratio"] == ratio
    assert settings["reuse"]["weight"] == rows[0]["values"]["reuse.weight"]


def test_snakemakes_own_report_has_the_captions(project: Searched) -> None:
    project.run("--report", "snakemake.html")
    page = (project.folder / "snakemake.html").read_text(encoding="utf-8")
    for text in (
        "Settings tried for plain with selection none",
        "Units of source ranked for target by random",
        "comparison.txt",
    ):
        assert text in page


@pytest.fixture
def jobs(project: Searched) -> Callable[[], dict[str, int]]:
    """Which jobs a dry run wants, by rule."""

    def wanted() -> dict[str, int]:
        project.write_config()
        planned = job_table(project.run("--dry-run"))
        return {rule: int(count) for rule, count in planned.items() if rule != "total"}

    return wanted


def test_a_changed_grid_runs_the_new_trials_only(
    project: Searched, jobs: Callable[[], dict[str, int]]
) -> None:
    assert jobs() == {}
    grid = project.config["recipes"]["reuse"]["search"]["grid"]
    grid["reuse.weight"] = [0.3, 1.0, 3.0]
    wanted = jobs()
    grid["reuse.weight"] = [0.3, 1.0]
    assert wanted == {
        "trial": 1, "choose": 1, "finetune": 2, "evaluate": 2, "compare": 1, "report": 1, "all": 1
    }  # fmt: skip
    assert jobs() == {}
