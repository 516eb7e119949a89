"""Images at their own sizes: the file, crops as torchvision cuts them, and training on them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as vision
from PIL import Image
from safetensors.torch import load_file
from scipy import stats
from torchvision.transforms import InterpolationMode

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import save_backbone
from pipeline.engine.augmentation import DRAWS, Augmentation
from pipeline.engine.randomness import uniforms
from pipeline.engine.streams import Shuffled, target_stream
from pipeline.engine.strong import StrongAugmentation
from pipeline.errors import PipelineError
from pipeline.finetuning.finetune import finetune
from pipeline.images.cache import write_images
from pipeline.images.originals import BATCH, Originals, open_originals, write_originals
from pipeline.initialisation.initialise import initialise
from pipeline.pretraining.pretrain import pretrain
from pipeline.provenance import Provenance
from pipeline.tables import read_samples, table_writer

pytestmark = pytest.mark.usefixtures("torch_as_before")

SIZE = 12
PREPROCESSING = {"resize": SIZE, "crop": 10, "mean": [0.5, 0.4, 0.6], "std": [0.25, 0.3, 0.2]}
CROPPED = {
    **{"resized_crop": [0.2, 1.0], "padding": 0, "fill": 0, "flip": True},
    **{"colour_jitter": 0.0, "grey": 0.0, "blur": 0.0},
}
COIN = {
    **{"name": "coin", "share": 0.5, "schedule": "joint"},
    **{"temperature": 0.3, "projection": 4, "hidden": None},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, record: Provenance) -> Any:
    """Manifest, squares, originals, and the 45 images themselves, in row groups that fit no batch."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    images = []
    for row in range(45):
        height, width = random.integers(14, 60, 2)
        coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)  # smooth, as photos are
        picture = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        noise = random.integers(-20, 20, (height, width, 3))
        images.append(np.clip(np.asarray(picture) + noise + 20 * (row % 3), 0, 255).astype(np.uint8))
    labels = [row % 3 for row in range(45)]
    columns = {
        "sample_id": [f"image {row:02}" for row in range(45)],
        "image": [{"bytes": png(image), "path": None} for image in images],
        "split": ["train"] * 27 + ["validation"] * 9 + ["test"] * 9,
        "label": labels,
        "class_name": [f"class {label}" for label in labels],
        "width": [image.shape[1] for image in images],
        "height": [image.shape[0] for image in images],
    }
    extra = {"class_names": json.dumps([f"class {label}" for label in range(3)])}
    with table_writer("manifest", folder / "manifest.parquet", record, extra) as write:
        for first, last in ((0, 7), (7, 8), (8, 45)):
            write({name: column[first:last] for name, column in columns.items()})
    write_images(folder / "manifest.parquet", folder / "images.npy", SIZE, 1)
    write_originals(folder / "manifest.parquet", folder / "originals.arrow", 2)
    return folder, images


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_file_holds_every_image_as_it_is(photos: Any) -> None:
    folder, images = photos
    assert len(images) > 2 * BATCH
    originals = Originals(folder / "originals.arrow", 45)
    for row, image in enumerate(images):
        np.testing.assert_array_equal(originals.image(row), image)
    rows = np.array([44, 0, 16, 15, 0])
    assert originals.sides(rows).tolist() == [list(images[row].shape[:2]) for row in rows]


@pytest.mark.parametrize("workers", [1, 3])
def test_crops_are_torchvisions(photos: Any, workers: int) -> None:
    folder, images = photos
    originals, rows = Originals(folder / "originals.arrow", 45), np.random.default_rng(1).permutation(45)
    numbers = uniforms(rows, DRAWS, 0, "test")
    boxes = Augmentation(CROPPED, PREPROCESSING).boxes(originals.sides(rows), numbers)
    found = originals.crop(rows, boxes, 10, workers)
    for row, box, crop in zip(rows, boxes.tolist(), found, strict=True):
        arguments = (*box, [10, 10], InterpolationMode.BILINEAR)
        exact = vision.resized_crop(Image.fromarray(images[row]), *arguments)
        np.testing.assert_array_equal(crop, np.asarray(exact))
        pixels = torch.from_numpy(images[row]).permute(2, 0, 1).float()
        smooth = vision.resized_crop(pixels, *arguments, antialias=True).permute(1, 2, 0)
        # Pillow rounds to whole levels once along each axis.
        assert np.abs(crop - smooth.numpy()).max() <= 1.01


