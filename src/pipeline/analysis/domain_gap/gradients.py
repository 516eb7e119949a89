"""Gradients of the target's and of reused source's loss with respect to a backbone."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.backbones.backbone import Backbone
from pipeline.engine.augmentation import Normalisation
from pipeline.engine.inference import forward_all
from pipeline.engine.logistic import logistic_regression
from pipeline.engine.randomness import derive, permutation
from pipeline.engine.streams import target_stream
from pipeline.errors import PipelineError
from pipeline.finetuning.reused import Reused, kind_of_reuse, source_stream
from pipeline.reuse import SourceOutputs
from pipeline.tables import Samples


def target_gradients(
    backbone: Backbone,
    samples: Samples,
    pixels: np.ndarray,
    rows: np.ndarray,
    settings: Mapping[str, Any],
    seed: int,
    device: torch.device,
) -> np.ndarray:
    """Gradients of the cross-entropy on disjoint, equal parts of the target's images.

    The network is in evaluation mode: with running statistics in batch normalisation the gradient of a
    batch is the mean of those of its images, as Eq. 8 of the UOT paper has it.

    Args:
        backbone: With the head that predicts the target's classes.
        samples: The target.
        pixels: Its decoded images, uint8 (n, size, size, 3).
        rows: Images that the backbone was not trained on, int64 (m,).
        settings: ``batches`` how many parts, ``batch_size`` images that pass at once at most, and the
            ``augmentation`` of the run.
        seed: Of order and augmentation.
        device: Where to compute.

    Returns:
        float32 (batches, parameters of the encoder).

    Raises:
        PipelineError: If there are fewer images than batches.
    """
    batches, head = settings["batches"], backbone.head
    assert head is not None
    size = len(rows) // batches
    if size == 0:
        raise PipelineError(
            f"{samples.manifest}: {len(rows)} images to measure the target's gradient on; expected one at "
            f"least for each of {batches} batches (domain_gap.batches)"
        )
    parts = {"batch_size": size, "augmentation": settings["augmentation"]}
    preprocessing = backbone.description.preprocessing
    stream = target_stream(samples, rows, pixels, parts, preprocessing, derive(seed, "domain gap"), device)
    backbone.eval()
    gradients = []
    for batch in islice(stream.epoch(0), batches):
        pieces = zip(
            *(part.split(settings["batch_size"]) for part in (batch.images, batch.labels)), strict=True
        )
        losses = (
            functional.cross_entropy(head(backbone(images)).float(), labels, reduction="sum") / size
            for images, labels in pieces
        )
        gradients.append(np.sum([_gradient(loss, backbone.encoder) for loss in losses], axis=0))
    return np.stack(gradients)


def source_gradients(
    backbone: Backbone,
    reused: Reused,
    pixels: np.ndarray,
    settings: Mapping[str, Any],
    seed: int,
    device: torch.device,
) -> np.ndarray:
    """Gradients of the loss of reuse, without its weight lambda, on independent source batches.

    Batches are drawn and changed as fine-tuning does it: images spread evenly over the classes, or over
    the units where labels are not used.

    Args:
        backbone: With the head that predicts the target's classes.
        reused: The selected images.
        pixels: The source's decoded images, uint8 (n, size, size, 3).
        settings: ``batches`` and ``batch_size``; ``head_images``, of each class to fit a head on;
            ``reuse``, the kind with its settings; and the ``augmentation`` of the run.
        seed: Of draws and augmentation.
        device: Where to compute.

    Returns:
        float32 (batches, parameters of the encoder).

    Raises:
        PipelineError: If labels of a single class are to be predicted.
    """
    kind = kind_of_reuse(settings["reuse"])
    head, target_head, own_seed = None, backbone.head, derive(seed, "domain gap")
    assert target_head is not None
    if kind.LABELLED:
        if len(reused.classes) < 2:
            raise PipelineError("the selected images are of one class; a head for it has no loss to follow")
        some = some_of_each(reused.labels, settings["head_images"], own_seed)
        head = fitted_head(backbone, pixels, reused.rows[some], reused.labels[some], device)
    loss = kind.build({"weight": 1.0}, backbone.width, len(reused.classes), head)
    preprocessing = backbone.description.preprocessing
    sizes = [settings["batch_size"]]
    stream = source_stream(reused, pixels, sizes, settings, preprocessing, own_seed, device)
    backbone.eval()
    gradients = []
    for number in range(settings["batches"]):
        # An epoch each: within one an image is changed in one way, and batches would depend on each other.
        (batch,) = stream.epoch(number)
        features = tuple(backbone(view) for view in (batch.images, *batch.views))
        outputs = SourceOutputs(features, batch.labels, target_head)
        gradients.append(_gradient(loss(outputs), backbone.encoder))
    return np.stack(gradients)


def some_of_each(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Positions of at most so many images of each class, drawn at random, in their order.

    Args:
        labels: int64 (n,).
        limit: Of each class.
        seed: Of the draw.

    Returns:
        int64 (m,).
    """
    order = permutation(len(labels), seed, "head")
    drawn = [order[labels[order] == label][:limit] for label in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def fitted_head(
    backbone: Backbone, pixels: np.ndarray, rows: np.ndarray, labels: np.ndarray, device: torch.device
) -> nn.Linear:
    """A head fitted on frozen penultimate features by scikit-learn's logistic regression, its defaults.

    Args:
        backbone: Whose features they are.
        pixels: Decoded images, uint8 (n, size, size, 3).
        rows: Which images, int64 (m,).
        labels: Of each, 0 .. classes - 1, every class among them, int64 (m,).
        device: Where to compute and where the head goes.

    Returns:
        From (n, width) to (n, classes).
    """
    normalise = Normalisation(backbone.description.preprocessing)
    (features,) = forward_all(backbone, lambda images: (backbone(images),), pixels, rows, normalise, device)
    weight, bias = logistic_regression(
        features.astype(np.float64), labels, "a head's logistic regression", max_iter=1_000
    )
    head = nn.Linear(backbone.width, len(weight))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    return head.to(device)


def _gradient(loss: torch.Tensor, encoder: nn.Module) -> np.ndarray:
    """Gradient with respect to all parameters of the encoder, flat, float32 (parameters,)."""
    parts = torch.autograd.grad(loss, list(encoder.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts]).float().cpu().numpy()
