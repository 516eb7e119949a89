"""Images decoded at their own sizes, in one memory-mapped file, from which crops are cut."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images.cache import count_rows
from pipeline.images.decode import decode_image, image_source
from pipeline.images.threads import map_in_order
from pipeline.progress import bar
from pipeline.tables import atomic_path, read_batches

# Images of a record batch, which is held in memory while it is written.
BATCH = 16
# Pixels row by row, three bytes each, so that an image is a slice of the file.
SCHEMA = pa.schema({"height": pa.int32(), "width": pa.int32(), "pixels": pa.large_binary()})


class Originals:
    """Decoded images of any size, read through a memory map.

    Args:
        path: The Arrow file that `write_originals` made.
        rows: How many images the manifest has, to refuse the file of another one.

    Raises:
        PipelineError: If the file is missing, truncated, or holds something else.
    """

    def __init__(self, path: Path, rows: int):
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        except FileNotFoundError as error:
            raise PipelineError(f"{path}: no such file of decoded images") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise PipelineError(f"{path}: not a readable Arrow file, perhaps truncated ({error})") from error
        if self._file.schema != SCHEMA:
            raise PipelineError(f"{path}: found columns {self._file.schema.names}, expected {SCHEMA.names}")
        batches = self._file.num_record_batches
        found = (batches - 1) * BATCH + len(self._file.get_batch(batches - 1)) if batches else 0
        if found != rows:
            raise PipelineError(f"{path}: holds {found} images, its manifest {rows}")

    def image(self, row: int) -> np.ndarray:
        """One image, uint8 (height, width, 3); read from the disk as far as it is used."""
        batch = self._file.get_batch(row // BATCH)
        height, width, pixels = (batch.column(name)[row % BATCH] for name in SCHEMA.names)
        flat = np.frombuffer(pixels.as_buffer(), np.uint8)
        return flat.reshape(height.as_py(), width.as_py(), 3)

    def sides(self, rows: np.ndarray) -> np.ndarray:
        """Height and width of images in pixels, int64 (n, 2)."""
        return np.array([self.image(row).shape[:2] for row in rows.tolist()], np.int64).reshape(-1, 2)

    def crop(self, rows: np.ndarray, boxes: np.ndarray, size: int, workers: int) -> np.ndarray:
        """A box of each image, resized to a square: bilinear, antialiased, as torchvision's resized_crop.

        Args:
            rows: Which images, int64 (n,).
            boxes: Top, left, height and width in pixels, int64 (n, 4), inside the images.
            size: Side of the squares.
            workers: Threads; their number changes nothing.

        Returns:
            uint8 (n, size, size, 3).
        """

        def cut(given: tuple[np.ndarray, list[int]]) -> np.ndarray:
            pixels, (top, left, height, width) = given
            part = Image.fromarray(pixels[top : top + height, left : left + width])
            return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))

        images = (self.image(row) for row in rows.tolist())
        squares = map_in_order(cut, zip(images, boxes.tolist(), strict=True), workers)
        return np.stack(list(squares)) if len(rows) else np.empty((0, size, size, 3), np.uint8)


def open_originals(path: Path | None, rows: int, stored: str) -> Originals | None:
    """The images that crops are cut from; None where they are cut from the squares.

    Args:
        path: The file; None where there is none.
        rows: How many images the manifest has.
        stored: Of the backbone's preprocessing: ``resized`` or ``original``.

    Raises:
        PipelineError: If the file and what is stored contradict each other.
    """
    if (path is not None) != (stored == "original"):
        found = "none is" if path is None else f"{path} is"
        raise PipelineError(
            f"preprocessing.stored is {stored}, and {found} given to cut crops from; the options that name "
            "originals belong to stored: original"
        )
    return Originals(path, rows) if path is not None else None


def write_originals(manifest: Path, output: Path, threads: int) -> None:
    """Write the images of `manifest`, upright and in RGB, at their own sizes.

    Raises:
        PipelineError: If the manifest is unreadable or empty, or an image cannot be decoded.
    """
    rows = count_rows(manifest)
    batches = _full(read_batches(manifest, ["sample_id", "image"], BATCH))
    with (
        atomic_path(output) as temporary,
        pa.ipc.new_file(temporary, SCHEMA) as file,
        bar("decoding", "images", rows) as progress,
    ):
        for decoded in map_in_order(_decoded, batches, threads):
            file.write_batch(decoded)
            progress.update(len(decoded))


def _full(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Batches of `BATCH` rows, the last aside, whatever the row groups of a manifest."""
    waiting: pa.Table | None = None
    for batch in batches:
        waiting = batch if waiting is None else pa.concat_tables([waiting, batch])
        while len(waiting) >= BATCH:
            yield waiting.slice(0, BATCH)
            waiting = waiting.slice(BATCH)
    if waiting is not None and len(waiting):
        yield waiting


def _decoded(rows: pa.Table) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for image, sample in zip(rows["image"].to_pylist(), rows["sample_id"].to_pylist(), strict=True):
        pixels = np.asarray(decode_image(image_source(image, sample), sample))
        for name, value in zip(columns, (*pixels.shape[:2], pixels.tobytes()), strict=True):
            columns[name].append(value)
    return pa.RecordBatch.from_pydict(columns, SCHEMA)
