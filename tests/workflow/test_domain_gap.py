"""The domain gap through the workflow: measured along runs, beside accuracy, twice the same."""

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as compute
import pytest

from pipeline.tables import read_table

from .project import Project, doodles, job_table, small_config

CONFIG = """
selections:
  best: {method: uot, count: 2}
  worst: {method: uot, count: 2, order: worst}
recipes:
  plain: &plain {budget: {epochs: 2}, batch_size: 16, keep_epochs: [1]}
  reuse: {<<: *plain, reuse: {name: labelled}}
experiments:
  - name: measured
    backbones: [small]
    targets: [target]
    selections: [best, worst]
    recipes: [plain, reuse]
    domain_gap: {batch_size: 12, batches: 4}
"""
FOLDER = Path("results/analysis/domain_gap")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose domain gaps are measured."""
    project = Project(tmp_path_factory.mktemp("domain_gap"), small_config(CONFIG))
    source, target = doodles("source", 3), doodles("target", 2)
    project.write("source.parquet", leaking(source, target))
    project.write("target.parquet", target)
    project.run()
    return project


def leaking(source: pa.Table, target: pa.Table) -> pa.Table:
    """The source with one of its training images exchanged for a test image of the target."""
    held_out = target.filter(compute.equal(target["split"].cast("string"), "test"))
    images = source["image"].to_pylist()
    images[0] = {"bytes": held_out["image"][0].as_py()["bytes"], "path": images[0]["path"]}
    column = pa.array(images, source.schema.field("image").type)
    return source.set_column(source.schema.get_field_index("image"), "image", column)


@pytest.fixture
def folder(project: Project) -> Path:
    """Where it is."""
    return project.folder


def test_each_run_is_measured_at_its_start_a_kept_epoch_and_its_end(folder: Path) -> None:
    rows = read_table("domain_gap", folder / FOLDER / "domain_gap.parquet").to_pylist()
    found = {(row["recipe"], row["selection"], row["measured"], row["epoch"]) for row in rows}
    pairs = [("plain", "none", "best"), ("plain", "none", "worst")]
    pairs += [("reuse", "best", "best"), ("reuse", "worst", "worst")]
    assert found == {(*pair, epoch) for pair in pairs for epoch in (0, 1, 2)}
    assert len(rows) == len(found)
    for row in rows:
        assert row["gap"] == pytest.approx(row["difference"] + row["variance"])
        assert row["variance"] > 0
        assert (row["batches"], row["batch_size"]) == (4, 12)
    # Both recipes start from the same weights with the same draws.
    first = {(row["recipe"], row["measured"]): row["gap"] for row in rows if row["epoch"] == 0}
    for selection in ("best", "worst"):
        assert first["plain", selection] == first["reuse", selection]
    last = {(row["recipe"], row["measured"]): row["gap"] for row in rows if row["epoch"] == 2}
    assert len({*first.values(), *last.values()}) == 6


def test_leaks_are_left_out_as_in_training(folder: Path) -> None:
    log = folder / "results/logs/analysis/domain_gap/small/target/none/plain/seed0.log"
    assert re.search(r"[1-9]\d* of \d+ selected source images left out as leaks", log.read_text())


def test_accuracy_stands_beside_the_gap(folder: Path) -> None:
    rows = read_table("gap_and_accuracy", folder / FOLDER / "gap_and_accuracy.parquet").to_pylist()
    assert len(rows) == 12
    for row in rows:
        if row["recipe"] == "plain":
            assert row["accuracy"] is None
            continue
        metrics = folder / f"results/runs/small/target/{row['measured']}/reuse/seed0/metrics.parquet"
        (value,) = (
            found["value"]
            for found in read_table("metrics", metrics).to_pylist()
            if (found["split"], found["metric"]) == ("test", "top1")
        )
        assert row["accuracy"] == value
    drawn = {path.name for path in (folder / FOLDER / "figures/small/target").iterdir()}
    assert drawn == {"plain_epochs.svg", "reuse_epochs.svg", "reuse_accuracy.svg"}


def test_measured_again_gives_the_same(project: Project, folder: Path) -> None:
    names = ("domain_gap.parquet", "gap_and_accuracy.parquet", "figures/small/target/reuse_accuracy.svg")
    before = [(folder / FOLDER / name).read_bytes() for name in names]
    shutil.rmtree(folder / FOLDER)
    jobs = job_table(project.run())
    assert jobs == {"domain_gap": "3", "gap_and_accuracy": "1", "report": "1", "all": "1", "total": "6"}
    assert [(folder / FOLDER / name).read_bytes() for name in names] == before
