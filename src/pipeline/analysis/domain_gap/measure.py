"""Measure the domain gap of one run along its fine-tuning."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as compute
import torch

from pipeline.analysis.domain_gap.estimate import Estimate, estimate
from pipeline.analysis.domain_gap.gradients import (
    fitted_head,
    some_of_each,
    source_gradients,
    target_gradients,
)
from pipeline.backbones.backbone import Backbone, build_backbone
from pipeline.backbones.files import load_backbone, read_description
from pipeline.backbones.kept import kept_files
from pipeline.engine.device import prepare_device
from pipeline.engine.randomness import derive
from pipeline.errors import PipelineError
from pipeline.finetuning.reused import Reused, SourceFiles, reused_images
from pipeline.images.cache import open_images
from pipeline.provenance import Provenance, read_provenance
from pipeline.tables import Samples, read_samples, read_table, write_table


class RunFiles(NamedTuple):
    """Paths of what the analysis reads of one run.

    Attributes:
        manifest: The target's manifest.
        images: Its decoded images.
        start: The backbone that fine-tuning started from.
        model: What it ended with.
        checkpoints: Folder of the epochs that it kept.
        history: Its history.
    """

    manifest: Path
    images: Path
    start: Path
    model: Path
    checkpoints: Path
    history: Path


def measure(
    output: Path,
    files: RunFiles,
    sources: Sequence[SourceFiles],
    settings: Mapping[str, Any],
    provenance: Provenance,
) -> None:
    """Write a row for each pair of weights and selection.

    Args:
        output: The domain_gap table to write.
        files: The run.
        sources: A selection each, with its source; the run need not have been trained with it.
        settings: ``batches``, ``batch_size``, ``head_images``, ``threads``; ``selections``, the name of
            each of `sources`; and ``reuse``, how source images of each selection take part, by its name,
            or None where the run's own way counts.
        provenance: Kept in the table.

    Raises:
        PipelineError: If the model does not say what it was trained with, a selection has no image, or
            there is no test image to measure the target's gradient on.
    """
    device = prepare_device(settings["threads"])
    trained = _trained_with(files.model)
    settings = {**settings, "augmentation": trained["augmentation"]}
    run, seed = trained["run"], trained["run"]["seed"]
    samples = read_samples(files.manifest)
    pixels = open_images(files.images, len(samples.ids))
    held_out = samples.rows("test")
    sides = [
        _side(name, source, {**settings, "reuse": (settings["reuse"] or {}).get(name, trained["reuse"])})
        for name, source in zip(settings["selections"], sources, strict=True)
    ]
    rows = []
    for epoch, backbone in _along(files, {**trained, **settings}, samples, pixels, device):
        target = target_gradients(backbone, samples, pixels, held_out, settings, seed, device)
        for side in sides:
            source = source_gradients(backbone, side.reused, side.pixels, side.settings, seed, device)
            found = estimate(target, source)
            rows.append(_row(run, epoch, side.selection, settings, len(held_out), found))
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    write_table("domain_gap", output, columns, provenance)


class Side(NamedTuple):
    """The source images of one selection.

    Attributes:
        selection: Its name.
        reused: The images.
        pixels: All decoded images of the source, uint8 (n, size, size, 3).
        settings: How they take part.
    """

    selection: str
    reused: Reused
    pixels: np.ndarray
    settings: Mapping[str, Any]


def _side(selection: str, source: SourceFiles, settings: Mapping[str, Any]) -> Side:
    reused = reused_images(source, settings["reuse"])
    return Side(selection, reused, open_images(source.images, len(reused.samples.ids)), settings)


def _trained_with(model: Path) -> Mapping[str, Any]:
    """The settings that a run was trained with, those that a search decided too."""
    record = read_provenance(model)
    if record is None or "run" not in record.settings:
        raise PipelineError(f"{model}: does not say what it was trained with; expected the model of a run")
    return record.settings


def _along(
    files: RunFiles, settings: Mapping[str, Any], samples: Samples, pixels: np.ndarray, device: torch.device
) -> Iterator[tuple[int, Backbone]]:
    """Epoch and model, with a head for the target: at the start, at each kept epoch and at the end."""
    epochs = read_table("history", files.history, ["epoch"])["epoch"]
    yield compute.min(epochs).as_py() - 1, _start(files, settings, samples, pixels, device)
    end = compute.max(epochs).as_py()
    for epoch, file in kept_files(files.checkpoints):
        if epoch < end:
            yield epoch, load_backbone(file).to(device)
    yield end, load_backbone(files.model).to(device)


def _start(
    files: RunFiles, settings: Mapping[str, Any], samples: Samples, pixels: np.ndarray, device: torch.device
) -> Backbone:
    """The backbone at the start; its own head is drawn at random, so one is fitted on frozen features."""
    seed = settings["run"]["seed"]
    backbone = build_backbone(read_description(files.model), seed)
    if not settings["from_scratch"]:
        backbone.encoder.load_state_dict(load_backbone(files.start).encoder.state_dict())
    backbone.to(device)
    rows = samples.training_rows(*settings["fit_on"])
    absent = np.setdiff1d(np.arange(len(samples.class_names)), samples.labels[rows])
    if len(absent):
        raise PipelineError(
            f"{samples.manifest}: class {samples.class_names[absent[0]]!r} has no image in "
            f"{' or '.join(settings['fit_on'])}, so no head can be fitted at the start"
        )
    rows = rows[some_of_each(samples.labels[rows], settings["head_images"], derive(seed, "domain gap"))]
    backbone.head = fitted_head(backbone, pixels, rows, samples.labels[rows], device)
    return backbone


def _row(
    run: Mapping[str, Any],
    epoch: int,
    selection: str,
    settings: Mapping[str, Any],
    images: int,
    found: Estimate,
) -> dict[str, Any]:
    return {
        **run,
        "epoch": epoch,
        "measured": selection,
        "batches": settings["batches"],
        "batch_size": settings["batch_size"],
        "target_images": images // settings["batches"] * settings["batches"],
        **found._asdict(),
    }
