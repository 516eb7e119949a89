"""Claims through the workflow: two arms, three draws of few doodles, twice the same answers."""

import os
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
  target_0: &target {format: parquet, path: target.parquet, subset: {by: number, per_class: 4, draw: 0}}
  target_1: {<<: *target, subset: {by: number, per_class: 4, draw: 1}}
  target_2: {<<: *target, subset: {by: number, per_class: 4, draw: 2}}
backbones:
  small:
    origin: pretraining
    dataset: source
    architecture: {name: small_resnet, widths: [4]}
    preprocessing: {resize: 14, crop: 14}
    method: {name: supervised, budget: {epochs: 1}, batch_size: 32}
selections:
  random: {method: random, count: 2}
recipes:
  plain: &plain {budget: {epochs: 20}, batch_size: 8, optimiser: {name: sgd, learning_rate: 0.05}}
  reuse: {<<: *plain, reuse: {name: labelled}}
experiments:
  - &draw
    name: zero
    backbones: [small]
    targets: [target_0]
    selections: [random]
    recipes: [plain, reuse]
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
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose target has no validation part, as the study's."""
    folder = tmp_path_factory.mktemp("claims")
    whole = parquet.read_table(ROOT / "data" / "quickdraw.parquet")
    splits, labels = whole["split"].cast("string"), whole["label"]
    for part, classes, left_out in (("source", 3, "test"), ("target", 2, "validation")):
        kept = compute.and_(compute.equal(whole["part"].cast("string"), part), compute.less(labels, classes))
        kept = compute.and_(kept, compute.not_equal(splits, left_out))
        parquet.write_table(whole.filter(kept), folder / f"{part}.parquet")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    snakemake(folder, "results/claims.txt")
    return folder


def snakemake(folder: Path, *arguments: str) -> str:
    """Run this checkout's workflow there; what it printed."""
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


def test_claims_are_answered_from_the_runs(project: Path) -> None:
    rows = read_table("claims", project / "results" / "claims.parquet").to_pylist()
    assert [row["claim"] for row in rows] == ["Reuse is not worse by more than half", "Reuse is better"]
    gains = []
    for draw in range(3):
        right = []
        for way in ("random/reuse", "none/plain"):
            folder = project / "results" / "runs" / "small" / f"target_{draw}" / way / f"seed{draw}"
            table = read_table("predictions", folder / "predictions.parquet").to_pandas()
            assert len(table) == 140
            right.append((table["label"] == table["prediction"]).mean())
        gains.append(right[0] - right[1])
    assert rows[0]["estimate"] == pytest.approx(sum(gains) / 3)
    assert (rows[0]["draws"], rows[0]["images"]) == (3, 140)
    assert {row["answer"] for row in rows} <= {"replicated", "not replicated", "undecided"}
    text = (project / "results" / "claims.txt").read_text(encoding="utf-8")
    assert f"1. Reuse is not worse by more than half: {rows[0]['answer'].upper()}" in text


def test_claims_are_the_same_twice(project: Path) -> None:
    paths = [project / "results" / name for name in ("claims.parquet", "claims.txt")]
    before = [path.read_bytes() for path in paths]
    snakemake(project, "results/claims.txt", "--forcerun", "claims")
    assert [path.read_bytes() for path in paths] == before
