"""Selections and recall through the workflow: the paper's Table 4, and experiments that only select."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import yaml

from pipeline.tables import read_table

from .project import ROOT, Project, doodles, job_table, small_config

BACKBONES = ["resnet18_supervised", "resnet50_mocov2"]
# UOT paper, Table 4, rows "Rec.": GOT-l2, GOT-cos, UOT-l2, UOT-cos.
TABLE_4 = {
    "resnet18_supervised": [86.44, 94.92, 94.92, 98.31],
    "resnet50_mocov2": [16.95, 38.98, 16.95, 93.22],
}
DOODLES = """
datasets:
  source: {format: parquet, path: source.parquet, classes: 6, concepts: concepts.csv}
  target: {format: parquet, path: target.parquet}
selections:
  drinks: {method: label, concepts: [drink]}
  mapped: {method: label, mapping: mapping.csv}
  random: {method: random, count: 3}
experiments:
  - name: Which doodles are drinks?
    backbones: [small]
    targets: [target]
    selections: [drinks, mapped, random]
    recall: {target: [drink]}
"""


@pytest.fixture(scope="module")
def table_4() -> dict[str, Any]:
    """The preset, with its first experiment only."""
    preset = yaml.safe_load((ROOT / "config" / "presets" / "uot_table4.yaml").read_text())
    return preset | {"experiments": preset["experiments"][:1]}


def test_table_4_of_the_paper_follows_exactly(
    tmp_path: Path, table_4: dict[str, Any], shared_data: Path
) -> None:
    shutil.copytree(shared_data / "uot_class_means", tmp_path / "data" / "uot_class_means")
    Project(tmp_path, table_4).run()
    found = read_table("recall", tmp_path / "results" / "recall.parquet").to_pylist()
    assert {(row["concept"], row["units"], row["selected"]) for row in found} == {("bird", 59, 100)}
    recall = {
        name: [round(row["recall"], 2) for row in found if row["backbone"] == name] for name in BACKBONES
    }
    assert recall == TABLE_4
    lines = (tmp_path / "results" / "recall.txt").read_text().splitlines()
    names = ["greedy_ot_l2", "greedy_ot_cosine", "uot_l2", "uot_cosine"]
    columns = zip(names, *TABLE_4.values(), strict=True)
    printed = [[name, "100", f"{first:.2f}", f"{second:.2f}"] for name, first, second in columns]
    assert [line.split() for line in lines[-4:]] == printed
    figures = sorted(path.stem for path in (tmp_path / "results" / "recall").rglob("*.svg"))
    assert figures == sorted(2 * names)
    assert not (tmp_path / "results" / "comparison.txt").exists()


def test_means_that_are_missing_stop_a_run_and_no_dry_run(tmp_path: Path, table_4: dict[str, Any]) -> None:
    project = Project(tmp_path, table_4)
    done = project.snakemake("--dry-run")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "class_means        4" in done.stdout
    done = project.snakemake()
    assert done.returncode
    path = "data/uot_class_means/imagenet.resnet18_supervised.parquet"
    assert f"datasets.imagenet.path: no such file or folder: {path}" in done.stdout
    assert "Finished jobid" not in done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A few doodles, what they stand for, and a finished run that only selects."""
    project = Project(tmp_path_factory.mktemp("doodles"), small_config(DOODLES))
    folder = project.folder
    project.write("source.parquet", doodles("source", 6))
    project.write("target.parquet", doodles("target", 2))
    names = class_names(folder, "source")
    concepts = zip(names, ["drink", "drink", "other", "other", "other", "drink"], strict=True)
    write_csv(folder / "concepts.csv", ["class_name", "concept"], [*concepts, ("not a doodle", "drink")])
    write_csv(folder / "mapping.csv", ["target", "source"], [(class_names(folder, "target")[0], names[4])])
    project.run()
    return project


def class_names(folder: Path, part: str) -> list[str]:
    """Class names of a part in label order."""
    rows = parquet.read_table(folder / f"{part}.parquet", columns=["label", "class_name"]).to_pylist()
    return [name for _, name in sorted({(row["label"], row["class_name"]) for row in rows})]


def write_csv(path: Path, header: list[str], rows: list[tuple[str, str]]) -> None:
    """Write a CSV file with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def test_an_experiment_without_recipes_only_selects(project: Project) -> None:
    results = project.folder / "results"
    rows = {row["selection"]: row for row in read_table("recall", results / "recall.parquet").to_pylist()}
    assert [(row["units"], row["selected"]) for row in rows.values()] == [(3, 3), (3, 1), (3, 3)]
    assert (rows["drinks"]["recall"], rows["mapped"]["recall"]) == (100, 0)
    selection = read_table("selection", results / "selections/small/source/target/mapped.parquet").to_pylist()
    assert [row["name"] for row in selection if row["selected"]] == [class_names(project.folder, "source")[4]]
    assert not (results / "runs").exists()
    assert not (results / "report.html").exists()


def test_a_new_concept_runs_again_what_reads_it(project: Project) -> None:
    concepts = project.folder / "concepts.csv"
    before = concepts.read_text()
    concepts.touch()
    assert "Nothing to be done" in project.run("--dry-run")
    concepts.write_text(before.replace("other", "drink", 1))
    try:
        jobs = job_table(project.run("--dry-run", "--quiet", "rules"))
    finally:
        concepts.write_text(before)
    assert jobs == {
        "units": "1",
        "select": "3",
        "recall": "1",
        "all": "1",
        "total": "6",
    }
