"""Decoding to squares of RGB, and the cache of decoded images."""

import io
import json
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images.cache import open_images
from pipeline.images.decode import decode_batches, decode_image, to_square
from pipeline.images.threads import map_in_order
from pipeline.provenance import Provenance
from pipeline.tables import write_table
from pipeline.tables.schemas import IMAGE


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data, "sample"))


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 0, 0, 0])
    image.putpixel((1, 0), 1)
    return image


MODES = {
    "grey": (encoded(Image.new("L", (2, 1), 77)), [(77, 77, 77)] * 2),
    "one bit": (encoded(Image.new("1", (2, 1), 1)), [(255, 255, 255)] * 2),
    "RGB": (encoded(Image.new("RGB", (2, 1), (1, 2, 3))), [(1, 2, 3)] * 2),
    "palette": (encoded(palette_with_transparency()), [(200, 10, 20), (0, 0, 0)]),
    "palette with transparency": (
        encoded(palette_with_transparency(), transparency=1),
        [(200, 10, 20), (255, 255, 255)],
    ),
    "RGB with a transparent colour": (
        encoded(Image.new("RGB", (2, 1), (1, 2, 3)), transparency=(1, 2, 3)),
        [(255, 255, 255)] * 2,
    ),
    "grey with alpha": (encoded(Image.new("LA", (2, 1), (0, 0))), [(255, 255, 255)] * 2),
    "RGBA": (encoded(Image.new("RGBA", (2, 1), (255, 0, 0, 51))), [(255, 204, 204)] * 2),
    "CMYK": (encoded(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "TIFF"), [(255, 0, 0)] * 2),
    "first frame": (
        encoded(
            Image.new("RGB", (2, 1), (255, 0, 0)),
            "GIF",
            save_all=True,
            append_images=[Image.new("RGB", (2, 1), (0, 0, 255))],
        ),
        [(255, 0, 0)] * 2,
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(name: str):
    data, expected = MODES[name]
    assert [tuple(pixel) for pixel in pixels_of(data)[0].tolist()] == expected


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_are_scaled_and_not_clipped(order: str):
    levels = np.array([[0, 128, 129, 257, 32_896, 65_535]], dtype=order)
    kind = "PNG" if order == "<u2" else "TIFF"
    assert pixels_of(encoded(Image.fromarray(levels), kind))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str):
    image = Image.new("RGB", (32, 16), "black")
    image.paste((255, 255, 255), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the white left half comes on top
    upright = pixels_of(encoded(image, kind, exif=exif))
    assert upright.shape == (32, 16, 3)
    assert upright[:14].min() > 240
    assert upright[18:].max() < 15


def test_a_wrong_suffix_that_decodes_is_fine(tmp_path: Path):
    file = tmp_path / "really a jpeg ä.png"
    file.write_bytes(encoded(Image.new("RGB", (4, 4), "white"), "JPEG"))
    assert decode_image(file, "sample").size == (4, 4)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 40,000 x 40,000 pixels."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(100)),
    }
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_a_wrong_byte() -> bytes:
    data = bytearray(encoded(noise(32, 32)))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    return bytes(data)


BAD = {
    "zero bytes": (b"", "empty (0 bytes)"),
    "text": (
        b"<html>404 not found</html>",
        "not an image, or cut off at once (it starts with b'<html>404 not fo')",
    ),
    "truncated header": (encoded(noise(64, 64))[:33], "cut off at once (it starts with b'\\x89PNG"),
    "truncated PNG": (encoded(noise(64, 64))[:2_000], "corrupt, truncated or unsupported"),
    "truncated JPEG": (encoded(noise(64, 64), "JPEG")[:1_000], "truncated"),
    "wrong checksum": (with_a_wrong_byte(), "corrupt, truncated or unsupported"),
    "bomb": (bomb(), "1600000000 pixels"),
    "floats": (encoded(Image.new("F", (2, 2), 0.5), "TIFF"), "floating-point"),
    "32 bits": (encoded(Image.new("I", (2, 2), 70_000), "TIFF"), "expected 16 bits"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_named(name: str):
    data, expected = BAD[name]
    with pytest.raises(PipelineError) as error:
        decode_image(data, "cats/1.png")
    assert str(error.value).startswith("cats/1.png: ")
    assert expected in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(PipelineError, match=r"cats/1.png: cannot read .*gone.png \(No such file"):
        decode_image(tmp_path / "gone.png", "cats/1.png")


def test_a_square_of_the_right_size_is_not_touched():
    image = noise(28, 28)
    assert to_square(image, 28) is image


@pytest.mark.parametrize("size", [(28, 28), (31, 17), (17, 31), (100, 64), (65, 100), (15, 200), (7, 5)])
def test_squares_are_those_of_torchvision(size: tuple[int, int]):
    transforms = pytest.importorskip("torchvision.transforms")
    reference = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(24)])
    image = noise(*size)
    assert np.array_equal(np.asarray(to_square(image, 24)), np.asarray(reference(image)))


def test_a_hairline_is_not_enlarged_to_gigabytes():
    assert to_square(Image.new("RGB", (1, 60_000), (9, 8, 7)), 224).getpixel((0, 223)) == (9, 8, 7)


def test_results_keep_their_order_and_few_wait():
    started: list[int] = []
    lock = threading.Lock()

    def square(number: int) -> int:
        with lock:
            started.append(number)
        return number * number

    results = map_in_order(square, iter(range(100)), workers=3)
    assert [next(results), next(results)] == [0, 1]
    assert len(started) <= 2 + 3
    assert list(results) == [number * number for number in range(2, 100)]


def table_of(images: list[bytes | Path]) -> pa.Table:
    structs = [
        {"bytes": None, "path": str(image)} if isinstance(image, Path) else {"bytes": image, "path": "x"}
        for image in images
    ]
    names = [f"sample {number}" for number in range(len(images))]
    return pa.table({"sample_id": names, "image": pa.array(structs, IMAGE)})


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("side", [8, 60])  # small images are decoded in one thread whatever is asked for
def test_batches_are_decoded_in_order(workers: int, side: int, tmp_path: Path):
    pictures = [noise(side, side, seed) for seed in range(10)]
    images: list[bytes | Path] = [encoded(picture) for picture in pictures]
    if side == 60:
        images[3] = tmp_path / "3.png"
        (tmp_path / "3.png").write_bytes(encoded(pictures[3]))
    table = table_of(images)
    batches = [table.slice(start, 4) for start in (0, 4, 8)]
    decoded = list(decode_batches(batches, side, workers))
    assert [rows["sample_id"].to_pylist() for rows, _ in decoded] == [
        b["sample_id"].to_pylist() for b in batches
    ]
    pixels = np.concatenate([pixels for _, pixels in decoded])
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.stack([np.asarray(picture) for picture in pictures]))