def test_boxes_have_the_areas_and_ratios_of_the_settings() -> None:
    count = 4000
    sides = np.tile([[600, 800], [500, 375]], (count // 2, 1))
    change = Augmentation(CROPPED | {"resized_crop": (0.2, 0.5)}, PREPROCESSING)
    boxes = change.boxes(sides, uniforms(np.arange(count), DRAWS, 0, "boxes"))
    corner, extent = boxes[:, :2], boxes[:, 2:]
    assert (corner >= 0).all()
    assert (corner + extent <= sides).all()
    area, ratio = extent.prod(1) / sides.prod(1), np.log(extent[:, 1] / extent[:, 0])
    assert stats.kstest((area - 0.2) / 0.3, "uniform").pvalue > 1e-3
    assert stats.kstest((ratio / np.log(4 / 3) + 1) / 2, "uniform").pvalue > 1e-3
    assert stats.kstest(corner[:, 0] / (sides - extent)[:, 0], "uniform").pvalue > 1e-3
    # Where a box does not fit, the image's border cuts it.
    whole = Augmentation(CROPPED | {"resized_crop": (1.0, 1.0)}, PREPROCESSING)
    assert (whole.boxes(sides, uniforms(np.arange(count), DRAWS, 0, "boxes"))[:, 2:] <= sides).all()


def test_stream_cuts_flips_and_normalises(photos: Any, training: Callable[..., dict[str, Any]]) -> None:
    folder, images = photos
    samples = read_samples(folder / "manifest.parquet")
    rows, squares = samples.training_rows(), np.load(folder / "images.npy", mmap_mode="r")
    settings = training(augmentation=CROPPED)
    originals = Originals(folder / "originals.arrow", 45)
    given = (samples, rows, squares, settings, PREPROCESSING, 5, torch.device("cpu"))
    stream = target_stream(*given, views=2, originals=originals)
    (batch, *_), (small, *_) = stream.epoch(3), target_stream(*given).epoch(3)
    assert batch.samples.tolist() == rows[next(Shuffled(27, 8, 5).epoch(3))].tolist()
    assert not torch.allclose(batch.images, small.images, atol=0.05)
    mean, std = (torch.tensor(PREPROCESSING[name]).view(3, 1, 1) for name in ("mean", "std"))
    for view, found in enumerate((batch.images, *batch.views)):
        numbers = uniforms(batch.samples, DRAWS, 5, "augmentation", 3, view)
        boxes = Augmentation(CROPPED, PREPROCESSING).boxes(originals.sides(batch.samples), numbers)
        assert 0 < (numbers[:, 4] < 0.5).sum() < 8
        for row, box, number, pixels in zip(batch.samples, boxes.tolist(), numbers, found, strict=True):
            crop = vision.resized_crop(Image.fromarray(images[row]), *box, [10, 10])
            expected = vision.to_tensor(vision.hflip(crop) if number[4] < 0.5 else crop)
            torch.testing.assert_close(pixels, (expected - mean) / std, atol=1e-5, rtol=0)


def test_strong_augmentation_begins_with_the_crop(photos: Any) -> None:
    folder, _ = photos
    originals, rows = Originals(folder / "originals.arrow", 45), np.arange(6)
    change = StrongAugmentation(CROPPED, PREPROCESSING, 2, 0)
    numbers = uniforms(rows, change.draws, 0, "strong")
    numbers[:, DRAWS::2] = 0  # every operation is the first: identity
    crops = originals.crop(rows, change.boxes(originals.sides(rows), numbers), 10, 1)
    weak = Augmentation(CROPPED, PREPROCESSING)(torch.from_numpy(crops), numbers[:, :DRAWS], cut=True)
    torch.testing.assert_close(change(torch.from_numpy(crops), numbers, cut=True), weak)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, record: Provenance) -> Callable[[str], Path]:
    """A function that gives a backbone whose preprocessing stores images so."""
    folder = tmp_path_factory.mktemp("backbones")

    def make(stored: str) -> Path:
        description = Description(
            architecture={"name": "small_resnet", "widths": [4, 6], "blocks": 1, "stem_stride": 1},
            preprocessing=PREPROCESSING | {"stored": stored},
        )
        save_backbone(folder / f"{stored}.safetensors", build_backbone(description, 3), record)
        return folder / f"{stored}.safetensors"

    return make


@pytest.mark.parametrize("step", ["finetuning", "initialisation", "pretraining"])
def test_every_training_step_cuts_crops_where_the_backbone_says(
    tmp_path: Path,
    photos: Any,
    weights: Callable[[str], Path],
    training: Callable[..., dict[str, Any]],
    tuning: Callable[..., dict[str, Any]],
    record: Provenance,
    step: str,
) -> None:
    """Other weights than from the squares; the same again; and the originals are asked for."""
    folder, _ = photos
    paths = folder / "manifest.parquet", folder / "images.npy"
    plain = training(augmentation=CROPPED)

    def train(name: str, stored: str, originals: Path | None) -> dict[str, torch.Tensor]:
        out = tmp_path / name
        if step == "finetuning":
            settings = tuning(augmentation=CROPPED)
            finetune(*paths, weights(stored), out, None, settings, record, originals=originals)
        elif step == "initialisation":
            settings = plain | {
                "initialise": COIN,
                "batch_norm": "trained",
                "fit_on": ["train"],
                "may_diverge": False,
                "seed": 0,
            }
            initialise(*paths, weights(stored), out, settings, record, originals)
        else:
            settings = {
                "architecture": {"name": "small_resnet", "widths": [4], "blocks": 1, "stem_stride": 1},
                "preprocessing": PREPROCESSING | {"stored": stored},
                "keep_epochs": [],
                "seed": 0,
                "method": plain | {"name": "supervised"},
            }
            pretrain(*paths, out, settings, record, originals)
        return load_file(out / ("model.safetensors" if step == "finetuning" else "weights.safetensors"))

    file = folder / "originals.arrow"
    small, large, again = (
        train(name, stored, file if stored == "original" else None)
        for name, stored in (("small", "resized"), ("large", "original"), ("again", "original"))
    )
    stem = "encoder.stem.weight"
    assert not torch.allclose(small[stem], large[stem], atol=1e-4)
    assert all(torch.equal(again[name], value) for name, value in large.items())
    with pytest.raises(PipelineError, match=r"preprocessing\.stored is original, and none is given"):
        train("missing", "original", None)
    with pytest.raises(
        PipelineError, match=r"preprocessing\.stored is resized, and .*originals\.arrow is given"
    ):
        train("superfluous", "resized", file)


def test_files_that_are_none_are_refused(tmp_path: Path, photos: Any) -> None:
    folder, _ = photos
    content = (folder / "originals.arrow").read_bytes()
    (tmp_path / "half.arrow").write_bytes(content[: len(content) // 2])
    with pytest.raises(PipelineError, match=r"half\.arrow: not a readable Arrow file"):
        Originals(tmp_path / "half.arrow", 45)
    with pytest.raises(PipelineError, match=r"none\.arrow: no such file of decoded images"):
        open_originals(tmp_path / "none.arrow", 45, "original")
    with pytest.raises(PipelineError, match=r"originals\.arrow: holds 45 images, its manifest 44"):
        Originals(folder / "originals.arrow", 44)
