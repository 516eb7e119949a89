"""Pre-train one backbone."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.backbones.backbone import Backbone, Description, build_backbone
from pipeline.backbones.files import save_backbone
from pipeline.backbones.kept import KeptEpochs
from pipeline.engine.augmentation import Augmentation, Normalisation
from pipeline.engine.device import prepare_device
from pipeline.engine.inference import forward_all
from pipeline.engine.optimisation import Optimiser
from pipeline.engine.randomness import seeded
from pipeline.engine.streams import ImageStream, Shuffled
from pipeline.engine.train import fit
from pipeline.engine.window import Window
from pipeline.engine.workspace import Workspace
from pipeline.images.cache import open_images
from pipeline.images.originals import open_originals
from pipeline.provenance import Provenance
from pipeline.tables import Samples, read_samples

WEIGHTS = "weights.safetensors"


def pretrain(
    manifest: Path,
    images: Path,
    folder: Path,
    settings: Mapping[str, Any],
    provenance: Provenance,
    originals: Path | None = None,
) -> None:
    """Train on the source's training part and write weights, history, timings and checkpoints.

    Args:
        manifest: The source's manifest.
        images: Its decoded images.
        folder: Gets ``weights.safetensors``, ``history.parquet``, ``timings.parquet`` and
            ``checkpoints/epoch_0001.safetensors`` for each of ``keep_epochs``.
        settings: A backbone entry of origin ``pretraining``.
        provenance: What goes into every file.
        originals: The images at their own sizes, where the preprocessing says that crops are cut from them.
    """
    method, seed = settings["method"], settings["seed"]
    device = prepare_device(method["threads"], method["gpu"])
    samples = read_samples(manifest)
    pixels = open_images(images, len(samples.ids))
    backbone = build_backbone(_description(settings, samples), seed).to(device)
    component = importlib.import_module(f"pipeline.pretraining.{method['name']}")
    with seeded(seed, "learner"):
        learner = component.build(backbone, method).to(device)
    rows = samples.training_rows()
    stream = ImageStream(
        images=pixels,
        labels=samples.labels[rows],
        samples=rows,
        sample_ids=samples.ids,
        sampler=Shuffled(len(rows), method["batch_size"], seed),
        augmentations=[Augmentation(method["augmentation"], settings["preprocessing"])] * component.VIEWS,
        seed=seed,
        device=device,
        originals=open_originals(
            originals, len(samples.ids), settings["preprocessing"].get("stored", "resized")
        ),
    )
    window = Window.of_budget(method["budget"], stream.sampler.batches, method["accumulate"])
    kept = KeptEpochs(folder, settings["keep_epochs"], window.epochs, provenance)
    with Workspace(folder, "pretraining", provenance) as workspace:
        fit(
            learner,
            Optimiser(method["optimiser"], backbone.encoder, learner.heads),
            {"source": stream},
            method,
            window,
            workspace,
            evaluate=_evaluation(backbone, samples, pixels, settings, device),
            after_epoch=lambda epoch: kept.keep(epoch, backbone),
        )
        if workspace.writes:
            kept.hand_over()
            save_backbone(folder / WEIGHTS, backbone, provenance)
            workspace.finish()
            kept.discard()


def _description(settings: Mapping[str, Any], samples: Samples) -> Description:
    supervised = settings["method"]["name"] == "supervised"
    return Description(
        settings["architecture"],
        settings["preprocessing"],
        settings["method"].get("projection"),
        samples.class_names if supervised else None,
    )


def _evaluation(
    backbone: Backbone,
    samples: Samples,
    pixels: np.ndarray,
    settings: Mapping[str, Any],
    device: torch.device,
) -> Callable[[], dict[str, float]] | None:
    rows, head = samples.rows("validation"), backbone.head
    if head is None or not len(rows):
        return None
    normalise = Normalisation(settings["preprocessing"])

    def evaluate() -> dict[str, float]:
        return accuracy(backbone, head, pixels, rows, samples.labels[rows], normalise, device)

    return evaluate


def accuracy(
    backbone: Backbone,
    head: nn.Module,
    pixels: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    normalise: Normalisation,
    device: torch.device,
) -> dict[str, float]:
    """Top-1 accuracy of `head` on the given rows, in 0..1."""
    (logits,) = forward_all(
        backbone, lambda images: (head(backbone(images)),), pixels, rows, normalise, device
    )
    return {"top1": float((logits.argmax(1) == labels).mean())}
