"""Units: classes and clusters with their means, and who is in which."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.tables import feature_matrix, read_table, write_table
from pipeline.units.backbone import backbone_digest
from pipeline.units.summarise import summarise

CLASSES = {"by": "class"}


def clusters(count: int, seed: int = 0) -> dict[str, Any]:
    return {"by": "cluster", "clusters": count, "iterations": 50, "seed": seed}


@pytest.fixture
def made(tmp_path: Path, record: Provenance) -> Callable[..., SimpleNamespace]:
    """A function that makes units of given features and reads both tables."""

    def make(
        features: np.ndarray,
        labels: list[int | None],
        values: dict[str, Any],
        split: list[str] | None = None,
        classes: int = 3,
    ) -> SimpleNamespace:
        return units_of(tmp_path, record, features, labels, values, split, classes)

    return make


def units_of(
    folder: Path,
    record: Provenance,
    features: np.ndarray,
    labels: list[int | None],
    values: dict[str, Any],
    split: list[str] | None = None,
    classes: int = 3,
) -> SimpleNamespace:
    """Write a manifest and features, make units, read them."""
    count = len(features)
    ids = [f"image {row:03}" for row in range(count)]
    split = split or ["train"] * count
    names = [f"class {label}" for label in range(classes)]
    common = {"sample_id": ids, "split": split, "label": labels}
    manifest = {
        **common,
        "image": [{"bytes": b"", "path": None}] * count,
        "class_name": [None if label is None else f"class {label}" for label in labels],
        "width": [1] * count,
        "height": [1] * count,
    }
    extra = {"class_names": json.dumps(names)}
    write_table("manifest", folder / "manifest.parquet", manifest, record, extra)
    write_table("features", folder / "features.parquet", {**common, "feature": features}, record)
    outputs = [folder / "units.parquet", folder / "membership.parquet"]
    summarise(
        folder / "manifest.parquet", folder / "features.parquet", outputs[0], outputs[1], values, record
    )
    units, membership = read_table("units", outputs[0]), read_table("membership", outputs[1])
    return SimpleNamespace(
        ids=units["unit_id"].to_pylist(),
        names=units["name"].to_pylist(),
        images=units["images"].to_pylist(),
        means=feature_matrix(units, "mean"),
        members=dict(
            zip(membership["sample_id"].to_pylist(), membership["unit_id"].to_pylist(), strict=True)
        ),
        files=[path.read_bytes() for path in outputs],
    )


# Classes


@given(
    labels=st.lists(st.integers(0, 2), min_size=3, max_size=40).filter(lambda labels: len({*labels}) == 3),
    held_out=st.lists(st.integers(0, 2), max_size=5),
)
@settings(max_examples=25)
def test_class_means_are_plain_means_of_training_images(
    labels: list[int], held_out: list[int], tmp_path_factory: pytest.TempPathFactory, record: Provenance
) -> None:
    count = len(labels) + len(held_out)
    features = np.random.default_rng(count).normal(5, 3, (count, 4)).astype(np.float32)
    split = ["train"] * len(labels) + ["validation", "test"] * len(held_out)
    # Images that are held out stand between the others.
    order = np.random.default_rng(0).permutation(count)
    both, parts = np.array([*labels, *held_out]), np.array(split[:count])
    folder = tmp_path_factory.mktemp("units")
    found = units_of(folder, record, features[order], both[order].tolist(), CLASSES, parts[order].tolist())
    trained = parts == "train"
    assert found.ids == [0, 1, 2]
    assert found.names == ["class 0", "class 1", "class 2"]
    for label in range(3):
        chosen = features[trained & (both == label)].astype(np.float64)
        assert found.images[label] == len(chosen)
        np.testing.assert_allclose(found.means[label], chosen.mean(0), rtol=1e-6)
    expected = {
        f"image {place:03}": int(both[row]) for place, row in enumerate(order) if parts[row] == "train"
    }
    assert found.members == expected


def test_class_means_do_not_lose_precision(made: Callable[..., SimpleNamespace]) -> None:
    """Float32 sums of 30,000 features near 1000 would be wrong from the fourth digit on."""
    features = np.full((30_000, 1), 1000.1, np.float32)
    found = made(features, [0] * 30_000, CLASSES, classes=1)
    assert found.means[0, 0] == features[0, 0]


@pytest.mark.parametrize("rows", [1, 7, 40, 1000])
def test_class_means_by_any_number_of_rows(
    made: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Held-out images between the others, so that batches lose rows, and some lose all."""
    monkeypatch.setattr("pipeline.units.summarise.ROWS_SUMMED", rows)
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(90, 3)).astype(np.float32), random.integers(0, 3, 90)
    split = random.choice(["train", "validation", "test"], 90)
    found = made(features, labels.tolist(), CLASSES, split.tolist())
    for label in range(3):
        chosen = features[(split == "train") & (labels == label)].astype(np.float64)
        np.testing.assert_allclose(found.means[label], chosen.mean(0), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "values", [CLASSES, clusters(2), {"by": "sample"}], ids=["class", "cluster", "sample"]
)
def test_features_that_are_not_finite_are_named(
    made: Callable[..., SimpleNamespace],
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, Any],
    value: float,
) -> None:
    """Image 000 is held out and does not count, so that rows of the file and training images differ."""
    monkeypatch.setattr("pipeline.units.summarise.ROWS", 7)
    features = np.ones((20, 2), np.float32)
    features[[0, 4, *range(6, 17)], 1] = value
    listed = "".join(rf"\n  row {row}, sample 'image {row:03}'" for row in [4, *range(6, 15)])
    with pytest.raises(
        PipelineError,
        match=r"features\.parquet: the features of 12 images are not finite \(NaN or infinite\); "
        rf"expected numbers \(rows count from 0\):{listed}\n  \.\.\. and 2 more$",
    ):
        made(features, [0, 1, 2, 0] * 5, values, ["test"] + ["train"] * 19)