def test_a_bad_image_in_a_batch_is_named():
    with pytest.raises(PipelineError, match="sample 1: the image is empty"):
        list(decode_batches([table_of([encoded(noise(4, 4)), b""])], 4))


def write_manifest(path: Path, images: list[bytes | Path]) -> None:
    table = table_of(images)
    rows = len(table)
    columns = {
        "sample_id": table["sample_id"],
        "image": table["image"],
        "split": ["train"] * rows,
        "label": [0] * rows,
        "class_name": ["cat"] * rows,
        "width": [8] * rows,
        "height": [8] * rows,
    }
    write_table("manifest", path, columns, Provenance("test", {}, "", {}))


def run_images(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.images", "manifest.parquet", "out/images.npy", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_command_writes_the_cache(tmp_path: Path):
    pictures = [noise(12, 8, seed) for seed in range(2_100)]
    images: list[bytes | Path] = [encoded(picture) for picture in pictures]
    (tmp_path / "an image ä.png").write_bytes(encoded(pictures[1]))
    images[1] = Path("an image ä.png")
    write_manifest(tmp_path / "manifest.parquet", images)
    result = run_images(tmp_path, "--settings", json.dumps({"size": 6}), "--threads", "2")
    assert result.returncode == 0, result.stderr
    cache = open_images(tmp_path / "out" / "images.npy", rows=2_100)
    assert cache.shape == (2_100, 6, 6, 3)
    assert isinstance(cache, np.memmap)
    for row in (0, 1, 255, 256, 2_000, 2_099):
        assert np.array_equal(cache[row], np.asarray(to_square(pictures[row], 6)))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["images.npy"]


def test_the_command_names_a_bad_image_and_leaves_nothing(tmp_path: Path):
    write_manifest(tmp_path / "manifest.parquet", [encoded(noise(4, 4)), b"no image"])
    result = run_images(tmp_path, "--settings", '{"size": 4}')
    assert result.returncode == 1
    assert "error: sample 1: not an image" in result.stderr
    assert "Traceback" not in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def other_arrays(folder: Path) -> dict[str, tuple[Path, str]]:
    whole, cut, text = folder / "whole.npy", folder / "cut.npy", folder / "text.npy"
    np.save(whole, np.zeros((3, 4, 4, 3), dtype=np.uint8))
    cut.write_bytes(whole.read_bytes()[:-10])
    text.write_text("no array")
    floats, oblong = folder / "floats.npy", folder / "oblong.npy"
    np.save(floats, np.zeros((3, 4, 4, 3)))
    np.save(oblong, np.zeros((3, 4, 5, 3), dtype=np.uint8))
    return {
        "missing": (folder / "gone.npy", "no such cache"),
        "truncated": (cut, "perhaps truncated"),
        "text": (text, "not a readable .npy file"),
        "floats": (floats, "found float64 of shape (3, 4, 4, 3), expected uint8"),
        "oblong": (oblong, "found uint8 of shape (3, 4, 5, 3)"),
        "of another manifest": (whole, "holds 3 images, its manifest 4"),
    }


@pytest.mark.parametrize("name", ["missing", "truncated", "text", "floats", "oblong", "of another manifest"])
def test_other_arrays_are_refused(name: str, tmp_path: Path):
    path, expected = other_arrays(tmp_path)[name]
    with pytest.raises(PipelineError) as error:
        open_images(path, rows=4)
    assert str(path) in str(error.value)
    assert expected in str(error.value)


def test_a_manifest_of_another_kind_is_refused(tmp_path: Path):
    parquet.write_table(pa.table({"sample_id": ["a"]}), tmp_path / "manifest.parquet")
    result = run_images(tmp_path, "--settings", '{"size": 4}')
    assert result.returncode == 1
    assert "not a manifest table: column 'image' is missing" in result.stderr
