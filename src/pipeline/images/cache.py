"""The cache of decoded images: one uint8 array of shape (n, size, size, 3) in a .npy file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from pipeline.errors import PipelineError
from pipeline.images.decode import decode_batches
from pipeline.progress import bar
from pipeline.tables import atomic_path, read_batches
from pipeline.tables.io import check_schema

# Images that a thread decodes at a time.
BATCH = 256


def open_images(path: Path, rows: int | None = None) -> np.memmap:
    """Map a cache of decoded images into memory, read-only.

    Args:
        path: The .npy file that ``python -m pipeline.images`` wrote.
        rows: How many images the manifest has, to refuse the cache of another one.

    Returns:
        uint8 array of shape (n, size, size, 3), in the manifest's order.

    Raises:
        PipelineError: If the file is missing, truncated, or holds something else.
    """
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: no such cache of images") from error
    except (ValueError, EOFError) as error:
        raise PipelineError(f"{path}: not a readable .npy file, perhaps truncated ({error})") from error
    square = images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 3
    if images.dtype != np.uint8 or not square:
        raise PipelineError(
            f"{path}: found {images.dtype} of shape {images.shape}, expected uint8 (n, size, size, 3)"
        )
    if rows is not None and len(images) != rows:
        raise PipelineError(f"{path}: holds {len(images)} images, its manifest {rows}")
    return images


def write_images(manifest: Path, output: Path, size: int, threads: int) -> None:
    """Write the images of `manifest` as a uint8 array of shape (n, size, size, 3).

    The array is written front to back, not through a memory map: a full disk is then an error and
    not a killed process.

    Raises:
        PipelineError: If the manifest is unreadable or empty, or an image cannot be decoded.
    """
    rows = count_rows(manifest)
    batches = read_batches(manifest, ["sample_id", "image"], BATCH)
    shape = (rows, size, size, 3)
    with atomic_path(output) as temporary, temporary.open("wb") as array:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(array, header)
        with bar("decoding", "images", rows) as progress:
            for batch, pixels in decode_batches(batches, size, threads):
                array.write(pixels.data)
                progress.update(len(batch))


def count_rows(path: Path) -> int:
    """How many images a manifest has, after a check that it is one."""
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"{path}: not a readable manifest ({error})") from error
    check_schema("manifest", file.schema_arrow, path)
    if file.metadata.num_rows == 0:
        raise PipelineError(f"{path}: this manifest has no images")
    return file.metadata.num_rows
