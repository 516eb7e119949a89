"""The domain gap through the workflow: measured along runs, beside accuracy, twice the same."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as compute
import pyarrow.parquet as parquet
import pytest

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
selections:
  best: {method: uot, count: 2}
  worst: {method: uot, count: 2, order: worst}
recipes:
  plain: &plain {budget: {epochs: 2}, batch_size: 16}
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


def snakemake(folder: Path, *arguments: str) -> str:
    """Run this checkout's workflow; what it printed."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose domain gaps are measured."""
    folder = tmp_path_factory.mktemp("domain_gap")
    whole = parquet.read_table(ROOT / "data" / "quickdraw.parquet")
    for part, classes, images in (("source", 4, 60), ("target", 2, 200)):
        rows = whole.filter(compute.equal(whole["part"].cast("string"), part))
        rows = rows.filter(compute.less(rows["label"], classes))
        parquet.write_table(rows.slice(0, images * classes), folder / f"{part}.parquet")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    snakemake(folder)
    return folder


def test_each_run_is_measured_at_its_start_and_end(folder: Path) -> None:
    rows = read_table("domain_gap", folder / FOLDER / "domain_gap.parquet").to_pylist()
    found = {(row["recipe"], row["selection"], row["measured"], row["epoch"]) for row in rows}
    pairs = [("plain", "none", "best"), ("plain", "none", "worst")]
    pairs += [("reuse", "best", "best"), ("reuse", "worst", "worst")]
    assert found == {(*pair, epoch) for pair in pairs for epoch in (0, 2)}
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


def test_accuracy_stands_beside_the_gap(folder: Path) -> None:
    rows = read_table("gap_and_accuracy", folder / FOLDER / "gap_and_accuracy.parquet").to_pylist()
    assert len(rows) == 8
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


def test_measured_again_gives_the_same(folder: Path) -> None:
    names = ("domain_gap.parquet", "gap_and_accuracy.parquet", "figures/small/target/reuse_accuracy.svg")
    before = [(folder / FOLDER / name).read_bytes() for name in names]
    shutil.rmtree(folder / FOLDER)
    output = snakemake(folder)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))
    assert jobs == {"domain_gap": "3", "gap_and_accuracy": "1", "report": "1", "all": "1", "total": "6"}
    assert [(folder / FOLDER / name).read_bytes() for name in names] == before
