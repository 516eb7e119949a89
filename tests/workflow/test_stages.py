"""Stages before fine-tuning through the workflow: cached, handed over, searched, trained by two processes."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipeline.provenance import read_provenance
from pipeline.tables import read_table

from .project import Project, doodles, job_table, small_config

CONFIG = """
selections:
  random: {method: random, count: 2}
recipes:
  searched: &common
    budget: {epochs: 4}
    batch_size: 16
    batch_norm: frozen
    initialise: {name: coin, projection: 8}
    objective: {name: scl, projection: 8}
    search: {grid: {initialise.share: [0.25, 0.5], objective.weight: [0.1, 1.0]}}
  probed:
    <<: *common
    search: null
    gpu: 2
    initialise: {name: linear_probe}
    objective: {name: cross_entropy}
  everything: # what no paper tried: COIN, then Core-tuning, with selected source data
    <<: *common
    search: null
    objective: {name: core_tuning, projection: 8}
    reuse: {name: labelled}
  noisy:
    <<: *common
    search: null
    initialise: {name: noisy_tune}
experiments:
  - name: stages
    backbones: [small]
    targets: [target]
    selections: [random]
    recipes: [searched, probed, everything, noisy]
"""
SEARCH = "results/searches/small/target/none/searched/search.parquet"
RUNS = "results/runs/small/target"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("stages"), small_config(CONFIG))
    project.write("source.parquet", doodles("source", 3))
    project.write("target.parquet", doodles("target", 2))
    project.run()
    return project


def stages(project: Project) -> dict[Path, dict[str, Any]]:
    """What each stage that was trained had been told, by its folder."""
    made = {}
    for weights in (project.folder / "results/initialisations/small/target").glob(
        "*/seed0/weights.safetensors"
    ):
        record = read_provenance(weights)
        assert record is not None
        made[weights.parent] = dict(record.settings)
    return made


def test_the_split_is_chosen_on_validation_and_its_stage_trained(project: Project) -> None:
    rows = read_table("search", project.folder / SEARCH).to_pylist()
    assert len(rows) == 4
    best = json.loads(rows[0]["values"])
    run = read_provenance(project.folder / RUNS / "none/searched/seed0/predictions.parquet")
    assert run is not None
    assert run.settings["initialise"]["share"] == best["initialise.share"]
    assert run.settings["objective"]["weight"] == best["objective.weight"]
    # One stage for each share tried, whatever the weight of the objective after it, and one for the choice.
    coins = [settings for settings in stages(project).values() if settings["initialise"]["name"] == "coin"]
    tried = [settings["initialise"]["share"] for settings in coins if not settings["chosen"]]
    assert sorted(tried) == [0.25, 0.5, 0.7]  # 0.7 is the default, of the recipe that searches nothing
    chosen = [settings["initialise"]["share"] for settings in coins if settings["chosen"]]
    assert chosen == [best["initialise.share"]]


def test_layers_are_handed_over(project: Project) -> None:
    logs = project.folder / "results/logs/runs/small/target"
    assert (
        "projector of the stage before: carried on" in (logs / "none/searched/seed0/finetune.log").read_text()
    )
    assert (
        "projector of the stage before: carried on"
        in (logs / "random/everything/seed0/finetune.log").read_text()
    )
    assert "head of the stage before: carried on" in (logs / "none/probed/seed0/finetune.log").read_text()


def test_noise_changes_the_weights_and_takes_no_share(project: Project) -> None:
    (noisy,) = (
        folder for folder, told in stages(project).items() if told["initialise"]["name"] == "noisy_tune"
    )
    pretrained = load_file(project.folder / "results/backbones/small/weights.safetensors")
    changed = load_file(noisy / "weights.safetensors")
    assert not pretrained["encoder.stem.weight"].equal(changed["encoder.stem.weight"])
    history = read_table("history", project.folder / RUNS / "none/noisy/seed0/history.parquet").to_pylist()
    assert {row["epoch"] for row in history if row["split"] == "train"} == {1, 2, 3, 4}


def test_two_processes_train_where_a_recipe_asks_for_two(project: Project) -> None:
    metrics = read_table("metrics", project.folder / RUNS / "none/probed/seed0/metrics.parquet")
    assert len(metrics)
    output = project.run("--dry-run", "--printshellcmds", "--forcerun", "finetune")
    commands = [line for line in output.splitlines() if "pipeline.finetuning" in line]
    joint = [
        line for line in commands if "-m torch.distributed.run --standalone --nproc-per-node 2 -m" in line
    ]
    assert len(joint) == 1
    assert '"gpu":2' in joint[0]


def test_a_changed_objective_runs_no_stage_again(project: Project) -> None:
    before = project.config["recipes"]["everything"]["objective"]
    project.config["recipes"]["everything"]["objective"] = {"name": "scl", "projection": 16}
    project.write_config()
    jobs = job_table(project.run("--dry-run", "--quiet", "rules") + project.run("--dry-run"))
    project.config["recipes"]["everything"]["objective"] = before
    project.write_config()
    assert jobs["finetune"] == "1"
    assert "initialise" not in jobs
