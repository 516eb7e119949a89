"""Hashes of images: of their pixels, and of how they look."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

from pipeline.images.decode import decode_image, image_source
from pipeline.images.shards import shard_batches, shard_bounds
from pipeline.images.threads import map_in_order
from pipeline.progress import bar
from pipeline.provenance import Provenance
from pipeline.tables import SCHEMAS, write_table

# Images that a thread hashes at a time.
BATCH = 256
# Side of the picture that the perceptual hash is made of: 8 x 8 of its 32 x 32 frequencies.
SIDE = 32
# Standard deviation of its grey levels, 0 to 255, below which rounding decides the signs of its
# frequencies: all blank images would have one hash. The faintest of 34,500 doodles has 12.
FLAT = 2.0


class Hashes(NamedTuple):
    """Hashes of one image.

    Attributes:
        pixels: SHA-256 of size and RGB pixels, 32 bytes.
        perceptual: pHash, 64 bits; None of a flat image.
        difference: dHash, 64 bits; None of a flat image.
    """

    pixels: bytes
    perceptual: int | None
    difference: int | None


def hash_images(
    manifest: Path, output: Path, shard: tuple[int, int], threads: int, provenance: Provenance
) -> None:
    """Write the hashes of one contiguous part of a manifest's rows, of the original images.

    Args:
        manifest: Table of images.
        output: A hashes table, in the manifest's order.
        shard: Number from 0, and how many there are; where they are cut changes no row.
        threads: Threads that decode and hash, each a batch.
        provenance: Kept in the table.

    Raises:
        PipelineError: If an image cannot be decoded, naming it.
    """
    file = parquet.ParquetFile(manifest)
    first, last = shard_bounds(file.metadata.num_rows, BATCH, *shard)
    batches = shard_batches(file, ["sample_id", "split", "image"], first, last, BATCH)
    empty = {name: pa.array([], kind) for name, kind in SCHEMAS["hashes"].columns.items()}
    parts = [pa.table(empty)]
    with bar("hashes", "image", last - first) as progress:
        for part in map_in_order(_hash_batch, batches, threads):
            parts.append(part)
            progress.update(len(part))
    write_table("hashes", output, pa.concat_tables(parts).unify_dictionaries(), provenance)


def hash_image(image: Image.Image) -> Hashes:
    """The hashes of one decoded image.

    The first is of pixels and not of the file, so that copies are found in any lossless format and
    with any metadata. pHash (signs of the lowest frequencies) and dHash (signs of horizontal
    differences) are ImageHash's, 8 x 8 bits each.

    Args:
        image: RGB, any size.
    """
    digest = hashlib.sha256(f"{image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    grey = image.convert("L")
    # What imagehash.phash starts with, done once.
    small = grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    if np.asarray(small).std() < FLAT:
        return Hashes(digest.digest(), None, None)
    perceptual, difference = imagehash.phash(small), imagehash.dhash(grey)
    return Hashes(digest.digest(), _as_integer(perceptual.hash), _as_integer(difference.hash))


def _hash_batch(rows: pa.Table) -> pa.Table:
    samples = zip(rows["image"].to_pylist(), rows["sample_id"].to_pylist(), strict=True)
    found = [hash_image(decode_image(image_source(image, sample), sample)) for image, sample in samples]
    types = SCHEMAS["hashes"].columns
    columns = {
        "sample_id": rows["sample_id"],
        "split": rows["split"].cast(types["split"]),
        **{
            name: pa.array([getattr(hashes, name) for hashes in found], types[name])
            for name in Hashes._fields
        },
    }
    return pa.table(columns)


def _as_integer(bits: np.ndarray) -> int:
    return int.from_bytes(np.packbits(bits.ravel()).tobytes(), "big")
