"""Features in the plane through the workflow: of each recipe's first seed, beside the untouched backbone."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.tables import read_table

from .project import Project, doodles, job_table, small_config

CONFIG = """
recipes:
  plain: &plain {budget: {epochs: 1}, batch_size: 16}
  scl: {<<: *plain, objective: {name: scl}}
experiments:
  - name: drawn
    backbones: [small]
    targets: [target]
    recipes: [plain, scl]
    seeds: [1, 0]
    feature_map: {images: 6, perplexity: 3}
floors: {neighbours: [1], regularisation: [], interpolation: []}
"""
FOLDER = Path("results/analysis/feature_map")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose features are drawn."""
    project = Project(tmp_path_factory.mktemp("feature_map"), small_config(CONFIG))
    project.write("source.parquet", doodles("source", 3, 20))
    project.write("target.parquet", doodles("target", 2, 20))
    project.run()
    return project


def test_the_first_seed_of_each_recipe_is_drawn_beside_the_untouched_backbone(project: Project) -> None:
    rows = read_table("feature_maps", project.folder / FOLDER / "feature_maps.parquet").to_pylist()
    assert [(row["recipe"], row["seed"], row["images"]) for row in rows] == [
        (None, None, 12),
        ("plain", 1, 12),
        ("scl", 1, 12),
    ]
    folders = ["floors/small/target/neighbours/seed0"]
    folders += [f"runs/small/target/none/{recipe}/seed1" for recipe in ("plain", "scl")]
    for row, folder in zip(rows, folders, strict=True):
        metrics = read_table("metrics", project.folder / "results" / folder / "metrics.parquet").to_pylist()
        values = {found["metric"]: found["value"] for found in metrics if found["split"] == "test"}
        assert (row["accuracy"], row["s_dbw"]) == (values["top1"], values.get("s_dbw"))
    page = (project.folder / "results/report.html").read_text(encoding="utf-8")
    assert re.search(r'<section id="feature-maps">.*<img src="data:image/svg', page, re.DOTALL)


def test_maps_show_the_same_images_elsewhere(project: Project) -> None:
    folder = project.folder / FOLDER
    paths = [folder / f"runs/small/target/none/{recipe}/seed1.parquet" for recipe in ("plain", "scl")]
    first, *others = (
        read_table("feature_map", path) for path in (folder / "untouched/small/target.parquet", *paths)
    )
    assert np.bincount(first["label"]).tolist() == [6, 6]
    manifest = read_table("manifest", project.folder / "results/datasets/target/manifest.parquet")
    test = {row["sample_id"]: row for row in manifest.drop_columns(["image"]).to_pylist()}
    for name, label in zip(first["sample_id"].to_pylist(), first["label"].to_pylist(), strict=True):
        assert (test[name]["split"], test[name]["label"]) == ("test", label)
    for other in others:
        assert other["sample_id"].equals(first["sample_id"])
        assert not other["x"].equals(first["x"])


def test_drawn_again_it_is_the_same(project: Project) -> None:
    names = ("untouched/small/target.parquet", "feature_maps.parquet", "figures/small/target.svg")
    before = [(project.folder / FOLDER / name).read_bytes() for name in names]
    shutil.rmtree(project.folder / FOLDER)
    jobs = job_table(project.run())
    assert jobs["feature_map"] == "2"
    assert jobs["untouched_feature_map"] == jobs["feature_map_figures"] == "1"
    assert "finetune" not in jobs
    assert [(project.folder / FOLDER / name).read_bytes() for name in names] == before
