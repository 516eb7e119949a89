"""Features in the plane: what is drawn of which images, and where it lies."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.analysis.feature_map.place import some_of_each, write_map
from pipeline.analysis.feature_map.projections import project
from pipeline.analysis.feature_map_figures.figures import draw, looks, title_of
from pipeline.analysis.feature_map_figures.panels import Panel, read_panels, write_panels
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.provenance.code import code_digest
from pipeline.tables import feature_column, read_table, read_table_metadata, write_table

RECORD = Provenance("pipeline.finetuning", {}, "", {}, {})
SETTINGS: dict[str, Any] = {"method": "tsne", "images": 100, "perplexity": 5.0, "seed": 0}
HERE = Path("features.parquet")
NAMES = ["ant", "bee", "<cat>"]


def clusters(classes: int, images: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Far apart clusters in the plane, turned into a random plane of a wider space; those and the labels."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), images)
    angle = 2 * np.pi * labels / classes
    plane = 10 * np.stack([np.cos(angle), 0.7 * np.sin(angle)], 1) + random.normal(size=(len(labels), 2))
    basis = np.linalg.qr(random.normal(size=(width, 2)))[0]
    return plane, plane @ basis.T + random.normal(size=width)


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None, :], axis=2)


# Projections


def test_principal_components_recover_a_planted_plane_up_to_rotation() -> None:
    plane, features = clusters(3, 20, 17)
    found = project(features, {**SETTINGS, "method": "pca"}, HERE)
    np.testing.assert_allclose(distances(found.points), distances(plane), atol=1e-9)
    assert found.variance == pytest.approx(1.0)
    # Of three directions that vary the plane holds the two that vary most.
    thick = np.column_stack([plane, np.tile([3.0, -3.0], len(plane) // 2)])
    covariance = np.linalg.eigvalsh(np.cov(thick.T))
    share = project(thick, {**SETTINGS, "method": "pca"}, HERE).variance
    assert share == pytest.approx(covariance[1:].sum() / covariance.sum())


def test_t_sne_keeps_planted_clusters_together_and_is_the_same_each_time() -> None:
    _, features = clusters(4, 15, 32)
    labels = np.repeat(np.arange(4), 15)
    found = project(features, SETTINGS, HERE)
    assert found.variance is None
    assert found.points.shape == (60, 2)
    apart = distances(found.points)
    np.fill_diagonal(apart, np.inf)
    assert (labels[apart.argmin(axis=1)] == labels).all()
    np.testing.assert_array_equal(project(features.copy(), SETTINGS, HERE).points, found.points)


def test_two_dimensions_stay_and_three_come_onto_the_sphere() -> None:
    settings = {**SETTINGS, "method": "none"}
    two = np.array([[3.0, -4.0], [0.0, 0.5]])
    np.testing.assert_array_equal(project(two, settings, HERE).points, two)
    three = np.array([[0.0, 3.0, -4.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [[0, 0.6, -0.8], [1, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(project(three, settings, HERE).points, expected)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((9, 4), {"method": "none"}, "features of width 4; feature_map.method none draws 2 or 3 dimensions"),
        ((9, 1), {"method": "pca"}, "features of width 1; pca needs at least 2"),
        ((1, 4), {"method": "pca"}, "1 test image in the map; PCA needs at least 2"),
        ((5, 4), {}, "5 test images in the map; t-SNE needs more than its perplexity, 5"),
    ],
)
def test_features_that_do_not_suit_the_method_are_refused(
    shape: tuple[int, int], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError, match=re.escape(f"features.parquet: {message}")):
        project(np.ones(shape), SETTINGS | settings, HERE)


# Which images


def test_so_many_images_of_each_class_at_most() -> None:
    labels = np.array([2, 0, 2, 2, 0, 5, 2, 2])
    rows = some_of_each(labels, 2, seed=0)
    assert np.bincount(labels[rows]).tolist() == [2, 0, 2, 0, 0, 1]
    assert (np.diff(rows) > 0).all()
    draws = {tuple(some_of_each(labels, 2, seed)) for seed in range(30)}
    # Two of the five of class 2 can be drawn in ten ways.
    assert len(draws) > 5
    np.testing.assert_array_equal(some_of_each(labels, 9, seed=0), np.arange(8))


Make = Callable[..., tuple[Path, Path]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a features table and the manifest's stand-in; gives both paths."""

    def write(name: str, features: np.ndarray, splits: list[str], labels: list[int | None]) -> Any:
        columns = {
            "sample_id": [f"image {row}" for row in range(len(labels))],
            "split": splits,
            "label": labels,
        }
        path, manifest = tmp_path / f"{name}.parquet", tmp_path / "manifest.parquet"
        write_table("features", path, {**columns, "feature": feature_column(features)}, RECORD)
        extra = {"class_names": json.dumps(NAMES)}
        write_table("membership", manifest, {"sample_id": ["a"], "unit_id": [0]}, RECORD, extra)
        return path, manifest

    return write


