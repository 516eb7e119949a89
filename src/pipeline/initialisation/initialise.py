"""Run the stage before fine-tuning."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.engine.device import prepare_device
from pipeline.engine.optimisation import Optimiser
from pipeline.engine.randomness import seeded
from pipeline.engine.streams import target_stream
from pipeline.engine.train import Window, Workspace, fit
from pipeline.images.cache import open_images
from pipeline.provenance import Provenance
from pipeline.tables import read_samples


def initialise(
    manifest: Path,
    images: Path,
    weights: Path,
    folder: Path,
    settings: Mapping[str, Any],
    provenance: Provenance,
) -> None:
    """Train the first share of a recipe's budget by the stage's own loss.

    Args:
        manifest: The target's manifest.
        images: Its decoded images.
        weights: The backbone to start from.
        folder: Gets ``weights.safetensors``, ``history.parquet`` and ``timings.parquet``.
        settings: The training part of a recipe with ``initialise`` and ``seed``.
        provenance: Kept in every file.
    """
    device, seed, stage = prepare_device(settings["threads"]), settings["seed"], settings["initialise"]
    samples = read_samples(manifest)
    backbone = load_backbone(weights).to(device)
    component = importlib.import_module(f"pipeline.initialisation.{stage['name']}")
    with seeded(seed, "initialisation"):
        learner = component.build(backbone, stage).to(device)
    preprocessing = backbone.description.preprocessing
    pixels = open_images(images, len(samples.ids))
    stream = target_stream(samples, samples.training_rows(), pixels, settings, preprocessing, seed, device)
    window = Window.of_budget(
        settings["budget"], stream.sampler.batches, settings["accumulate"], (0, stage["share"])
    )
    optimiser = Optimiser(settings["optimiser"], backbone.encoder, learner.heads)
    with Workspace(folder, stage["name"], provenance) as workspace:
        fit(learner, optimiser, {"target": stream}, settings, window, workspace)
        save_backbone(folder / "weights.safetensors", backbone, provenance)
        workspace.finish()
