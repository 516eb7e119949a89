"""The digest of the files that a dataset is made of. Standard library only, for the Snakefile."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.datasets.files import csv_images, csv_root, image_files, parquet_files, read_csv
from pipeline.datasets.sets import load_set
from pipeline.datasets.sets.archive import Archive
from pipeline.provenance.content import content_digest


def dataset_digest(settings: Mapping[str, Any], index: Path | None = None) -> str | None:
    """Digest every file that decides what is in a dataset.

    Args:
        settings: A dataset entry.
        index: Remembers the digests of unchanged files; see `content_digest`.

    Returns:
        Sixteen hexadecimal digits. Of a published set, whose images do not change, only the lists of
        labels and parts count, and its images where it has none; None where it is not there. None for
        torchvision's sets, whose files torchvision checks.

    Raises:
        PipelineError: If a file is missing or cannot be read.
    """
    if settings["format"] == "torchvision":
        return None
    path = Path(settings["path"])
    if settings["format"] == "published":
        archive = Archive(load_set(settings["name"]), path)
        return None if archive.missing() else content_digest(archive.folder, index, archive.deciding_files())
    if settings["format"] == "image_folder":
        return content_digest(path, index, image_files(path))
    if settings["format"] == "parquet":
        return content_digest(path, index, [file.name for file in parquet_files(path)])
    root = csv_root(settings)
    images = csv_images(path, read_csv(path), settings["image"], root)
    parts = hashlib.sha256(path.read_bytes()).hexdigest() + content_digest(root, index, images)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]