def test_a_map_has_test_images_with_their_labels_the_same_of_every_model(make: Make, tmp_path: Path) -> None:
    plane, features = clusters(3, 10, 6)
    labels = np.repeat(np.arange(3), 10)
    # The cached features of a dataset have its other parts too.
    whole = np.concatenate([features[:7] + 100, features])
    splits = ["train"] * 7 + ["test"] * 30
    path, manifest = make("untouched", whole, splits, [0] * 7 + labels.tolist())
    settings = {**SETTINGS, "method": "pca", "images": 4}
    write_map(path, manifest, tmp_path / "map.parquet", settings, RECORD)
    found = read_table("feature_map", tmp_path / "map.parquet")
    assert found.column_names == ["sample_id", "label", "x", "y"]
    rows = np.array([int(name.split()[1]) for name in found["sample_id"].to_pylist()]) - 7
    assert found["label"].to_pylist() == labels[rows].tolist()
    assert np.bincount(labels[rows]).tolist() == [4, 4, 4]
    points = np.stack([found["x"].to_numpy(), found["y"].to_numpy()], 1)
    np.testing.assert_allclose(distances(points), distances(plane[rows]), rtol=1e-4, atol=1e-4)
    metadata = read_table_metadata(tmp_path / "map.parquet")
    assert json.loads(metadata["class_names"]) == NAMES
    assert json.loads(metadata["variance"]) == pytest.approx(1)
    # A run's own features have no training images.
    run, _ = make("run", features[::-1].copy(), ["test"] * 30, labels.tolist())
    write_map(run, manifest, tmp_path / "other.parquet", settings, RECORD)
    other = read_table("feature_map", tmp_path / "other.parquet")
    numbers = [int(name.split()[1]) for name in other["sample_id"].to_pylist()]
    assert numbers == rows.tolist()


def test_three_dimensions_have_a_third_coordinate(make: Make, tmp_path: Path) -> None:
    path, manifest = make("run", np.eye(3) * 5, ["test"] * 3, [0, 1, 2])
    write_map(path, manifest, tmp_path / "map.parquet", {**SETTINGS, "method": "none"}, RECORD)
    rows = read_table("feature_map", tmp_path / "map.parquet").to_pylist()
    assert [(row["x"], row["y"], row["z"]) for row in rows] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert "variance" not in read_table_metadata(tmp_path / "map.parquet")


