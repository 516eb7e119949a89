"""Weight interpolation (WiSE-FT): Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.files import load_backbone
from pipeline.engine.device import prepare_device
from pipeline.errors import PipelineError
from pipeline.evaluation.classification import accuracies
from pipeline.finetuning.outputs import write_outputs
from pipeline.finetuning.target import open_target
from pipeline.floors.outputs import Score, write_choices
from pipeline.progress import log
from pipeline.provenance import Provenance

# What the paper takes where nothing is known of the test data (section 4).
UNKNOWN = 0.5


class Ends(NamedTuple):
    """What is interpolated between: the backbone's weights with a head for the target, and the model."""

    weights: Path
    head: Path
    model: Path


def interpolate(
    manifest: Path,
    images: Path,
    ends: Ends,
    folder: Path,
    settings: Mapping[str, Any],
    provenance: Provenance,
) -> None:
    """Write ``choices.parquet`` of all mixtures, ``predictions.parquet`` and ``features.parquet`` of one.

    That one is the best on the validation part, of equal ones the first, or without validation images the
    one nearest to alpha = 0.5. Both ends, alpha 0 and 1, are measured too and cannot be chosen.

    Args:
        manifest: The target's.
        images: Its decoded images.
        ends: What is mixed.
        folder: Where to write.
        settings: ``interpolation``, the shares alpha of the model; ``predict``, parts; ``metric``, to
            choose by; ``threads``.
        provenance: Kept in the tables.

    Raises:
        PipelineError: If head, backbone and model do not fit each other.
    """
    device = prepare_device(settings["threads"])
    tuned = load_backbone(ends.model).to(device)
    start = starting_model(ends, tuned).to(device)
    mixture = copy.deepcopy(tuned)
    target = open_target(manifest, images, tuned.description.preprocessing, device)
    rows, metric, alphas = target.rows(settings["predict"]), settings["metric"], settings["interpolation"]
    labels, splits = target.samples.labels[rows], target.samples.split[rows]
    parts = [part for part in settings["predict"] if (splits == part).any()]
    scores = []
    for alpha in (0.0, *alphas, 1.0):
        mixture.load_state_dict(mixed(start.state_dict(), tuned.state_dict(), alpha))
        said = target.outputs(mixture, rows)[0].argmax(axis=1)
        for part in parts:
            of_part = splits == part
            score = accuracies(labels[of_part], said[of_part])[metric]
            scores.append(Score(alpha, part, score))
            log.info("alpha %g: %s %.4f on the %s part", alpha, metric, score, part)
    chosen = _choice(scores, alphas)
    mixture.load_state_dict(mixed(start.state_dict(), tuned.state_dict(), chosen))
    write_outputs(folder, target.samples, rows, *target.outputs(mixture, rows), provenance)
    write_choices(folder, "interpolation", chosen, metric, scores, provenance)


def starting_model(ends: Ends, tuned: Backbone) -> Backbone:
    """The backbone with the probe as its head, of the tuned model's form.

    Raises:
        PipelineError: If the head or the backbone's weights do not fit the model.
    """
    start = copy.deepcopy(tuned)
    assert start.head is not None
    try:
        start.encoder.load_state_dict(load_backbone(ends.weights).encoder.state_dict())
        start.head.load_state_dict(load_file(ends.head))
    except RuntimeError as error:
        raise PipelineError(
            f"{ends.weights}, {ends.head}: not of the form of {ends.model} ({error})"
        ) from error
    return start


def mixed(
    start: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor], alpha: float
) -> dict[str, torch.Tensor]:
    """``(1 - alpha) start + alpha tuned`` of weights and of the statistics of batch normalisation.

    Whole numbers, as its count of batches, are the tuned model's; no prediction depends on them.
    """
    return {
        name: torch.lerp(start[name], value, alpha) if value.is_floating_point() else value
        for name, value in tuned.items()
    }


def _choice(scores: list[Score], alphas: list[float]) -> float:
    judged = [score for score in scores if score.split == "validation" and score.value in alphas]
    if not judged:
        return min(alphas, key=lambda alpha: abs(alpha - UNKNOWN))
    return max(judged, key=lambda score: score.score).value
