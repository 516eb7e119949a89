"""Fine-tune one run and write its model, history, predictions and features."""

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.backbones.backbone import Backbone, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.engine.augmentation import Normalisation
from pipeline.engine.device import prepare_device
from pipeline.engine.inference import forward_all
from pipeline.engine.optimisation import Optimiser
from pipeline.engine.randomness import seeded
from pipeline.engine.streams import target_stream
from pipeline.engine.train import DivergedError, Window, Workspace, fit
from pipeline.errors import PipelineError
from pipeline.finetuning.learner import FineTuning
from pipeline.finetuning.reused import Reused, SourceFiles, kind_of_reuse, selected_images, source_stream
from pipeline.images.cache import open_images
from pipeline.objectives import Start, Tables
from pipeline.progress import log
from pipeline.provenance import Provenance
from pipeline.reuse import Reuse
from pipeline.tables import Samples, feature_column, read_samples, write_table

# What objectives may keep beside the model.
OBJECTIVE_TABLES = ("relationship",)


def finetune(
    manifest: Path,
    images: Path,
    weights: Path,
    folder: Path,
    source: SourceFiles | None,
    settings: Mapping[str, Any],
    provenance: Provenance,
) -> None:
    """Train one run.

    Args:
        manifest: The target's manifest.
        images: Its decoded images.
        weights: The backbone, after the initialisation stage where the recipe has one.
        folder: Gets ``model.safetensors`` and the tables ``history``, ``timings``,
            ``predictions`` and ``features``, and those of the objective.
        source: What reuse reads; None without reuse.
        settings: A recipe with ``run``, the keys of the run; ``fit_on``, the splits to train on; and
            ``predict``, those to write predictions and features of. With ``may_diverge`` a loss that
            is not finite ends the training, and the run counts as if it had not begun.
        provenance: Kept in every file.
    """
    device, seed = prepare_device(settings["threads"]), settings["run"]["seed"]
    samples = read_samples(manifest)
    fitted, held_out = samples.training_rows(*settings["fit_on"]), _held_out(samples, settings["predict"])
    validation = samples.rows("validation") if "validation" in settings["predict"] else held_out[:0]
    if settings["checkpoint"] == "best" and not len(validation):
        raise PipelineError(f"{manifest}: checkpoint: best needs a validation part, and it has none")
    pixels = open_images(images, len(samples.ids))
    pretrained = load_backbone(weights).to(device)
    preprocessing = pretrained.description.preprocessing
    normalise = Normalisation(preprocessing)
    reused = _reused(source, settings) if source else None
    start = _start(pretrained, samples, pixels, normalise, device)
    learner = _learner(pretrained, start, reused, settings, seed).to(device)
    target = target_stream(samples, fitted, pixels, settings, preprocessing, seed, device)
    streams = {"target": target}
    if source and reused:
        # As many source as target images in each batch unless told (UOT paper, section 4.1).
        size = settings["reuse"]["batch_size"]
        sizes = [size or len(positions) for positions in target.sampler.epoch(0)]
        source_pixels = open_images(source.images, len(reused.samples.ids))
        streams["source"] = source_stream(reused, source_pixels, sizes, settings, preprocessing, seed, device)

    def evaluate() -> dict[str, float]:
        logits, _ = _outputs(learner.backbone, pixels, validation, normalise, device)
        return {"top1": float((logits.argmax(1) == samples.labels[validation]).mean())}

    share = settings["initialise"].get("share", 0), 1
    window = Window.of_budget(settings["budget"], target.sampler.batches, settings["accumulate"], share)
    optimiser = Optimiser(settings["optimiser"], learner.backbone.encoder, learner.heads, learner.pretrained)
    with Workspace(folder, "finetuning", provenance) as workspace:
        at_first = copy.deepcopy(learner.state_dict()) if settings["may_diverge"] else None
        try:
            fit(
                learner,
                optimiser,
                streams,
                settings,
                window,
                workspace,
                evaluate=evaluate if len(validation) else None,
                keep_best="top1" if settings["checkpoint"] == "best" else None,
            )
        except DivergedError as error:
            if at_first is None:
                raise
            log.warning("this trial is judged by the weights it began with: %s", error)
            learner.load_state_dict(at_first)
        outputs = _outputs(learner.backbone, pixels, held_out, normalise, device)
        _write_outputs(folder, samples, held_out, outputs, provenance)
        _write_tables(folder, learner.objective.tables(), provenance)
        save_backbone(folder / "model.safetensors", learner.backbone, provenance)
        workspace.finish()