@pytest.mark.parametrize(
    ("splits", "labels", "value", "message"),
    [
        (["train", "validation"], [0, 1], 1.0, "no test image to put into the plane"),
        (["test", "test"], [0, None], 1.0, "sample 'image 1' has no label to colour it by"),
        (["train", "test"], [0, 1], np.nan, "row 1, sample 'image 1'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    make: Make, tmp_path: Path, splits: list[str], labels: list[int | None], value: float, message: str
) -> None:
    path, manifest = make("run", np.full((2, 3), value), splits, labels)
    with pytest.raises(PipelineError, match=re.escape(message)):
        write_map(path, manifest, tmp_path / "map.parquet", SETTINGS, RECORD)


# Panels and figures


def panel(recipe: str | None = "plain", **values: Any) -> Panel:
    """A panel of eight points in four classes."""
    keys = dict.fromkeys(("selection", "recipe", "seed"))
    if recipe is not None:
        keys = {"selection": "none", "recipe": recipe, "seed": 0}
    labels = np.arange(8) % 4
    points = np.random.default_rng(len(recipe or "")).normal(size=(8, 2))
    return Panel(
        **{
            **{"keys": {"backbone": "small", "target": "birds", **keys}, "measured": recipe},
            **{"method": "tsne", "points": points, "labels": labels, "variance": None, "metric": "top1"},
            **{"class_names": ["ant", "bee", "<cat>", "dog"], "accuracy": None, "s_dbw": None, **values},
        }
    )


def test_titles_name_the_model_and_its_numbers() -> None:
    assert title_of(panel(None)) == "untouched backbone\n"
    probed = panel(None, measured="linear probe", accuracy=0.5, s_dbw=0.9)
    assert title_of(probed) == "untouched backbone\nlinear probe: top1 50.0 %, S_Dbw 0.90"
    shown = title_of(panel("coin", accuracy=0.8725, s_dbw=0.284, variance=0.62))
    assert shown == "coin\ntop1 87.2 %, S_Dbw 0.28, seed 0, 62 % of variance"
    reusing = panel("reuse")
    reusing = panel("reuse", keys={**reusing.keys, "selection": "uot", "seed": 3})
    assert title_of(reusing) == "reuse · uot\nseed 3"


def test_every_named_class_has_a_look_of_its_own() -> None:
    found = [(look["color"], look["marker"]) for look in looks(range(20)).values()]
    assert len(set(found)) == 20
    assert len({colour for colour, _ in found[:10]}) == 10


def svg_of(folder: Path, *panels: Panel) -> str:
    draw(folder, panels)
    return (folder / "small" / "birds.svg").read_text()


def test_a_figure_has_a_panel_for_each_model_and_names_the_classes(tmp_path: Path) -> None:
    panels = [panel(None), panel("plain", accuracy=0.5), panel("<coin>", accuracy=0.525)]
    text = svg_of(tmp_path, *panels)
    for expected in (
        *("untouched backbone", "plain", "&lt;coin&gt;", "top1 50.0 %", "top1 52.5 %", "ant", "&lt;cat&gt;"),
        *("small on birds", "t-SNE of each model"),
    ):
        assert expected in text
    # Eight points in each of three panels, and one for each class in the legend.
    assert text.count("<use") == 3 * 8 + 4
    assert text == svg_of(tmp_path / "again", *panels)


def test_targets_and_backbones_have_figures_of_their_own(tmp_path: Path) -> None:
    other = panel("plain", keys={**panel().keys, "target": "cars"})
    draw(tmp_path, [panel("plain"), other])
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["birds.svg", "cars.svg"]


def test_many_classes_have_no_legend_and_many_points_are_pixels(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(21)]
    values: dict[str, Any] = {"labels": np.arange(21), "points": np.ones((21, 2)), "class_names": names}
    assert "class 3" not in svg_of(tmp_path, panel(**values))
    values = {"labels": np.zeros(4000, int), "points": np.random.default_rng(0).normal(size=(4000, 2))}
    text = svg_of(tmp_path, panel(**values))
    assert "<image" in text
    assert len(text) < 200_000
    assert text == svg_of(tmp_path, panel(**values))


def test_the_sphere_is_drawn_from_both_sides(tmp_path: Path) -> None:
    points = np.array([[0.6, 0, 0.8], [0.6, 0, -0.8], [0, 1, 0], [-1, 0, 0]])
    labels = np.array([0, 1, 2, 3])
    text = svg_of(tmp_path, panel(points=points, labels=labels, method="none"))
    assert "from the front" in text
    assert "from behind" in text
    places = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', text)]
    front, behind, top, left = places[:4]
    # The radius is the height of the pole above the centre's line; seen from behind, right is left.
    radius = front[1] - top[1]
    assert front[0] - top[0] == pytest.approx(0.6 * radius, rel=1e-3)
    assert top[0] - left[0] == pytest.approx(radius, rel=1e-3)
    assert behind[0] - top[0] == pytest.approx((2.2 - 0.6) * radius, rel=1e-3)
    assert behind[1] == pytest.approx(front[1])


def test_panels_say_how_well_each_run_does(make: Make, tmp_path: Path) -> None:
    path, manifest = make("run", np.eye(3), ["test"] * 3, [0, 1, 2])
    write_map(path, manifest, tmp_path / "map.parquet", {**SETTINGS, "method": "pca"}, RECORD)
    run = {"backbone": "small", "target": "birds", "selection": "none", "recipe": "plain", "seed": 0}
    rows = [
        {**run, "recipe": recipe, "split": split, "metric": metric, "value": value}
        for recipe, split, metric, value in (
            *(("plain", "validation", "mean_per_class", 0.9), ("plain", "test", "top1", 0.5)),
            *(("plain", "test", "mean_per_class", 0.4), ("plain", "test", "s_dbw", 0.3)),
            *(("linear probe", "test", "mean_per_class", 0.2), ("linear probe", "test", "s_dbw", 0.8)),
        )
    ]
    metrics = tmp_path / "metrics.parquet"
    write_table("metrics", metrics, {name: [row[name] for row in rows] for name in rows[0]}, RECORD)
    untouched = {**run, **dict.fromkeys(("selection", "recipe", "seed"))}
    how = {"method": "pca", "measured": "plain"}
    panels = [untouched | how | {"measured": name} for name in (None, "linear probe")]
    settings = {"panels": [*panels, run | how], "main_metric": {"birds": "mean_per_class"}}
    maps = [tmp_path / "map.parquet"] * 3
    found = read_panels(maps, [metrics], settings)
    assert [(one.accuracy, one.s_dbw) for one in found] == [(None, None), (0.2, 0.8), (0.4, 0.3)]
    assert [one.variance for one in found] == 3 * [pytest.approx(1)]
    write_panels(tmp_path / "panels.parquet", found, RECORD)
    row = read_table("feature_maps", tmp_path / "panels.parquet").to_pylist()[2]
    assert row == run | how | {
        **{"images": 3, "variance": pytest.approx(1), "metric": "mean_per_class"},
        **{"accuracy": 0.4, "s_dbw": 0.3},
    }
    settings["main_metric"] = {"birds": "map"}
    with pytest.raises(PipelineError, match="run small/birds/none/linear probe/0: its test map is not among"):
        read_panels(maps, [metrics], settings)


def test_the_commands_keep_to_their_code_and_load_no_torch(make: Make, tmp_path: Path) -> None:
    _, features = clusters(3, 10, 6)
    path, manifest = make("run", features, ["test"] * 30, np.repeat(np.arange(3), 10).tolist())

    def call(step: str, *arguments: str, settings: dict[str, Any]) -> set[str]:
        module = f"pipeline.analysis.{step}"
        command = [sys.executable, "-X", "importtime", "-m", module, *arguments]
        command += ["--settings", json.dumps(settings), "--code", str(code_digest(module))]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}

    found = str(tmp_path / "map.parquet")
    assert "torch" not in call("feature_map", str(path), str(manifest), found, settings=SETTINGS)
    untouched = {**dict.fromkeys(("selection", "recipe", "seed")), "backbone": "small", "target": "birds"}
    panels = [{**untouched, "method": "tsne", "measured": None}]
    settings = {"panels": panels, "main_metric": {"birds": "top1"}}
    rows = {"backbone": [], "target": [], "selection": [], "recipe": [], "seed": []}
    rows |= {"split": [], "metric": [], "value": []}
    write_table("metrics", tmp_path / "metrics.parquet", rows, RECORD)
    outputs = (str(tmp_path / "panels.parquet"), str(tmp_path / "figures"))
    options = ("--metrics", str(tmp_path / "metrics.parquet"))
    imported = call("feature_map_figures", *outputs, found, *options, settings=settings)
    assert not {"torch", "sklearn", "matplotlib.pyplot"} & imported
    assert (tmp_path / "figures/small/birds.svg").exists()
