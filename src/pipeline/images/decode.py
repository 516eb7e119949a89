"""Decode images of any mode to upright RGB, 8 bits a channel."""

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import PipelineError
from pipeline.images.threads import map_in_order

# What images come in. Pillow knows more, but some of it has no signature and would take text for an
# image, and some starts other programs (EPS).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Below so many encoded bytes an image takes its time in Python, where threads only hinder each other.
SMALL_IMAGE = 4_096
# An image longer than so many times its width is cut to its centre before it is enlarged.
LONGEST = 16


def decode_image(source: bytes | Path, sample: str) -> Image.Image:
    """Decode one image to RGB.

    The first frame counts, EXIF orientation is applied, transparency is laid on white, 16 bits are
    scaled to 8.

    Args:
        source: The encoded image, or its file.
        sample: Name of the sample, for the error.

    Raises:
        PipelineError: If there is no such file, or it is empty, no image, truncated, corrupt, or
            would unpack to more pixels than Pillow allows.
    """
    encoded = source if isinstance(source, bytes) else _read(source, sample)
    if not encoded:
        raise PipelineError(f"{sample}: the image is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise PipelineError(
            f"{sample}: not an image, or cut off at once (it starts with {encoded[:16]!r}); "
            f"expected {', '.join(FORMATS)}"
        ) from error
    except Image.DecompressionBombError as error:
        raise PipelineError(f"{sample}: too large to be an honest image ({error})") from error
    # Decoders raise whatever a broken file makes them stumble over: OSError, SyntaxError,
    # struct.error, ValueError, IndexError.
    except Exception as error:
        raise PipelineError(f"{sample}: corrupt, truncated or unsupported image ({error})") from error


def to_square(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size` (bilinear, antialiased) and keep the square centre.

    Sides and offsets round as torchvision's Resize and CenterCrop do, so that published weights see
    what they were trained on. An image that has this size is returned as it is.
    """
    if image.size == (size, size):
        return image
    shorter = min(image.size)
    if max(image.size) > LONGEST * shorter:
        image = _centre(image, min(image.width, LONGEST * shorter), min(image.height, LONGEST * shorter))
    width, height = (size * side // shorter for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return _centre(image, size, size)


def image_source(image: Mapping[str, Any] | None, sample: str) -> bytes | Path:
    """The encoded bytes of an image struct, or the path of its file where it has no bytes.

    Raises:
        PipelineError: If it has neither.
    """
    if image is not None and image["bytes"] is not None:
        return image["bytes"]
    if image is not None and image["path"]:
        return Path(image["path"])
    raise PipelineError(f"{sample}: no image (neither bytes nor path)")


def decode_batches(
    batches: Iterable[pa.Table], size: int, workers: int = 1
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Decode the rows of a manifest in batches, ahead of the consumer and in order.

    Args:
        batches: Tables with columns sample_id and image; a file is read where its bytes are null.
        size: Side of the squares; see `to_square`.
        workers: Threads; each decodes a batch, and at most ``workers + 1`` batches wait.

    Yields:
        Each batch, and its images as a uint8 array of shape (rows, size, size, 3).

    Raises:
        PipelineError: Naming the sample that cannot be decoded.
    """

    def decode_batch(rows: pa.Table) -> tuple[pa.Table, np.ndarray]:
        pixels = np.empty((len(rows), size, size, 3), dtype=np.uint8)
        samples = zip(rows["image"].to_pylist(), rows["sample_id"].to_pylist(), strict=True)
        for position, (image, sample) in enumerate(samples):
            square = to_square(decode_image(image_source(image, sample), sample), size)
            pixels[position] = np.asarray(square)
        return rows, pixels

    batches = iter(batches)
    first = list(islice(batches, 1))
    if first and _are_small(first[0]["image"]):
        workers = 1
    return map_in_order(decode_batch, chain(first, batches), workers)


def _read(path: Path, sample: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PipelineError(f"{sample}: cannot read {path} ({error.strerror})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white; expected integers")
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65_535:
        raise ValueError(f"levels {levels.min()} to {levels.max()}; expected 16 bits, 0 to 65535")
    # 65535 = 255 x 257; half a step more rounds to the nearest level.
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _are_small(images: pa.ChunkedArray) -> bool:
    encoded = compute.struct_field(images, "bytes")
    return encoded.null_count == 0 and encoded.nbytes < SMALL_IMAGE * len(images)
