"""Fine-tune one run and write its model, history, predictions and features."""

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbones.backbone import Backbone, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.backbones.kept import KeptEpochs
from pipeline.engine.device import prepare_device
from pipeline.engine.distances import spread
from pipeline.engine.memory import memory_advice
from pipeline.engine.optimisation import Optimiser
from pipeline.engine.randomness import seeded
from pipeline.engine.streams import ImageStream, target_stream
from pipeline.engine.train import fit, going_back
from pipeline.engine.window import Window
from pipeline.engine.workspace import Workspace
from pipeline.errors import PipelineError
from pipeline.finetuning.heads import head_of_pretraining
from pipeline.finetuning.learner import FineTuning
from pipeline.finetuning.outputs import write_outputs, write_tables
from pipeline.finetuning.reused import Reused, SourceFiles, kind_of_reuse, reused_images, source_stream
from pipeline.finetuning.target import Target, open_target
from pipeline.finetuning.validation import Validation
from pipeline.images.cache import open_images
from pipeline.images.originals import open_originals
from pipeline.initialisation.carried import take_over
from pipeline.objectives import Start
from pipeline.provenance import Provenance
from pipeline.reuse import Reuse


def finetune(
    manifest: Path,
    images: Path,
    weights: Path,
    folder: Path,
    source: SourceFiles | None,
    settings: Mapping[str, Any],
    provenance: Provenance,
    state: Path | None = None,
    carried: Path | None = None,
    originals: Path | None = None,
) -> None:
    """Train one run, or a part of one that may go on.

    Args:
        manifest: The target's manifest.
        images: Its decoded images.
        weights: The backbone, after the initialisation stage where the recipe has one.
        folder: Gets ``model.safetensors``, ``checkpoints`` and the tables ``history``, ``timings``,
            ``predictions`` and ``features``, and those of the objective.
        source: What reuse reads; None without reuse.
        settings: A recipe with ``run``, the keys of the run; ``fit_on``, the splits to train on;
            ``predict``, those to write predictions and features of; and ``until``, the share of the
            budget to train. With ``may_diverge`` a loss that is not finite ends the training, and the
            run counts as if it had not begun.
        provenance: Kept in every file.
        state: Folder of a training that goes on: what was trained there with another ``until`` is not
            trained again. None trains in `folder`, once.
        carried: Layers that the stage before hands over; None without a stage.
        originals: The target's images at their own sizes, where the backbone's preprocessing says that
            crops are cut from them.
    """
    device, seed = prepare_device(settings["threads"], settings["gpu"]), settings["run"]["seed"]
    pretrained = load_backbone(weights).to(device)
    target = open_target(manifest, images, pretrained.description.preprocessing, device)
    held_out = target.rows(settings["predict"])
    reused = reused_images(source, settings["reuse"]) if source else None
    with memory_advice(settings):  # some objectives measure the start on training images
        learner = _learner(pretrained, target, reused, settings, seed).to(device)
    if carried:
        take_over(carried, learner.carried)
    streams = _streams(learner, target, originals, source, reused, settings, seed)
    window = _window(streams["target"], settings, learner.objective.cycles)
    kept = KeptEpochs(folder, settings["keep_epochs"], window.epochs, provenance)
    with Workspace(folder, "finetuning", provenance, state, _identity(provenance)) as workspace:
        _fit(learner, target, streams, settings, window, workspace, kept)
        outputs = target.outputs(learner.backbone, held_out)
        if workspace.writes:
            write_outputs(folder, target.samples, held_out, *outputs, provenance)
            write_tables(folder, learner.objective.tables(), provenance)
            kept.hand_over()
            save_backbone(folder / "model.safetensors", learner.backbone, provenance)
            workspace.finish()
            kept.discard()


def _identity(provenance: Provenance) -> Provenance:
    """What trainings have in common that differ in how far they go."""
    settings = {key: value for key, value in provenance.settings.items() if key != "until"}
    return replace(provenance, settings=settings)


def _window(target: ImageStream, settings: Mapping[str, Any], cycles: int) -> Window:
    stage = settings["initialise"]
    share = stage.get("share", 0), 1
    window = Window.of_budget(settings["budget"], target.sampler.batches, settings["accumulate"], share)
    if cycles > 1 or stage.get("schedule") == "restart":
        window = window.in_cycles(cycles)
    return window.until(settings["until"])


