"""Run the stage before fine-tuning."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.engine.augmentation import Normalisation
from pipeline.engine.device import prepare_device
from pipeline.engine.distances import FeatureDistance
from pipeline.engine.inference import forward_all
from pipeline.engine.learner import Learner
from pipeline.engine.optimisation import Optimiser
from pipeline.engine.randomness import seeded
from pipeline.engine.streams import ImageStream, target_stream
from pipeline.engine.train import fit, going_back
from pipeline.engine.window import Window
from pipeline.engine.workspace import Workspace
from pipeline.images.cache import open_images
from pipeline.images.originals import open_originals
from pipeline.initialisation.carried import save_carried
from pipeline.provenance import Provenance
from pipeline.s_dbw import s_dbw_where_defined
from pipeline.tables import Samples, read_samples


def initialise(
    manifest: Path,
    images: Path,
    weights: Path,
    folder: Path,
    settings: Mapping[str, Any],
    provenance: Provenance,
    originals: Path | None = None,
) -> None:
    """Train the first share of a recipe's budget by the stage's own loss.

    Args:
        manifest: The target's manifest.
        images: Its decoded images.
        weights: The backbone to start from.
        folder: Gets ``weights.safetensors``, ``carried.safetensors``, ``history.parquet`` and
            ``timings.parquet``.
        settings: The training part of a recipe with ``initialise``, ``batch_norm``, ``fit_on``,
            ``may_diverge`` and ``seed``.
        provenance: Kept in every file.
        originals: The images at their own sizes, where the backbone's preprocessing says that crops are
            cut from them.
    """
    device = prepare_device(settings["threads"], settings["gpu"])
    seed, stage = settings["seed"], settings["initialise"]
    samples = read_samples(manifest)
    backbone = load_backbone(weights).to(device)
    if settings["batch_norm"] == "frozen":
        backbone.freeze("statistics")
    component = importlib.import_module(f"pipeline.initialisation.{stage['name']}")
    with seeded(seed, "initialisation"):
        learner = component.build(backbone, stage, samples.class_names).to(device)
    with Workspace(folder, stage["name"], provenance) as workspace:
        if "share" in stage:
            _train(learner, backbone, samples, images, originals, settings, workspace)
        if workspace.writes:
            save_backbone(folder / "weights.safetensors", backbone, provenance)
            save_carried(folder / "carried.safetensors", learner.carried, provenance)
        workspace.finish()


def _train(
    learner: Learner,
    backbone: Backbone,
    samples: Samples,
    images: Path,
    originals: Path | None,
    settings: Mapping[str, Any],
    workspace: Workspace,
) -> None:
    stage, preprocessing = settings["initialise"], backbone.description.preprocessing
    stream = target_stream(
        samples,
        samples.training_rows(*settings["fit_on"]),
        open_images(images, len(samples.ids)),
        settings,
        preprocessing,
        settings["seed"],
        next(backbone.parameters()).device,
        originals=open_originals(originals, len(samples.ids), preprocessing.get("stored", "resized")),
    )
    window = Window.of_budget(
        settings["budget"], stream.sampler.batches, settings["accumulate"], (0, stage["share"])
    )
    if stage["schedule"] == "restart":
        window = window.in_cycles(1)
    validation = samples.rows(*{"validation"}.difference(settings["fit_on"]))
    evaluate = _evaluation(backbone, stream, validation, samples.labels[validation])
    optimiser = Optimiser(settings["optimiser"], backbone.encoder, learner.heads)
    with going_back(learner, settings["may_diverge"]):
        fit(learner, optimiser, {"target": stream}, settings, window, workspace, evaluate=evaluate)


def _evaluation(
    backbone: Backbone, stream: ImageStream, rows: np.ndarray, labels: np.ndarray
) -> Callable[[], dict[str, float]] | None:
    """How far features of the validation part move from here on, and how they stand to its classes."""
    if not len(rows):
        return None
    normalise = Normalisation(backbone.description.preprocessing)

    def features(some: np.ndarray) -> np.ndarray:
        (found,) = forward_all(
            backbone, lambda images: (backbone(images),), stream.images, rows[some], normalise, stream.device
        )
        return found

    moved = FeatureDistance(len(rows), features)

    def evaluate() -> dict[str, float]:
        found = features(np.arange(len(rows)))
        return {"feature_distance": moved.of(found), **s_dbw_where_defined(found, labels)}

    return evaluate
