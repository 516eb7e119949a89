"""Published image sets, read from their official archives with the official parts, and counted."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.datasets.listing import Listing, images_of_files
from pipeline.datasets.sets import NAMES, load_set
from pipeline.datasets.sets.archive import Archive, Images, PublishedSet
from pipeline.datasets.splits import draw_per_class
from pipeline.errors import PipelineError, did_you_mean, listed


def read(settings: Mapping[str, Any]) -> Listing:
    """List a set. It is refused before an image is opened if its counts are not those expected.

    Raises:
        PipelineError: If there is no such set, its archive is not there or not whole, or its counts
            differ, with both numbers.
    """
    name, counter = settings["name"], settings["counts"]
    if name not in NAMES:
        raise PipelineError(
            f"name: found {name!r}; allowed: {', '.join(NAMES)}{did_you_mean(str(name), NAMES)}"
        )
    entry = load_set(name)
    if counter not in entry.counts:
        raise PipelineError(f"counts: found {counter!r}; of {name} there are: {', '.join(entry.counts)}")
    archive = Archive(entry, Path(settings["path"]))
    archive.require()
    images = _listed(archive, counter)
    sample_ids = [row.path for row in images.rows]
    labels = np.array([row.label for row in images.rows], np.int64)
    if entry.train_per_class is None:
        parts = [str(row.part) for row in images.rows]
    else:
        seed = settings["split"]["seed"]
        parts = draw_per_class(sample_ids, labels, images.class_names, entry.train_per_class, seed)
    check_counts(entry, counter, images, parts, archive.folder)
    paths = [str(archive.folder / path) for path in sample_ids]
    _require_files(entry, paths)
    return Listing(
        rows=pa.table({"sample_id": sample_ids, "split": parts, "label": labels}),
        images=images_of_files(paths),
        locate=paths.__getitem__,
        class_names=images.class_names,
    )


def check_counts(entry: PublishedSet, counter: str, images: Images, parts: list[str], folder: Path) -> None:
    """Raise PipelineError, with both numbers, unless a set holds what `counter` counted.

    Args:
        entry: The set.
        counter: ``official`` or a paper.
        images: What was found.
        parts: Part of each image.
        folder: Named in the message.
    """
    found = Counter(parts)
    found["images"] = len(parts)
    found["classes"] = len({row.label for row in images.rows})
    found["train and validation"] = found["train"] + found["validation"]
    problems = [
        f"{what}: found {found[what]:,}, expected {count:,}"
        for what, count in entry.expected(counter).items()
        if found[what] != count
    ]
    if problems:
        problems += [
            f"{what}: the paper prints {entry.counts[counter][what]:,}; {erratum.reason}"
            for (source, what), erratum in entry.errata.items()
            if source == counter
        ]
        whose = "its archive" if counter == "official" else f"the paper {counter!r}"
        raise PipelineError(f"{folder}: not {entry.title} as {whose} counts it:\n{listed(problems)}")


def _listed(archive: Archive, counter: str) -> Images:
    """The images of an archive; PipelineError where its lists do not fit one another."""
    try:
        return archive.entry.list_images(archive, counter)
    except (KeyError, ValueError, IndexError) as error:
        raise PipelineError(
            f"{archive.folder}: damaged, or of another set: {', '.join(archive.entry.files)} do not fit one "
            f"another ({type(error).__name__}: {error})"
        ) from error


def _require_files(entry: PublishedSet, paths: list[str]) -> None:
    """Raise PipelineError if a listed image is not there."""
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise PipelineError(
            f"{len(missing)} of {len(paths)} images that {entry.title} lists are missing:\n{listed(missing)}"
        )