def _streams(
    learner: FineTuning,
    target: Target,
    originals: Path | None,
    source: SourceFiles | None,
    reused: Reused | None,
    settings: Mapping[str, Any],
    seed: int,
) -> dict[str, ImageStream]:
    """Batches of the target and, with reuse, of the source."""
    preprocessing, device = learner.backbone.description.preprocessing, target.device
    stored = preprocessing.get("stored", "resized")
    rows, objective = target.samples.training_rows(*settings["fit_on"]), learner.objective
    stream = target_stream(
        target.samples,
        rows,
        target.pixels,
        settings,
        preprocessing,
        seed,
        device,
        objective.views,
        objective.draws,
        open_originals(originals, len(target.samples.ids), stored),
    )
    if source is None or reused is None:
        return {"target": stream}
    # As many source as target images in each batch unless told (UOT paper, section 4.1).
    size = settings["reuse"]["batch_size"]
    sizes = [size or len(positions) for positions in stream.sampler.epoch(0)]
    pixels = open_images(source.images, len(reused.samples.ids))
    larger = open_originals(source.originals, len(reused.samples.ids), stored)
    return {
        "target": stream,
        "source": source_stream(reused, pixels, sizes, settings, preprocessing, seed, device, larger),
    }


def _fit(
    learner: FineTuning,
    target: Target,
    streams: Mapping[str, ImageStream],
    settings: Mapping[str, Any],
    window: Window,
    workspace: Workspace,
    kept: KeptEpochs,
) -> None:
    """Train; where the loss may diverge, go back to the first weights if it does."""
    best = settings["checkpoint"] == "best"
    validation = target.samples.rows(*{"validation"}.intersection(settings["predict"]))
    if best and not len(validation):
        manifest = target.samples.manifest
        raise PipelineError(f"{manifest}: checkpoint: best needs a validation part, and it has none")

    optimiser = Optimiser(settings["optimiser"], learner.backbone.encoder, learner.heads, learner.pretrained)
    with going_back(learner, settings["may_diverge"]):
        fit(
            learner,
            optimiser,
            streams,
            settings,
            window,
            workspace,
            evaluate=Validation(target, validation, learner.backbone) if len(validation) else None,
            keep_best="top1" if best else None,
            after_epoch=lambda epoch: kept.keep(epoch, learner.backbone),
        )


def _start(pretrained: Backbone, model: Backbone, target: Target, fit_on: Sequence[str]) -> Start:
    """What an objective may know of the backbone before training."""

    def source_logits(part: str) -> tuple[np.ndarray, np.ndarray]:
        rows = target.samples.rows(part)
        logits, _ = target.outputs(pretrained, rows)
        return logits, target.samples.labels[rows]

    return Start(
        width=pretrained.width,
        class_names=target.samples.class_names,
        source_head=copy.deepcopy(pretrained.head),
        source_class_names=pretrained.description.class_names or [],
        source_logits=source_logits,
        pretrained=pretrained.eval().requires_grad_(False),
        backbone=model,
        training=lambda count: target.batches(spread(target.samples.training_rows(*fit_on), count)),
    )


def _learner(
    pretrained: Backbone, target: Target, reused: Reused | None, settings: Mapping[str, Any], seed: int
) -> FineTuning:
    classes = target.samples.class_names
    description = replace(pretrained.description, projection=None, class_names=classes)
    model = build_backbone(description, seed).to(target.device)
    if not settings["from_scratch"]:
        model.encoder.load_state_dict(pretrained.encoder.state_dict())
    frozen = "statistics" if settings["batch_norm"] == "frozen" else "nothing"
    model.freeze("encoder" if settings["trainable"] == "head" else frozen)
    objective, start = settings["objective"], _start(pretrained, model, target, settings["fit_on"])
    with seeded(seed, "learner"):
        component = importlib.import_module(f"pipeline.objectives.{objective['name']}")
        loss = component.build(objective, start)
        if reused is None:
            return FineTuning(model, loss)
        reuse = _reuse(settings, pretrained, reused)
    return FineTuning(model, loss, reuse, settings["reuse"]["batch_norm"])


def _reuse(settings: Mapping[str, Any], pretrained: Backbone, reused: Reused) -> Reuse:
    reuse = settings["reuse"]
    head = head_of_pretraining(pretrained, reused) if reuse.get("head") == "pretraining" else None
    return kind_of_reuse(reuse).build(reuse, pretrained.width, len(reused.classes), head)
