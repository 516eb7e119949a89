"""The leakage audit: planted copies, what is no leak, and that excluded images take no part in reuse."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image, ImageOps
from sklearn.neighbors import NearestNeighbors

import pipeline.leakage.audit as module
from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import save_backbone
from pipeline.config.loading import load_config
from pipeline.errors import PipelineError
from pipeline.finetuning.finetune import finetune
from pipeline.finetuning.learner import FineTuning
from pipeline.finetuning.reused import SourceFiles, selected_images
from pipeline.gathering.gather import gather
from pipeline.leakage.audit import audit
from pipeline.leakage.hashes.hashing import hash_image, hash_images
from pipeline.leakage.sides import SideFiles
from pipeline.provenance import Provenance, code_digest
from pipeline.report.page import write_report
from pipeline.tables import feature_column, read_table, read_table_metadata, write_table

from ..made_up import Results

pytestmark = pytest.mark.usefixtures("torch_as_before")

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "hamming": 8,
    "difference_hamming": 16,
    "cosine": 0.95,
    "exclude_cosine": None,
}
Change = Callable[[Image.Image], Image.Image]


def picture(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A smooth picture with structure at every scale that a perceptual hash sees."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (9, 10, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def through(kind: str, **options: Any) -> Change:
    """Encode an image and decode it again."""
    return lambda image: Image.open(io.BytesIO(encoded(image, kind, **options))).convert("RGB")


def resized(factor: float) -> Change:
    return lambda image: image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC
    )


def cropped(share: float) -> Change:
    """Cut this share off width and height, half at each side, and scale back."""

    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (width * share / 2, height * share / 2, width * (1 - share / 2), height * (1 - share / 2))
        return image.resize(image.size, Image.Resampling.BICUBIC, box=box)

    return change


def same(image: Image.Image) -> Image.Image:
    return image


@dataclass
class Made:
    """A dataset on disk, as an audit takes it.

    Attributes:
        manifest: Its manifest.
        files: Its hashes and features.
    """

    manifest: Path
    files: SideFiles


@pytest.fixture
def made(tmp_path: Path, record: Provenance) -> Callable[..., Made]:
    """A function that writes manifest, hashes and features of images."""

    def make(
        name: str,
        images: Sequence[Image.Image | bytes],
        splits: Sequence[str],
        features: np.ndarray | None = None,
        record: Provenance = record,
    ) -> Made:
        folder = tmp_path / name
        manifest = write_manifest(folder / "manifest.parquet", name, images, splits, record)
        if features is None:  # no two alike
            features = np.random.default_rng(list(name.encode())).normal(size=(len(images), 64))
        ids = [f"{name}/{row:03}" for row in range(len(images))]
        columns = {
            "sample_id": ids,
            "split": list(splits),
            "label": [0] * len(ids),
            "feature": feature_column(features),
        }
        files = SideFiles(folder / "hashes.parquet", folder / "features.parquet")
        write_table("features", files.features, columns, record)
        hash_images(manifest, files.hashes, (0, 1), 1, record)
        return Made(manifest, files)

    return make


def write_manifest(
    path: Path, name: str, images: Sequence[Image.Image | bytes], splits: Sequence[str], record: Provenance
) -> Path:
    columns = {
        "sample_id": [f"{name}/{row:03}" for row in range(len(images))],
        "image": [
            {"bytes": image if isinstance(image, bytes) else encoded(image), "path": None} for image in images
        ],
        "split": list(splits),
        "label": [0] * len(images),
        "class_name": ["all"] * len(images),
        "width": [1] * len(images),
        "height": [1] * len(images),
    }
    write_table("manifest", path, columns, record, {"class_names": '["all"]'})
    return path


@pytest.fixture
def found(tmp_path: Path, record: Provenance) -> Callable[..., list[dict[str, Any]]]:
    """A function that audits and gives the rows of the table."""

    def run(source: Made, target: Made, **changes: Any) -> list[dict[str, Any]]:
        output = tmp_path / "leaks.parquet"
        audit(source.files, target.files, output, SETTINGS | changes, record)
        return read_table("leaks", output).to_pylist()

    return run


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (500, 333), (40, 300)], ids=str)
def test_hashes_are_those_of_the_library(size: tuple[int, int]) -> None:
    image = picture(3, size)
    hashes = hash_image(image)
    assert f"{hashes.perceptual:016x}" == str(imagehash.phash(image))
    assert f"{hashes.difference:016x}" == str(imagehash.dhash(image))


def test_pixel_hash_is_of_pixels_and_size() -> None:
    image = picture(0)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {})):
        assert hash_image(through(kind, **options)(image)).pixels == hash_image(image).pixels
    turned = Image.frombytes("RGB", image.size[::-1], image.tobytes())
    assert turned.tobytes() == image.tobytes()
    assert hash_image(turned).pixels != hash_image(image).pixels
    assert hash_image(through("JPEG", quality=95)(image)).pixels != hash_image(image).pixels


@pytest.mark.parametrize(
    ("change", "kind"),
    {
        "same": (same, "exact"),
        "lossless": (through("WEBP", lossless=True), "exact"),
        "jpeg 90": (through("JPEG", quality=90), "perceptual"),
        "jpeg 30": (through("JPEG", quality=30), "perceptual"),
        "half the size": (resized(0.5), "perceptual"),
        "twice the size": (resized(2), "perceptual"),
        "grey": (lambda image: image.convert("L").convert("RGB"), "perceptual"),
        "cropped by 3 %": (cropped(0.03), "perceptual"),
        "cropped by 30 %": (cropped(0.3), None),
        "mirrored": (ImageOps.mirror, None),
        "turned": (lambda image: image.rotate(90, expand=True), None),
    }.values(),
)
def test_planted_copies(
    made: Callable[..., Made], found: Callable[..., Any], change: Change, kind: str | None
) -> None:
    """Four copies among 40 x 30 others; large crops, mirror images and turned ones are not found."""
    others = [picture(seed) for seed in range(100, 136)]
    originals = [picture(seed) for seed in range(4)]
    source = made("source", [*others, *map(change, originals)], ["train"] * 40)
    images = [picture(seed) for seed in range(200, 226)]
    target = made("target", [*originals, *images], ["test", "validation"] * 15)
    rows = found(source, target)
    pairs = [(f"source/{36 + copy:03}", f"target/{copy:03}") for copy in range(4)]
    assert sorted((row["source_id"], row["target_id"]) for row in rows) == (pairs if kind else [])
    assert {row["kind"] for row in rows} == ({kind} if kind else set())
    assert all(row["excluded"] for row in rows)
    parts = {row["target_id"]: row["target_split"] for row in rows}
    assert parts == ({f"target/{n:03}": ("test", "validation")[n % 2] for n in range(4)} if kind else {})


def test_mirror_image_is_listed_by_features_and_not_excluded(
    made: Callable[..., Made], found: Callable[..., Any]
) -> None:
    """A network trained with flips gives it nearly the same feature; that alone is no proof."""
    features = np.random.default_rng(0).normal(size=(5, 64))
    source = made(
        "source", [picture(0), *(picture(seed) for seed in range(10, 14))], ["train"] * 5, 3 * features
    )
    near = features[:1] + 0.05
    target = made("target", [ImageOps.mirror(picture(0))], ["test"], near)
    (row,) = found(source, target)
    expected = float(features[0] @ near[0] / np.linalg.norm(features[0]) / np.linalg.norm(near[0]))
    assert (row["source_id"], row["kind"], row["excluded"]) == ("source/000", "feature", False)
    assert row["cosine"] == pytest.approx(expected, abs=1e-6)
    assert row["hamming"] > SETTINGS["hamming"]
    assert found(source, target, exclude_cosine=0.99)[0]["excluded"]
    assert not found(source, target, exclude_cosine=0.9999)[0]["excluded"]
    assert found(source, target, cosine=0.9999) == []


def test_what_no_run_is_judged_by_or_reuses_is_no_leak(
    made: Callable[..., Made], found: Callable[..., Any]
) -> None:
    """The target's training images are trained on anyway; only the source's are reused."""
    features = np.eye(64)[:1]
    for source_split, target_split, leaks in (
        ("train", "test", 1),
        ("train", "validation", 1),
        ("train", "train", 0),
        ("validation", "test", 0),
        ("test", "test", 0),
    ):
        source = made("source", [picture(0)], [source_split], features)
        target = made("target", [picture(0)], [target_split], features)
        assert len(found(source, target)) == leaks, (source_split, target_split)


def test_white_images_match_nothing(
    made: Callable[..., Made], found: Callable[..., Any], tmp_path: Path
) -> None:
    """Blank drawings, JPEG's noise on them and faint gradients have no perceptual hash."""
    white = Image.new("RGB", (64, 64), "white")
    noise = np.random.default_rng(0).integers(250, 256, (64, 64, 3), dtype=np.uint8)
    faint = np.repeat(np.linspace(252, 255, 64).astype(np.uint8)[:, None, None], 64, 1).repeat(3, 2)
    flat = [white, Image.fromarray(noise), Image.fromarray(faint), Image.new("RGB", (9, 300), "white")]
    features = np.ones((4, 8))
    source, target = (
        made(name, flat, [part] * 4, features) for name, part in (("a", "train"), ("b", "test"))
    )
    assert read_table("hashes", source.files.hashes)["perceptual"].null_count == 4
    assert read_table("hashes", source.files.hashes)["pixels"].null_count == 0
    assert found(source, target) == []
    compared = json.loads(read_table_metadata(tmp_path / "leaks.parquet")["compared"])
    assert compared == {"source": 0, "target": 0, "flat_source": 4, "flat_target": 4}


