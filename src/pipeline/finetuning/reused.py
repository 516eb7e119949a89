"""Which source images a selection stands for, and their batches."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import torch

from pipeline.datasets.subsets import kept_rows
from pipeline.engine.streams import ClassBalanced, ImageStream
from pipeline.errors import PipelineError, listed
from pipeline.images.originals import Originals
from pipeline.progress import log
from pipeline.tables import Samples, read_samples, read_table


@dataclass(frozen=True)
class SourceFiles:
    """Paths of what reuse reads.

    Attributes:
        manifest: The source's manifest.
        images: Its decoded images.
        membership: Which image is in which unit.
        selection: Which units are selected.
        leaks: Which images to leave out; None keeps all.
        originals: Its images at their own sizes, where crops are cut from them.
    """

    manifest: Path
    images: Path
    membership: Path
    selection: Path
    leaks: Path | None = None
    originals: Path | None = None


@dataclass(frozen=True)
class Reused:
    """The selected source images.

    Attributes:
        samples: All of the source.
        rows: Rows of the selected images, int64 (m,).
        units: Selected unit of each, int64 (m,).
        labels: Label of each, renumbered 0 .. len(classes) - 1, int64 (m,); -1 where not asked for.
        classes: The source's label of each renumbered one, int64; none where not asked for.
    """

    samples: Samples
    rows: np.ndarray
    units: np.ndarray
    labels: np.ndarray
    classes: np.ndarray


def selected_images(files: SourceFiles, labelled: bool, share: float = 1.0, draw: int = 0) -> Reused:
    """The images of the selected units, in the manifest's order.

    Args:
        files: What to read.
        labelled: Whether to give their labels, renumbered to the classes that occur.
        share: Of the images of each unit, rounded down, one at least.
        draw: Which images those are.

    Raises:
        PipelineError: If no image is selected, leaks are all that a unit has, one is not in the
            manifest, or one has no label that was asked for.
    """
    selection = read_table("selection", files.selection, ["unit_id", "name"], [("selected", "=", True)])
    membership = read_table("membership", files.membership)
    chosen = membership.filter(compute.is_in(membership["unit_id"], selection["unit_id"]))
    if not len(chosen):
        raise PipelineError(f"{files.selection}: no image of {files.membership} is selected")
    if files.leaks:
        chosen = _without_leaks(chosen, selection, files.leaks)
    if share < 1:  # of what may be reused
        chosen = chosen.filter(pa.array(_drawn(chosen, share, draw)))
    samples = read_samples(files.manifest)
    row_of = {sample: row for row, sample in enumerate(samples.ids)}
    try:
        found = np.array([row_of[sample] for sample in chosen["sample_id"].to_pylist()])
    except KeyError as error:
        raise PipelineError(f"{files.manifest}: has no sample {error}, which is selected") from error
    order = np.argsort(found)
    rows, units = found[order], chosen["unit_id"].to_numpy().astype(np.int64)[order]
    if not labelled:
        return Reused(samples, rows, units, np.full(len(rows), -1), np.empty(0, np.int64))
    labels = samples.labels[rows]
    if (labels < 0).any():
        raise PipelineError(
            f"{files.manifest}: {int((labels < 0).sum())} selected images have no label to reuse"
        )
    classes, renumbered = np.unique(labels, return_inverse=True)
    return Reused(samples, rows, units, renumbered.astype(np.int64), classes)


def kind_of_reuse(reuse: Mapping[str, Any]) -> ModuleType:
    """The module of `pipeline.reuse` that these settings name."""
    return importlib.import_module(f"pipeline.reuse.{reuse['name']}")


def reused_images(files: SourceFiles, reuse: Mapping[str, Any]) -> Reused:
    """The images that take part by these settings of reuse; errors are those of `selected_images`."""
    return selected_images(files, kind_of_reuse(reuse).LABELLED, reuse["share"], reuse["draw"])


def source_stream(
    reused: Reused,
    images: np.ndarray,
    sizes: Sequence[int],
    settings: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    seed: int,
    device: torch.device,
    originals: Originals | None = None,
) -> ImageStream:
    """Batches of the selected images, spread evenly over classes, or over units where labels are not used.

    Args:
        reused: The selected images.
        images: All decoded images of the source, uint8 (n, size, size, 3).
        sizes: Images of each batch of an epoch.
        settings: ``reuse``, and ``augmentation`` of the target.
        preprocessing: The backbone's.
        seed: Of draws and augmentation.
        device: Where batches go.
        originals: The images at their own sizes, where crops are cut from them.
    """
    kind = kind_of_reuse(settings["reuse"])
    return ImageStream(
        images=images,
        labels=reused.labels,
        samples=reused.rows,
        sample_ids=reused.samples.ids,
        sampler=ClassBalanced(reused.labels if kind.LABELLED else reused.units, sizes, seed),
        augmentations=kind.augmentations(settings["reuse"], settings["augmentation"], preprocessing),
        seed=seed,
        device=device,
        originals=originals,
    )


def _without_leaks(chosen: pa.Table, selection: pa.Table, leaks: Path) -> pa.Table:
    """The membership of images that are no copies of the target's validation or test images."""
    excluded = read_table("leaks", leaks, ["source_id"], [("excluded", "=", True)])["source_id"]
    kept = chosen.filter(compute.invert(compute.is_in(chosen["sample_id"], excluded)))
    log.info("%s of %s selected source images left out as leaks", len(chosen) - len(kept), len(chosen))
    units = set(chosen["unit_id"].to_pylist())
    emptied = units - set(kept["unit_id"].to_pylist())
    # Of units that are single images, some may go.
    if emptied and (len(units) < len(chosen) or not len(kept)):
        rows = [row for row in selection.to_pylist() if row["unit_id"] in emptied]
        names = [f"unit {row['unit_id']}, {row['name']}" for row in rows]
        raise PipelineError(
            f"{leaks}: all images of {len(names)} selected units are in the target's validation or test "
            "part, so nothing of them is left to reuse; select fewer units, lower leakage.hamming, or set "
            f"reuse.leaks to keep:\n{listed(names)}"
        )
    return kept


def _drawn(membership: pa.Table, share: float, draw: int) -> np.ndarray:
    """Which rows a share of each unit keeps, bool (n,), by the rule that thins a target (`subset`)."""
    rule = {"by": "share", "share": share, "rounding": "floor", "draw": draw}
    ids, units = membership["sample_id"].to_pylist(), membership["unit_id"].to_numpy()
    names, numbers = np.unique(units, return_inverse=True)
    return kept_rows(
        ids, numbers.astype(np.int32), names.astype(str).tolist(), np.full(len(ids), "train"), rule
    )
