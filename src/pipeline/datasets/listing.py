"""What a reader hands over: the rows of a dataset, and its images on demand."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.tables.schemas import IMAGE

# Columns that go into the manifest as they are, where the data has them.
CARRIED = ("domain", "item")
# Images that a reader yields, and a thread checks, at a time.
BATCH = 100

ImageReader = Callable[[np.ndarray, Path], Iterator[pa.StructArray]]


@dataclass(frozen=True)
class Listing:
    """The rows of a dataset in any order, before an image is opened.

    Attributes:
        rows: ``sample_id`` (string); and where the data has them ``split`` (string, as the data calls
            the parts), ``label`` (int64 or string), ``class_name`` (string), ``domain`` and ``item``.
        images: ``images(order, scratch)`` yields structs of bytes and path for the given row numbers,
            in that order, in arrays of any length. It may keep a temporary file at `scratch`.
        locate: Says for the user where a row comes from: its file and line, or its path.
        class_names: Names by integer label, where the data declares them.
    """

    rows: pa.Table
    images: ImageReader
    locate: Callable[[int], str]
    class_names: list[str] | None = None

    def column(self, name: str) -> pa.ChunkedArray | None:
        """A column of `rows`, or None where the data does not have it."""
        return self.rows[name] if name in self.rows.column_names else None


def images_of_files(paths: Sequence[str]) -> ImageReader:
    """An image reader for images that stay where they are: bytes null, path as given."""

    def images(order: np.ndarray, scratch: Path) -> Iterator[pa.StructArray]:
        for start in range(0, len(order), BATCH):
            structs = [{"bytes": None, "path": paths[row]} for row in order[start : start + BATCH]]
            yield pa.array(structs, IMAGE)

    return images


def require_rows(path: Path, rows: int) -> None:
    """Raise PipelineError if a dataset has none."""
    if rows == 0:
        raise PipelineError(f"{path}: no images found")
