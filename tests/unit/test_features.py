"""Features: by shards or at once, and what the network alone gives."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backbones.backbone import Backbone, Description, build_backbone
from pipeline.backbones.files import save_backbone
from pipeline.errors import PipelineError
from pipeline.features.extract import extract
from pipeline.gathering.gather import gather
from pipeline.images.shards import shard_bounds
from pipeline.provenance import Provenance, read_provenance
from pipeline.tables import feature_matrix, read_table, write_table

pytestmark = pytest.mark.usefixtures("torch_as_before")

SETTINGS = {"feature_layer": "penultimate", "batch_size": 8, "threads": 1}
DESCRIPTION = Description(
    architecture={"name": "small_resnet", "widths": [4, 6], "blocks": 1, "stem_stride": 1},
    preprocessing={"resize": 12, "crop": 10, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """A small network with running statistics that are not those it starts with."""
    backbone = build_backbone(DESCRIPTION, seed=0)
    with torch.no_grad():
        backbone(torch.randn(16, 3, 10, 10, generator=torch.Generator().manual_seed(0)))
    return backbone.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone, record: Provenance) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "weights.safetensors"
    save_backbone(path, backbone, record)
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Any:
    """62 images."""
    return make_dataset(tmp_path_factory.mktemp("dataset"), classes=2, parts=(20, 7, 4), size=12)


@pytest.fixture
def features(tmp_path: Path, weights: Path, record: Provenance) -> Callable[..., Path]:
    """A function that extracts features in so many shards and gathers them."""

    def run(dataset: Any, shards: int, weights: Path = weights, **changes: Any) -> Path:
        paths = [tmp_path / f"{shard}of{shards}.parquet" for shard in range(shards)]
        for shard, path in enumerate(paths):
            extract(
                dataset.manifest, dataset.images, weights, path, (shard, shards), SETTINGS | changes, record
            )
        gather(paths, tmp_path / f"features{shards}.parquet")
        return tmp_path / f"features{shards}.parquet"

    return run


def test_number_of_shards_changes_nothing(features: Callable[..., Path], dataset: Any) -> None:
    whole = features(dataset, 1)
    expected = read_table("features", whole)
    assert expected["sample_id"].to_pylist() == dataset.ids
    assert expected["label"].to_pylist() == dataset.labels.tolist()
    assert expected["split"].to_pylist() == dataset.split.tolist()
    for shards in (2, 3, 7, 20):
        gathered = features(dataset, shards)
        found = read_table("features", gathered)
        assert found.equals(expected, check_metadata=True), shards
        assert parquet.read_schema(gathered).metadata == parquet.read_schema(whole).metadata
        assert gathered.read_bytes() == whole.read_bytes()


def test_gathering_names_the_shard_the_rows_and_the_images_that_are_not_finite(
    tmp_path: Path, record: Provenance
) -> None:
    """Extraction refuses them, but files come to harm; the last shard is the one that is unsound."""
    paths = [tmp_path / "0of2.parquet", tmp_path / "1of2.parquet"]
    for shard, path in enumerate(paths):
        features = np.ones((4, 2), np.float32)
        features[1 : 1 + 2 * shard, 1] = [np.nan, np.inf][: 2 * shard]
        ids = [f"image {4 * shard + row}" for row in range(4)]
        columns = {"sample_id": ids, "split": ["train"] * 4, "label": [0] * 4, "feature": features}
        write_table("features", path, columns, record)
    with pytest.raises(
        PipelineError,
        match=r"1of2\.parquet: the features of 2 images are not finite \(NaN or infinite\); "
        r"expected numbers \(rows count from 0\):\n  row 1, sample 'image 5'\n  row 2, sample 'image 6'$",
    ):
        gather(paths, tmp_path / "features.parquet")
    assert not (tmp_path / "features.parquet").exists()


def test_features_are_those_of_the_bare_network(
    features: Callable[..., Path], dataset: Any, backbone: Backbone, weights: Path
) -> None:
    pixels = torch.from_numpy(dataset.pixels[:, 1:11, 1:11]).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]])[:, None, :, None, None]
    with torch.no_grad():
        expected = backbone((pixels - mean) / std).numpy()
    found = feature_matrix(read_table("features", features(dataset, 3)))
    assert found.shape == (62, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shards", [1, 3])
def test_batches_are_the_same_in_any_shards(
    features: Callable[..., Path], dataset: Any, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    """Larger networks give other bits in other batches, so those must not depend on the shards."""
    seen: list[int] = []
    bare = Backbone.features

    def spy(backbone: Backbone, images: torch.Tensor, layer: str) -> torch.Tensor:
        seen.append(len(images))
        return bare(backbone, images, layer)

    monkeypatch.setattr(Backbone, "features", spy)
    features(dataset, shards)
    assert seen == [8] * 7 + [6]


def test_batch_size_hardly_matters(features: Callable[..., Path], dataset: Any) -> None:
    small = feature_matrix(read_table("features", features(dataset, 2, batch_size=3)))
    large = feature_matrix(read_table("features", features(dataset, 1, batch_size=100)))
    np.testing.assert_allclose(small, large, rtol=1e-4, atol=1e-5)


def test_more_shards_than_batches_leave_empty_tables(
    tmp_path: Path, dataset: Any, weights: Path, record: Provenance
) -> None:
    sizes = []
    for shard in range(12):
        path = tmp_path / f"{shard}.parquet"
        extract(dataset.manifest, dataset.images, weights, path, (shard, 12), SETTINGS, record)
        sizes.append(read_table("features", path).num_rows)
        assert read_provenance(path) == record
    assert sum(sizes) == 62
    assert sizes.count(0) == 4  # eight batches in twelve shards


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"batch_size": 9}},
        {"code": "pipeline.features=1"},
        {"inputs": {"weights": "0"}},
        {"versions": {"torch": "1.0"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_shards_that_do_not_belong_together(
    tmp_path: Path, dataset: Any, weights: Path, record: Provenance, change: dict[str, Any]
) -> None:
    fields = {
        "step": "pipeline.features",
        "settings": SETTINGS,
        "code": "pipeline.features=0",
        "inputs": {"weights": "1"},
        "versions": {"torch": "2.0"},
    }
    for shard, values in enumerate((fields, fields | change)):
        path = tmp_path / f"{shard}.parquet"
        extract(dataset.manifest, dataset.images, weights, path, (shard, 2), SETTINGS, Provenance(**values))
    message = r"1\.parquet: made by other settings, code or inputs than .*0\.parquet"
    with pytest.raises(PipelineError, match=message):
        gather([tmp_path / "0.parquet", tmp_path / "1.parquet"], tmp_path / "features.parquet")
    assert not (tmp_path / "features.parquet").exists()


def test_unlabelled_images(
    tmp_path: Path, make_dataset: Callable[..., Any], features: Callable[..., Path]
) -> None:
    dataset = make_dataset(tmp_path, classes=2, parts=(5, 0, 0), size=12, labelled=False)
    found = read_table("features", features(dataset, 2))
    assert found["label"].to_pylist() == [None] * 10
    assert np.isfinite(feature_matrix(found)).all()


def test_feature_that_is_not_finite_names_the_images(
    tmp_path: Path, dataset: Any, features: Callable[..., Path], record: Provenance
) -> None:
    broken = build_backbone(DESCRIPTION, seed=0)
    with torch.no_grad():
        broken.encoder.stem.weight[0, 0, 0, 0] = float("nan")
    save_backbone(tmp_path / "broken.safetensors", broken, record)
    with pytest.raises(PipelineError) as failure:
        features(dataset, 1, weights=tmp_path / "broken.safetensors")
    rows = "".join(f"\n  row {row}, sample 'image {row:04}'" for row in range(8))
    assert str(failure.value) == (
        f"{dataset.manifest}, shard 0 of 1: features are not finite for 8 images from row 0 to 7 of the "
        f"manifest (rows count from 0); are the weights sound?{rows}"
    )


def test_feature_that_is_not_finite_names_its_shard_and_row(
    tmp_path: Path, dataset: Any, weights: Path, record: Provenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three shards, rows 24 to 47, and two images of its second batch."""
    bare = Backbone.features
    batches: list[int] = []

    def spoilt(backbone: Backbone, images: torch.Tensor, layer: str) -> torch.Tensor:
        found = bare(backbone, images, layer)
        batches.append(len(images))
        if len(batches) == 2:
            found[[3, 5], 0] = float("nan")
        return found

    monkeypatch.setattr(Backbone, "features", spoilt)
    path = tmp_path / "1of3.parquet"
    with pytest.raises(PipelineError) as failure:
        extract(dataset.manifest, dataset.images, weights, path, (1, 3), SETTINGS, record)
    assert str(failure.value) == (
        f"{dataset.manifest}, shard 1 of 3: features are not finite for 2 images from row 32 to 39 of the "
        "manifest (rows count from 0); are the weights sound?\n"
        "  row 35, sample 'image 0035'\n  row 37, sample 'image 0037'"
    )


@given(rows=st.integers(0, 500), batch_size=st.integers(1, 64), shards=st.integers(1, 20))
def test_shards_cover_all_rows_in_whole_batches(rows: int, batch_size: int, shards: int) -> None:
    bounds = [shard_bounds(rows, batch_size, shard, shards) for shard in range(shards)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == rows
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    assert all(first % batch_size == 0 or first == rows for first, _ in bounds)
    batches = [-(-(last - first) // batch_size) for first, last in bounds]
    assert max(batches) - min(batches) <= 1


@pytest.mark.parametrize("shard", [-1, 3])
def test_shard_that_is_none(shard: int) -> None:
    with pytest.raises(PipelineError, match=f"shard {shard} of 3: expected 0 to 2"):
        shard_bounds(10, 4, shard, 3)
