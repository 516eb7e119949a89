"""A backbone whose training cuts its crops from images of their own sizes, through the workflow."""

import numpy as np
import pyarrow.parquet as parquet
import pytest

from pipeline.images.originals import Originals

from .project import Project, doodles, job_table, small_config

CONFIG = """
backbones:
  small:
    origin: pretraining
    dataset: source
    architecture: {name: small_resnet, widths: [4]}
    preprocessing: {resize: 14, crop: 14, stored: original}
    method:
      name: supervised
      budget: {epochs: 1}
      batch_size: 16
      augmentation: &cropped {resized_crop: [0.5, 1.0]}
selections:
  random: {method: random, count: 2}
recipes:
  plain:
    budget: {epochs: 4}
    batch_size: 16
    augmentation: *cropped
    initialise: {name: coin, share: 0.5, projection: 4}
    reuse: {name: labelled}
experiments:
  - name: crops
    backbones: [small]
    targets: [target]
    selections: [random]
    recipes: [plain]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("originals"), small_config(CONFIG))
    project.write("source.parquet", doodles("source", 3, 20))
    project.write("target.parquet", doodles("target", 2, 20))
    return project


def test_training_reads_originals_and_the_rest_does_not(project: Project) -> None:
    planned = project.run("--dry-run", "--printshellcmds")
    assert job_table(planned)["originals"] == "2"
    named = {
        step: [line for line in planned.splitlines() if f"-m pipeline.{step} " in line]
        for step in ("pretraining", "initialisation", "finetuning", "features")
    }
    source, target = (f"results/datasets/{name}/originals.arrow" for name in ("source", "target"))
    assert all(f"--originals {source}" in line for line in named["pretraining"])
    assert all(f"--originals {target}" in line for line in named["initialisation"] + named["finetuning"])
    assert all(f"--source-originals {source}" in line for line in named["finetuning"])
    assert not any("originals" in line for line in named["features"])
    assert all(named.values())
    project.run()
    made = project.folder / "results"
    images = parquet.read_metadata(made / "datasets/source/manifest.parquet").num_rows
    originals = Originals(made / "datasets/source/originals.arrow", images)
    assert originals.sides(np.arange(images)).tolist() == [[28, 28]] * images
    assert (made / "runs/small/target/random/plain/seed0/metrics.parquet").exists()


def test_what_is_stored_decides_what_runs_again(project: Project) -> None:
    project.config["backbones"]["small"]["preprocessing"]["stored"] = "resized"
    project.write_config()
    jobs = job_table(project.run("--dry-run"))
    assert {"pretrain", "initialise", "finetune"} <= set(jobs)
    assert not {"dataset", "images", "originals"} & set(jobs)