def _held_out(samples: Samples, splits: Sequence[str]) -> np.ndarray:
    """Rows to predict.

    Raises:
        PipelineError: If the dataset has no such part, and nothing could be said of the run.
    """
    rows = samples.rows(*splits)
    if not len(rows):
        raise PipelineError(
            f"{samples.manifest}: no {' or '.join(splits)} image to evaluate the run on; data without such "
            "parts is cut where its entry in datasets says so, as in split: {validation: 0.1, test: 0.2}"
        )
    return rows


def _start(
    pretrained: Backbone,
    samples: Samples,
    pixels: np.ndarray,
    normalise: Normalisation,
    device: torch.device,
) -> Start:
    """What an objective may know of the backbone before training."""

    def source_logits(part: str) -> tuple[np.ndarray, np.ndarray]:
        rows = samples.rows(part)
        logits, _ = _outputs(pretrained, pixels, rows, normalise, device)
        return logits, samples.labels[rows]

    return Start(
        width=pretrained.width,
        class_names=samples.class_names,
        source_head=copy.deepcopy(pretrained.head),
        source_class_names=pretrained.description.class_names or [],
        source_logits=source_logits,
    )


def _learner(
    pretrained: Backbone, start: Start, reused: Reused | None, settings: Mapping[str, Any], seed: int
) -> FineTuning:
    objective = settings["objective"]
    description = replace(pretrained.description, projection=None, class_names=start.class_names)
    model = build_backbone(description, seed)
    if not settings["from_scratch"]:
        model.encoder.load_state_dict(pretrained.encoder.state_dict())
    with seeded(seed, "learner"):
        component = importlib.import_module(f"pipeline.objectives.{objective['name']}")
        loss = component.build(objective, start)
        if reused is None:
            return FineTuning(model, loss)
        reuse = _reuse(settings, pretrained, reused)
    return FineTuning(model, loss, reuse, settings["reuse"]["batch_norm"])


def _reused(source: SourceFiles, settings: Mapping[str, Any]) -> Reused:
    reuse = settings["reuse"]
    return selected_images(source, kind_of_reuse(reuse).LABELLED, reuse["share"], reuse["draw"])


def _reuse(settings: Mapping[str, Any], pretrained: Backbone, reused: Reused) -> Reuse:
    reuse, head = settings["reuse"], None
    if reuse.get("head") == "pretraining":
        if pretrained.head is None:
            raise PipelineError("reuse.head is pretraining, and this backbone has no such head")
        head = nn.Linear(pretrained.width, len(reused.classes))
        rows = torch.from_numpy(reused.classes)
        with torch.no_grad():
            head.weight.copy_(pretrained.head.weight[rows])
            head.bias.copy_(pretrained.head.bias[rows])
    return kind_of_reuse(reuse).build(reuse, pretrained.width, len(reused.classes), head)


def _outputs(
    model: Backbone, pixels: np.ndarray, rows: np.ndarray, normalise: Normalisation, device: torch.device
) -> tuple[np.ndarray, ...]:
    """Logits and penultimate features of the given rows."""
    head = model.head
    assert head is not None

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = model(images)
        return head(features), features

    return forward_all(model, forward, pixels, rows, normalise, device)


def _write_outputs(
    folder: Path,
    samples: Samples,
    rows: np.ndarray,
    outputs: tuple[np.ndarray, ...],
    provenance: Provenance,
) -> None:
    logits, features = outputs
    probabilities = torch.softmax(torch.from_numpy(logits), 1).numpy()
    common = {
        "sample_id": [samples.ids[row] for row in rows],
        "split": samples.split[rows].tolist(),
        "label": samples.labels[rows].astype(np.int32),
    }
    predictions = {
        **common,
        "prediction": logits.argmax(1).astype(np.int32),
        "probabilities": feature_column(probabilities),
    }
    write_table("predictions", folder / "predictions.parquet", predictions, provenance)
    write_table(
        "features",
        folder / "features.parquet",
        {**common, "feature": feature_column(features)},
        provenance,
    )


def _write_tables(folder: Path, tables: Tables, provenance: Provenance) -> None:
    """Write the objective's tables; those of another objective that ran here before go."""
    for kind in OBJECTIVE_TABLES:
        path = folder / f"{kind}.parquet"
        if kind in tables:
            columns, extra = tables[kind]
            write_table(kind, path, columns, provenance, extra)
        else:
            path.unlink(missing_ok=True)