def test_class_without_training_image_is_refused(made: Callable[..., SimpleNamespace]) -> None:
    with pytest.raises(PipelineError, match=r"no training image of class class 1$"):
        made(np.ones((4, 2)), [0, 1, 2, 0], CLASSES, ["train", "test", "train", "train"])


def test_unlabelled_images_have_no_classes(made: Callable[..., SimpleNamespace]) -> None:
    with pytest.raises(PipelineError, match="2 images have no label"):
        made(np.ones((4, 2)), [0, None, 2, None], CLASSES)


@pytest.mark.parametrize(
    "values", [CLASSES, clusters(2), {"by": "sample"}], ids=["class", "cluster", "sample"]
)
def test_no_training_images(made: Callable[..., SimpleNamespace], values: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="no training images to make units of"):
        made(np.ones((3, 2)), [0, 1, 2], values, ["test"] * 3)


# Images


SAMPLES = {"by": "sample"}


def test_every_training_image_is_a_unit_of_its_own(
    made: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labelled or not, in several row groups, with held-out images between them."""
    features = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    split = ["test", "train", "train", "validation", "train", "test", "train", "train", "train"]
    trained = [row for row, part in enumerate(split) if part == "train"]
    labels = [0, None, 2, 1, None, 0, 1, 1, 2]
    for group in (65_536, 2):
        monkeypatch.setattr("pipeline.units.summarise.ROWS", group)
        found = made(features, labels, SAMPLES, split)
        assert found.ids == list(range(6))
        assert found.names == [f"image {row:03}" for row in trained]
        assert found.images == [1] * 6
        np.testing.assert_array_equal(found.means, features[trained])
        assert found.members == {f"image {row:03}": unit for unit, row in enumerate(trained)}


def test_labelled_reuse_of_selected_images_takes_their_labels(tmp_path: Path, record: Provenance) -> None:
    """From features to units, selection and the images that fine-tuning reuses."""
    from pipeline.finetuning.reused import SourceFiles, selected_images
    from pipeline.selection.select import select

    features = np.array([[1, 0], [0, 1], [1, 0.2], [1, 0.1], [0, 1], [0.9, 0]], np.float32)
    units_of(tmp_path, record, features, [2, 1, 0, 0, 1, 2], SAMPLES, ["train"] * 5 + ["test"])
    target = tmp_path / "target.parquet"
    columns = {"unit_id": [0], "name": ["flat"], "images": [3], "mean": np.array([[1, 0]], np.float32)}
    write_table("units", target, columns, record)
    settings = {"method": "nearest", "distance": "cosine", "count": 3, "order": "best", "skip": 0}
    select(tmp_path / "units.parquet", target, tmp_path / "selection.parquet", settings, record)
    names = ("manifest.parquet", "images.npy", "membership.parquet", "selection.parquet")
    found = selected_images(SourceFiles(*(tmp_path / name for name in names)), labelled=True)
    assert found.rows.tolist() == [0, 2, 3]
    assert found.labels.tolist() == [1, 0, 0]
    assert found.classes.tolist() == [0, 2]


# The backbone


def test_units_say_which_backbone_and_layer_they_are_of(tmp_path: Path) -> None:
    """Equal for equal weights and layers, whatever else made the features."""

    def digest(weights: str, layer: str, batch_size: int, manifest: str) -> dict[str, str]:
        settings = {"feature_layer": layer, "batch_size": batch_size}
        inputs = {"manifest": manifest, "weights": weights}
        record = Provenance("pipeline.features", settings, "pipeline.features=0", inputs, {})
        columns = {"sample_id": ["a"], "split": ["train"], "label": [0], "feature": np.ones((1, 2))}
        write_table("features", tmp_path / "features.parquet", columns, record)
        return backbone_digest(tmp_path / "features.parquet")

    found = digest("aa", "penultimate", 256, "one")
    assert list(found) == ["backbone"]
    assert digest("aa", "penultimate", 64, "two") == found
    assert digest("bb", "penultimate", 256, "one") != found
    assert digest("aa", "projection", 256, "one") != found


def test_features_of_unknown_origin_name_no_backbone(tmp_path: Path, record: Provenance) -> None:
    columns = {"sample_id": ["a"], "split": ["train"], "label": [0], "feature": np.ones((1, 2))}
    write_table("features", tmp_path / "features.parquet", columns, record)
    assert backbone_digest(tmp_path / "features.parquet") == {}


# Clusters


@pytest.fixture
def groups() -> SimpleNamespace:
    """Four directions with 5, 20, 10 and 15 images, in any order, of very different lengths."""
    random = np.random.default_rng(2)
    sizes = [5, 20, 10, 15]
    member = random.permutation(np.repeat(np.arange(4), sizes))
    directions = np.eye(4)[member] + random.normal(0, 0.02, (50, 4))
    return SimpleNamespace(
        member=member, features=(directions * random.uniform(1, 100, (50, 1))).astype(np.float32)
    )


def test_clusters_are_found_by_direction_and_numbered_by_size(
    made: Callable[..., SimpleNamespace], groups: SimpleNamespace
) -> None:
    found = made(groups.features, [None] * 50, clusters(4))
    assert found.images == [20, 15, 10, 5]
    assert found.ids == [0, 1, 2, 3]
    assert found.names == ["cluster 0", "cluster 1", "cluster 2", "cluster 3"]
    place = {1: 0, 3: 1, 2: 2, 0: 3}  # by size, largest first
    assert found.members == {f"image {row:03}": place[m] for row, m in enumerate(groups.member)}
    for member, unit in place.items():
        expected = groups.features[groups.member == member].astype(np.float64).mean(0)
        np.testing.assert_allclose(found.means[unit], expected, rtol=1e-5, atol=1e-4)


def test_clusters_are_deterministic(made: Callable[..., SimpleNamespace]) -> None:
    features = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    first, again, other = (made(features, [None] * 80, clusters(6, seed)) for seed in (0, 0, 1))
    assert first.files == again.files
    assert first.members != other.members
    assert sum(first.images) == 80
    assert first.images == sorted(first.images, reverse=True)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_empty_clusters_are_left_out(made: Callable[..., SimpleNamespace]) -> None:
    """Three different images, ten times each, make no fourth and fifth cluster."""
    found = made(np.tile(np.eye(3, dtype=np.float32), (10, 1)), [None] * 30, clusters(5))
    assert found.ids == [0, 1, 2]
    assert found.images == [10, 10, 10]
    np.testing.assert_allclose(sorted(found.means.tolist()), sorted(np.eye(3).tolist()), atol=1e-7)


def test_clusters_take_training_images_only(made: Callable[..., SimpleNamespace]) -> None:
    features = np.array([[1, 0], [1, 0.01], [0, 1], [-1, 0], [-1, 0]], np.float32)
    found = made(features, [None] * 5, clusters(2), ["train", "train", "train", "test", "validation"])
    assert found.members == {"image 000": 0, "image 001": 0, "image 002": 1}


def test_features_of_length_zero_do_not_break_clusters(made: Callable[..., SimpleNamespace]) -> None:
    features = np.array([[1, 0], [1, 0.01], [0, 0], [0, 0], [0, 0]], np.float32)
    found = made(features, [None] * 5, clusters(2))
    assert found.images == [3, 2]
    assert np.isfinite(found.means).all()


def test_more_clusters_than_images(made: Callable[..., SimpleNamespace]) -> None:
    with pytest.raises(PipelineError, match="6 clusters wanted of 5 training images"):
        made(np.eye(5, dtype=np.float32), [None] * 5, clusters(6))


def test_clusters_are_as_tight_as_those_of_scikit_learn(made: Callable[..., SimpleNamespace]) -> None:
    """Although the first centres are looked for among ten images for each cluster."""
    from sklearn.cluster import KMeans

    random = np.random.default_rng(0)
    features = random.normal(size=(30, 8))[random.integers(0, 30, 2000)] + random.normal(size=(2000, 8)) / 2
    found = made(features.astype(np.float32), [None] * 2000, clusters(40))
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    members = np.array(list(found.members.values()))
    assert len(found.ids) == 40
    inertia = sum(
        np.square(directions[members == unit] - directions[members == unit].mean(0)).sum()
        for unit in range(40)
    )
    inertias = [KMeans(40, n_init=1, random_state=seed).fit(directions).inertia_ for seed in range(3)]
    assert inertia <= 1.05 * max(inertias)