def test_a_few_strokes_are_not_flat() -> None:
    """Two dots at other places on the same white have other hashes."""
    drawings = []
    for place in ((5, 7), (30, 20)):
        drawing = Image.new("RGB", (64, 64), "white")
        drawing.paste("black", (*place, place[0] + 6, place[1] + 6))
        drawings.append(hash_image(drawing))
    assert drawings[0].perceptual is not None
    assert drawings[1].perceptual is not None
    assert (drawings[0].perceptual ^ drawings[1].perceptual).bit_count() > 16


@pytest.mark.parametrize("block", [1, 50, 2**20])
def test_pairs_are_those_of_plain_loops(
    made: Callable[..., Made], found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Against the library's own distance, and scikit-learn's nearest neighbours, in blocks of any size."""
    monkeypatch.setattr(module, "BLOCK", block)
    random = np.random.default_rng(0)
    sources = [picture(seed % 20, (40, 40)) for seed in range(45)]
    targets = [cropped(0.02 * (seed % 4))(picture(seed, (40, 40))) for seed in range(26)]
    splits = random.choice(["train", "validation"], 45, p=[0.8, 0.2])
    parts = random.choice(["train", "validation", "test"], 26)
    features, wanted = random.normal(size=(45, 5)), random.normal(size=(26, 5))
    source, target = made("s", sources, splits, features), made("t", targets, parts, wanted)
    rows = found(source, target, hamming=10, difference_hamming=12, cosine=0.5)
    kept, judged = np.flatnonzero(splits == "train"), np.flatnonzero(parts != "train")
    hashes = [[(imagehash.phash(i), imagehash.dhash(i)) for i in images] for images in (sources, targets)]
    expected = {}
    for s in kept:
        for t in judged:
            bits = [int(a - b) for a, b in zip(hashes[0][s], hashes[1][t], strict=True)]
            if bits[0] <= 10 and bits[1] <= 12:
                alike = sources[s].tobytes() == targets[t].tobytes()
                expected[f"s/{s:03}", f"t/{t:03}"] = ("exact" if alike else "perceptual", *bits)
    assert {kind for kind, *_ in expected.values()} == {"exact", "perceptual"}
    close = [row for row in rows if row["kind"] != "feature"]
    assert {
        (row["source_id"], row["target_id"]): (row["kind"], row["hamming"], row["difference_hamming"])
        for row in close
    } == expected
    peer = NearestNeighbors(n_neighbors=1, metric="cosine").fit(features[kept])
    distances, places = peer.kneighbors(wanted[judged])
    nearest = {
        (f"s/{kept[place]:03}", f"t/{t:03}"): 1 - away
        for t, away, place in zip(judged, distances[:, 0], places[:, 0], strict=True)
        if 1 - away >= 0.5
    }
    every = {(row["source_id"], row["target_id"]): row["cosine"] for row in rows}
    assert set(every) == set(nearest) | set(expected)
    for pair, cosine in nearest.items():
        assert every[pair] == pytest.approx(cosine, abs=1e-5)
    order = [("exact", "perceptual", "feature").index(row["kind"]) for row in rows]
    assert order == sorted(order)
    assert len(every) == len(rows)


def test_all_above_the_strict_cosine_are_excluded_not_the_nearest_alone(
    made: Callable[..., Made], found: Callable[..., Any]
) -> None:
    features = np.zeros((4, 8))
    features[:3, 0], features[:3, 1], features[3, 2] = 1, (0, 0.01, 0.02), 1
    source = made("source", [picture(seed) for seed in range(4)], ["train"] * 4, features)
    target = made("target", [picture(9)], ["test"], features[:1])
    assert [row["source_id"] for row in found(source, target)] == ["source/000"]
    rows = found(source, target, exclude_cosine=0.99)
    assert [row["source_id"] for row in rows] == ["source/000", "source/001", "source/002"]
    assert all(row["excluded"] for row in rows)


@pytest.mark.parametrize(("shards", "threads"), [(2, 1), (3, 3), (5, 2)])
def test_shards_and_threads_change_nothing(
    tmp_path: Path, record: Provenance, monkeypatch: pytest.MonkeyPatch, shards: int, threads: int
) -> None:
    monkeypatch.setattr("pipeline.leakage.hashes.hashing.BATCH", 8)
    images = [*(picture(seed, (30, 30)) for seed in range(27)), Image.new("RGB", (9, 9))]
    splits = ["train", "test", "train", "validation"] * 7
    manifest = write_manifest(tmp_path / "manifest.parquet", "set", images, splits, record)
    results = []
    for number in (1, shards):
        paths = [tmp_path / f"{shard}of{number}.parquet" for shard in range(number)]
        for shard, path in enumerate(paths):
            hash_images(manifest, path, (shard, number), threads if number > 1 else 1, record)
        gather(paths, tmp_path / f"{number}.parquet", "hashes")
        results.append((tmp_path / f"{number}.parquet").read_bytes())
    assert results[0] == results[1]
    table = read_table("hashes", tmp_path / "1.parquet")
    assert table["sample_id"].to_pylist() == [f"set/{row:03}" for row in range(28)]
    assert table["split"].to_pylist() == splits
    assert table["perceptual"].null_count == 1


def test_files_that_do_not_belong_together(
    made: Callable[..., Made], found: Callable[..., Any], record: Provenance
) -> None:
    source = made("source", [picture(0)], ["train"])
    narrow = made("narrow", [picture(0)], ["test"], np.ones((1, 5)))
    with pytest.raises(PipelineError, match=r"features of 64 numbers.* of 5 .*expected both by one backbone"):
        found(source, narrow)
    other = made("other", [picture(0)], ["test"], record=replace(record, inputs={"weights": "another"}))
    with pytest.raises(PipelineError, match=r"by weights None.*by another; expected both by one backbone"):
        found(source, other)
    swapped = Made(
        source.manifest, SideFiles(source.files.hashes, made("b", [picture(1)], ["test"]).files.features)
    )
    with pytest.raises(
        PipelineError, match=r"its 1 images are not the 1 of .*hashes\.parquet, in this order"
    ):
        found(source, swapped)


def test_thresholds_that_match_nearly_everything(
    made: Callable[..., Made], found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 20)
    source = made("source", [picture(seed) for seed in range(5)], ["train"] * 5)
    target = made("target", [picture(seed) for seed in range(10, 15)], ["test"] * 5)
    with pytest.raises(PipelineError, match=r"more than 20 pairs .* at leakage\.hamming 64 .*; lower them"):
        found(source, target, hamming=64, difference_hamming=64)


# Reuse


@pytest.fixture
def reused(tmp_path: Path, make_dataset: Callable[..., Any], record: Provenance) -> Callable[..., Any]:
    """A function that excludes images and gives the source and what reuse reads; units are classes."""

    def make(excluded: Sequence[int], listed: Sequence[int] = ()) -> tuple[Any, SourceFiles]:
        source = make_dataset(tmp_path / "source", classes=3, parts=(6, 0, 0))
        membership = {"sample_id": source.ids, "unit_id": source.labels.tolist()}
        write_table("membership", tmp_path / "membership.parquet", membership, record)
        selection = {
            "unit_id": [0, 1, 2],
            "name": ["ant", "bee", "cow"],
            "score": [0.0] * 3,
            "rank": [1, 2, 3],
            "selected": [True, True, False],
        }
        write_table("selection", tmp_path / "selection.parquet", selection, record)
        rows = [*excluded, *listed]
        leaks = {
            "source_id": [source.ids[row] for row in rows],
            "target_id": ["a"] * len(rows),
            "target_split": ["test"] * len(rows),
            "kind": ["exact"] * len(excluded) + ["feature"] * len(listed),
            "hamming": [0] * len(rows),
            "difference_hamming": [0] * len(rows),
            "cosine": [1.0] * len(rows),
            "excluded": [True] * len(excluded) + [False] * len(listed),
        }
        write_table("leaks", tmp_path / "leaks.parquet", leaks, record)
        names = ("membership", "selection", "leaks")
        paths = [tmp_path / f"{name}.parquet" for name in names]
        return source, SourceFiles(source.manifest, source.images, *paths)

    return make


def members(labels: np.ndarray, label: int) -> list[int]:
    return np.flatnonzero(labels == label).tolist()


def test_excluded_images_are_left_out(reused: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    source, _ = reused([])
    leaked = [*members(source.labels, 0)[:2], members(source.labels, 1)[3], members(source.labels, 2)[0]]
    source, files = reused(leaked, listed=[members(source.labels, 1)[0]])
    with caplog.at_level("INFO", logger="pipeline"):
        found = selected_images(files, labelled=True)
    selected = np.flatnonzero(source.labels < 2)
    assert found.rows.tolist() == [row for row in selected if row not in leaked]
    assert "3 of 12 selected source images left out as leaks" in caplog.text
    np.testing.assert_array_equal(selected_images(replace(files, leaks=None), labelled=True).rows, selected)


def test_a_share_is_drawn_of_what_is_left(reused: Callable[..., Any]) -> None:
    source, _ = reused([])
    leaked = members(source.labels, 0)[:5] + members(source.labels, 1)[:2]
    _, files = reused(leaked)
    found = selected_images(files, labelled=True, share=0.5)
    assert not set(found.rows.tolist()) & set(leaked)
    assert np.bincount(found.labels).tolist() == [1, 2]


def test_a_unit_of_leaks_alone(reused: Callable[..., Any]) -> None:
    source, _ = reused([])
    _, files = reused(members(source.labels, 1))
    with pytest.raises(PipelineError, match=r"(?s)all images of 1 selected units.*unit 1, bee") as failure:
        selected_images(files, labelled=True)
    assert "set reuse.leaks to keep" in str(failure.value)
    # A unit that is not selected may go.
    _, files = reused(members(source.labels, 2))
    assert len(selected_images(files, labelled=True).rows) == 12


SHARED_BY_REUSE = {"weight": 1.0, "batch_size": None, "batch_norm": "joint", "share": 1.0, "draw": 0}


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    "reuse",
    [
        {"name": "labelled", "head": "random", **SHARED_BY_REUSE},
        {"name": "pseudo_labelled", "operations": 2, "magnitude": 9, **SHARED_BY_REUSE},
    ],
    ids=lambda reuse: reuse["name"],
)
def test_excluded_images_are_in_no_source_batch(
    tmp_path: Path,
    reused: Callable[..., Any],
    make_dataset: Callable[..., Any],
    tuning: Callable[..., dict[str, Any]],
    record: Provenance,
    monkeypatch: pytest.MonkeyPatch,
    reuse: dict[str, Any],
    keep: bool,
) -> None:
    source, _ = reused([])
    leaked = members(source.labels, 0)[:3] + members(source.labels, 1)[2:4]
    source, files = reused(leaked)
    target = make_dataset(tmp_path / "target", seed=1)
    drawn: set[int] = set()
    loss = FineTuning.loss

    def spy(self: FineTuning, batches: Mapping[str, Any]) -> Any:
        drawn.update(batches["source"].samples.tolist())
        return loss(self, batches)

    monkeypatch.setattr(FineTuning, "loss", spy)
    description = Description(
        architecture={"name": "small_resnet", "widths": [4], "blocks": 1, "stem_stride": 1},
        preprocessing={"resize": 10, "crop": 10, "mean": [0.5] * 3, "std": [0.25] * 3},
    )
    save_backbone(tmp_path / "weights.safetensors", build_backbone(description, seed=0), record)
    settings = tuning(budget={"epochs": 6, "iterations": None}, reuse=reuse)
    files = replace(files, leaks=None) if keep else files
    finetune(*target.paths, tmp_path / "weights.safetensors", tmp_path / "run", files, settings, record)
    selected = set(np.flatnonzero(source.labels < 2).tolist())
    assert drawn == (selected if keep else selected - set(leaked))


def test_of_units_that_are_single_images_some_may_go(reused: Callable[..., Any], record: Provenance) -> None:
    source, files = reused([0, 1])
    membership = {"sample_id": source.ids, "unit_id": list(range(18))}
    write_table("membership", files.membership, membership, record)
    selection = {
        "unit_id": list(range(18)),
        "name": source.ids,
        "score": [0.0] * 18,
        "rank": list(range(1, 19)),
        "selected": [number < 4 for number in range(18)],
    }
    write_table("selection", files.selection, selection, record)
    assert selected_images(files, labelled=True).rows.tolist() == [2, 3]
    _, all_leaked = reused([0, 1, 2, 3])
    write_table("membership", files.membership, membership, record)
    write_table("selection", files.selection, selection, record)
    with pytest.raises(PipelineError, match="all images of 4 selected units"):
        selected_images(all_leaked, labelled=True)


# Settings


def test_settings(tmp_path: Path) -> None:
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    config = load_config(ROOT / "config.yaml")
    assert config.leakage.plain() == SETTINGS
    assert config.recipes["reuse"].reuse.plain()["leaks"] == "exclude"
    path = tmp_path / "config.yaml"
    for written, message in (
        ("{cosine: 0.9, exclude_cosine: 0.8}", r"exclude_cosine 0\.8 is below cosine 0\.9"),
        ("{hamming: 65}", r"leakage\.hamming"),
        ("{cosine: 1.5}", r"leakage\.cosine"),
    ):
        path.write_text(f"{text}\nleakage: {written}\n", encoding="utf-8")
        with pytest.raises(PipelineError, match=message):
            load_config(path)


# Commands


def test_commands_load_no_code_outside_their_digest_and_no_torch(
    tmp_path: Path, made: Callable[..., Made]
) -> None:
    source, target = made("source", [picture(0)], ["train"]), made("target", [picture(0)], ["test"])
    watch = tmp_path / "sitecustomize.py"
    watch.write_text(
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' if 'torch' in sys.modules else 'light', file=sys.stderr))\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    calls = {
        "pipeline.leakage.hashes": [source.manifest, tmp_path / "hashes.parquet"],
        "pipeline.leakage": [
            *(source.files.hashes, target.files.hashes, source.files.features, target.files.features),
            *(tmp_path / "leaks.parquet", "--settings", json.dumps(SETTINGS)),
        ],
    }
    for step, arguments in calls.items():
        done = subprocess.run(
            [sys.executable, "-m", step, *map(str, arguments), "--code", str(code_digest(step))],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "light"
    assert "pairs found: 1 exact, 0 perceptual, 0 feature" in done.stderr
    record = json.loads(read_table_metadata(tmp_path / "leaks.parquet")["graftune"])
    assert record["settings"] == SETTINGS
    assert "imagehash" in record["versions"]


# Real images


def sample(path: Path, count: int, seed: int) -> list[Image.Image]:
    table = parquet.read_table(path, columns=["image"])
    rows = np.sort(np.random.default_rng(seed).choice(len(table), count, replace=False))
    return [
        Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in table.take(rows).to_pylist()
    ]


REAL: dict[str, tuple[Change, float, float]] = {
    "jpeg 50": (through("JPEG", quality=50), 0.99, 1.0),
    "jpeg 30": (through("JPEG", quality=30), 0.98, 1.0),
    "half the size": (resized(0.5), 0.98, 1.0),
    "cropped by 3 %": (cropped(0.03), 0.95, 1.0),
    "cropped by 10 %": (cropped(0.1), 0.2, 0.6),
    "mirrored": (ImageOps.mirror, 0.0, 0.01),
}


@pytest.mark.parametrize(("change", "low", "high"), REAL.values(), ids=REAL)
def test_recall_on_real_photographs(shared_data: Path, change: Change, low: float, high: float) -> None:
    """Copies of 300 CIFAR-10 images; docs/leakage.md has the figures."""
    hit = []
    for image in sample(shared_data / "images" / "cifar10.parquet", 300, seed=0):
        one, other = hash_image(image), hash_image(change(image))
        assert one.perceptual is not None
        assert one.difference is not None
        assert other.perceptual is not None
        assert other.difference is not None
        hit.append(
            (one.perceptual ^ other.perceptual).bit_count() <= SETTINGS["hamming"]
            and (one.difference ^ other.difference).bit_count() <= SETTINGS["difference_hamming"]
        )
    assert low <= np.mean(hit) <= high


def test_false_alarms_on_real_doodles(tmp_path: Path, record: Provenance, found: Callable[..., Any]) -> None:
    """Doodles of other classes are no copies: at most 2 of 1,000 source images may be excluded."""
    table = parquet.read_table(ROOT / "data" / "quickdraw.parquet", columns=["image", "part", "split"])
    rows = table.to_pylist()
    sides = []
    for part, splits in (("source", ["train"]), ("target", ["validation", "test"])):
        kept = [row for row in rows if row["part"] == part and row["split"] in splits]
        names = [row["split"] for row in kept]
        folder = tmp_path / part
        manifest = write_manifest(
            folder / "manifest.parquet", part, [row["image"]["bytes"] for row in kept], names, record
        )
        files = SideFiles(folder / "hashes.parquet", folder / "features.parquet")
        hash_images(manifest, files.hashes, (0, 1), 1, record)
        columns = {
            "sample_id": [f"{part}/{row:03}" for row in range(len(kept))],
            "split": names,
            "label": [0] * len(kept),
            "feature": feature_column(np.eye(2)[[int(part == "source")] * len(kept)]),
        }
        write_table("features", files.features, columns, record)
        sides.append(Made(manifest, files))
    leaks = found(*sides)
    assert read_table("hashes", sides[0].files.hashes)["perceptual"].null_count == 0
    assert len({row["source_id"] for row in leaks}) <= 0.002 * 11_200
    assert {row["kind"] for row in leaks} <= {"perceptual"}


# Report


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., str]:
    """A function that makes results and a leaks table up and gives the report's HTML."""

    def make(pairs: Sequence[tuple[str, int, int, bool]], source: str = "doodles") -> str:
        """Pairs are kind, row of the source and of the target, and whether it is excluded."""
        inputs, settings = Results(tmp_path, selections={"uot": False}, seeds=(0, 1), source=source).make()
        columns = {
            "source_id": [f"{source}/{row:04}" for _, row, _, _ in pairs],
            "target_id": [f"birds/{row:04}" for _, _, row, _ in pairs],
            "target_split": ["test"] * len(pairs),
            "kind": [kind for kind, *_ in pairs],
            "hamming": [3] * len(pairs),
            "difference_hamming": [5] * len(pairs),
            "cosine": [0.987] * len(pairs),
            "excluded": [excluded for *_, excluded in pairs],
        }
        path = tmp_path / "leaks" / "small" / source / "birds.parquet"
        record = Provenance("pipeline.leakage", SETTINGS, "pipeline.leakage=0", {}, {})
        compared = {"source": 48, "target": 32, "flat_source": 2, "flat_target": 0}
        write_table("leaks", path, columns, record, {"compared": json.dumps(compared)})
        write_report(replace(inputs, leaks=[path]), tmp_path / "report.html", settings)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return make


def section(html: str) -> str:
    return html.partition('<section id="leaks">')[2].partition("</section>")[0]


def test_report_shows_the_surest_pairs_side_by_side(page: Callable[..., str]) -> None:
    pairs = [("exact", row, row, True) for row in range(3)]
    pairs += [("perceptual", 3, row, True) for row in range(3, 13)]
    pairs += [("feature", 20, 21, False)]
    html = page(pairs)
    found = section(html)
    assert "14 pairs found among 48 \N{MULTIPLICATION SIGN} 32 images; 4 source images excluded." in " ".join(
        found.split()
    )
    assert "Not compared, being flat: 2 of the source, 0 of the target." in found
    assert "The surest 12" in found
    pictures = [part.partition('"')[0] for part in found.split('<img src="')[1:]]
    assert len(pictures) == 24
    assert all(picture.startswith("data:image/") for picture in pictures)
    cells = [row.split("</td>") for row in found.split('<th scope="row">')[1:]]
    numbers = [[cell.rpartition(">")[2] for cell in row[1:-1]] for row in cells]
    assert numbers == [["3", "3", "3", "3"], ["10", "1", "10", "1"], ["1", "1", "1", "0"]]
    assert "doodles/0000 · birds/0000 (test): exact, cosine 0.987" in found
    assert "doodles/0003 · birds/0003 (test): perceptual, 3 and 5 bits apart, cosine 0.987" in found
    assert '<a href="#leaks">Leaks</a>' in html


def test_report_says_what_was_not_excluded(page: Callable[..., str]) -> None:
    found = section(page([("feature", 0, 0, False)]))
    assert "0 source images excluded" in found
    assert "cosine 0.987; not excluded" in found


def test_report_without_leaks(page: Callable[..., str]) -> None:
    found = section(page([]))
    assert "None found among 48 \N{MULTIPLICATION SIGN} 32 images." in found
    assert "<img" not in found
    assert "<table" not in found


def test_report_escapes_names(page: Callable[..., str]) -> None:
    html = page([("exact", 0, 0, True)], source="<script>x")
    assert "&lt;script&gt;x/0000 · birds/0000" in section(html)
    assert "<script" not in html


def test_report_of_runs_without_reuse(tmp_path: Path) -> None:
    inputs, settings = Results(tmp_path).make()
    write_report(inputs, tmp_path / "report.html", settings)
    assert "Leaks" not in (tmp_path / "report.html").read_text(encoding="utf-8")
