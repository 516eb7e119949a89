"""From a listing to the manifest: labels, parts, every image checked, rows in order of sample_id."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipeline.datasets.labels import dense_labels
from pipeline.datasets.listing import BATCH, CARRIED, Listing
from pipeline.datasets.splits import cut_parts, named_parts, require_training_images
from pipeline.datasets.subsets import kept_rows
from pipeline.errors import PipelineError, listed
from pipeline.images.decode import decode_image, image_source
from pipeline.images.threads import map_in_order
from pipeline.progress import bar
from pipeline.provenance import Provenance
from pipeline.tables import table_writer
from pipeline.tables.io import ROW_GROUP
from pipeline.tables.schemas import IMAGE, NAME, SCHEMAS


def write_manifest(
    listing: Listing, output: Path, settings: Mapping[str, Any], provenance: Provenance, threads: int
) -> None:
    """Write the manifest of a listing. What can be refused without opening an image is refused first.

    Args:
        listing: What the reader found.
        output: A manifest table; ``class_names`` (JSON) go into its metadata.
        settings: The dataset entry.
        provenance: Kept in the table.
        threads: Threads that decode.

    Raises:
        PipelineError: If names, labels, parts or images are not sound; of bad images the first ten
            are named at once.
    """
    rows, class_names = arrange(listing, settings)
    extra = {"class_names": json.dumps(class_names, ensure_ascii=False)}
    images = listing.images(rows["row"].to_numpy(), output.with_name(f".{output.name}.images.tmp"))
    checked = map_in_order(check_images, _named_batches(images, rows["sample_id"]), threads)
    rows = rows.drop_columns("row")
    bad: list[str] = []
    start = 0
    with (
        table_writer("manifest", output, provenance, extra) as write,
        bar("checking images", "images", len(rows)) as progress,
    ):
        while group := list(islice(checked, ROW_GROUP["manifest"] // BATCH)):
            bad += [problem for _, problems in group for problem in problems]
            part = pa.concat_tables([table for table, _ in group])
            if not bad:
                described = rows.slice(start, len(part))
                write(pa.table([*described, *part], names=described.column_names + part.column_names))
            start += len(part)
            progress.update(len(part))
        if bad:
            raise PipelineError(f"{len(bad)} of {len(rows)} images cannot be used:\n{listed(bad)}")


def arrange(listing: Listing, settings: Mapping[str, Any]) -> tuple[pa.Table, list[str]]:
    """The manifest's rows without images, in order of sample_id, and the class names in label order.

    The column ``row`` is the number of each row in the listing.

    Raises:
        PipelineError: As `write_manifest` does, images apart.
    """
    _refuse_duplicates(listing)
    labels, class_names = dense_labels(listing, settings["classes"])
    sample_ids = listing.rows["sample_id"].to_pylist()
    split = listing.column("split")
    parts = named_parts(split.to_pylist() if split is not None else None, len(sample_ids))
    if settings["split"] is not None:
        parts = cut_parts(sample_ids, labels, class_names, parts, settings["split"])
    require_training_images(labels, class_names, parts)
    order = compute.sort_indices(listing.rows["sample_id"]).to_numpy()
    if settings["subset"] is not None:
        kept = kept_rows(sample_ids, labels, class_names, parts, settings["subset"])
        order = order[kept[order]]
    columns = {
        "row": pa.array(order, pa.int64()),
        "sample_id": listing.rows["sample_id"].take(order),
        "split": pa.array(parts[order]).dictionary_encode(),
        "label": pa.nulls(len(order), pa.int32()),
        "class_name": pa.nulls(len(order), NAME),
    }
    if labels is not None:
        columns["label"] = pa.array(labels[order])
        columns["class_name"] = pa.array(class_names).take(columns["label"]).dictionary_encode()
    for name in CARRIED:
        if (column := listing.column(name)) is not None:
            columns[name] = column.take(order).cast(SCHEMAS["manifest"].optional[name])
    return pa.table(columns), class_names


def check_images(batch: tuple[pa.StructArray, list[str]]) -> tuple[pa.Table, list[str]]:
    """Decode images to see that they are sound.

    Args:
        batch: Structs of bytes and path, and the samples' names.

    Returns:
        A table of image, width and height (upright; 0 where the image is bad), and a message for
        every bad image.
    """
    images, names = batch
    sizes = np.zeros((len(images), 2), dtype=np.int32)
    problems = []
    for position, (image, name) in enumerate(zip(images.to_pylist(), names, strict=True)):
        try:
            sizes[position] = decode_image(image_source(image, name), name).size
        except PipelineError as error:
            problems.append(str(error))
    return pa.table({"image": images, "width": sizes[:, 0], "height": sizes[:, 1]}), problems


def _named_batches(
    arrays: Iterable[pa.StructArray], sample_ids: pa.ChunkedArray
) -> Iterator[tuple[pa.StructArray, list[str]]]:
    """Images in arrays of `BATCH`, whatever the reader's, with their names."""
    waiting = pa.array([], IMAGE)
    start = 0
    for array in arrays:
        waiting = pa.concat_arrays([waiting, array])
        while len(waiting) >= BATCH or (len(waiting) and start + len(waiting) == len(sample_ids)):
            ready, waiting = waiting[:BATCH], waiting[BATCH:]
            yield ready, sample_ids.slice(start, len(ready)).to_pylist()
            start += len(ready)


def _refuse_duplicates(listing: Listing) -> None:
    names = listing.rows["sample_id"]
    order = compute.sort_indices(names).to_numpy()
    ordered = names.take(order)
    same = np.flatnonzero(compute.equal(ordered[1:], ordered[:-1]).to_numpy())
    if len(same):
        places = [
            f"{ordered[place]}: {listing.locate(order[place])} and {listing.locate(order[place + 1])}"
            for place in same[:10]
        ]
        raise PipelineError(f"{len(same)} names of samples occur twice:\n{listed(places, len(same))}")
