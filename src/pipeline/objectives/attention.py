"""How much each channel of a layer matters on the target (DELTA, section 3.3)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.engine.logistic import logistic_regression

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
# Images that pass together: what is below a layer is held for so many (the released code's batch).
TOGETHER = 32


@torch.no_grad()
def channel_attention(
    encoder: nn.Module,
    layers: dict[str, int],
    training: Callable[[int], Batches],
    images: int,
    fitting_images: int,
) -> dict[str, torch.Tensor]:
    """Attention of each layer's channels, from what the loss loses without them.

    The loss is that of a linear classifier fitted on the features of the start.

    Args:
        encoder: The start's, in evaluation mode.
        layers: Names, and the axis of the channels in what they give.
        training: As `Start.training`.
        images: How many the increase of the loss is measured on, spread evenly over the next.
        fitting_images: How many the classifier is fitted on.

    Returns:
        By name of layer, float32 (c,) of sum 1.
    """
    classifier, count = _classifier(encoder, training(fitting_images))
    chosen = np.unique(np.linspace(0, count - 1, min(images, count)).round().astype(np.int64))
    increases: dict[str, Any] = dict.fromkeys(layers, 0.0)
    for batch, labels in _rows(training(fitting_images), chosen):
        for name, axis in layers.items():
            increases[name] += loss_increases(encoder, classifier, name, axis, batch, labels)
    return {name: attention(total / len(chosen)) for name, total in increases.items()}


def attention(increases: torch.Tensor) -> torch.Tensor:
    """softmax(z / 5) of the standardised increases, as released: the paper does not divide by 5.

    Args:
        increases: Of the loss without each channel, float (c,). Where all are equal z is 0.

    Returns:
        float32 (c,) of sum 1.
    """
    increases = increases.double()
    spread = increases.std(correction=0)
    z = (increases - increases.mean()) / torch.where(spread > 0, spread, 1)
    return torch.softmax(z / 5, 0).float()


def loss_increases(
    encoder: nn.Module,
    classifier: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    layer: str,
    axis: int,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """How much the summed loss grows when each channel of a layer is set to zero.

    Args:
        encoder: From images to features.
        classifier: From features and labels to the summed loss.
        layer: Path of a module in the encoder.
        axis: Of the channels in its output.
        images: float32 (n, 3, crop, crop).
        labels: int64 (n,).

    Returns:
        float64 (c,).
    """
    masked: list[int] = []
    channels = 0

    def mask(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor | None:
        nonlocal channels
        channels = output.shape[axis]
        return output.index_fill(axis, output.new_tensor(masked, dtype=torch.long), 0) if masked else None

    handle = encoder.get_submodule(layer).register_forward_hook(mask)
    try:
        before = classifier(encoder(images), labels)
        with _run_once_below(encoder, layer, images):
            losses = []
            for channel in range(channels):
                masked[:] = [channel]
                losses.append(classifier(encoder(images), labels))
    finally:
        handle.remove()
    return torch.stack(losses) - before


@contextmanager
def _run_once_below(encoder: nn.Module, layer: str, images: torch.Tensor) -> Iterator[None]:
    """Inside, modules that end before a layer begins give what they gave before, without running.

    Those that run several times, as one ReLU for a whole block, run again.
    """
    target, calls = encoder.get_submodule(layer), dict.fromkeys(encoder.modules(), 0)
    before: dict[nn.Module, torch.Tensor] = {}
    reached = False

    def begin(module: nn.Module, _inputs: object) -> None:
        nonlocal reached
        calls[module] += 1
        reached = reached or module is target

    def end(module: nn.Module, _inputs: object, output: Any) -> None:
        if not reached and isinstance(output, torch.Tensor):
            for inner in list(module.modules())[1:]:
                before.pop(inner, None)
            before[module] = output.clone()  # what follows may change it in place

    handles = [module.register_forward_pre_hook(begin) for module in calls]
    handles += [module.register_forward_hook(end) for module in calls]
    try:
        encoder(images)
    finally:
        for handle in handles:
            handle.remove()
    skipped = [module for module in before if calls[module] == 1]
    for module in skipped:
        module.forward = _constant(before[module])
    try:
        yield
    finally:
        for module in skipped:
            del module.forward


def _constant(output: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda *_inputs, **_named: output.clone()


def _classifier(
    encoder: nn.Module, batches: Batches
) -> tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], int]:
    """The summed loss of a classifier of the features, and on how many images it was fitted."""
    features, labels = [], []
    for images, classes in batches:
        features.append(encoder(images).double())
        labels.append(classes.cpu())
    inputs, present = torch.cat(features), np.unique(np.concatenate(labels))
    positions = np.searchsorted(present, np.concatenate(labels))
    if len(present) > 1:
        fitted = logistic_regression(
            inputs.cpu().numpy(), positions, "delta: the classifier of the attention"
        )
    else:  # nothing to tell apart: no channel matters
        fitted = np.zeros((1, inputs.shape[1])), np.zeros(1)
    weights, biases = (torch.from_numpy(part).to(inputs) for part in fitted)

    def loss(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known = torch.searchsorted(torch.from_numpy(present).to(labels.device), labels)
        logits = features.double() @ weights.T + biases
        return functional.cross_entropy(logits, known, reduction="sum")

    return loss, len(inputs)


def _rows(batches: Batches, chosen: np.ndarray) -> Batches:
    """The chosen rows, counted over all batches, some at a time."""
    first = 0
    for images, labels in batches:
        here = torch.from_numpy(chosen[(chosen >= first) & (chosen < first + len(images))] - first)
        for part in here.to(images.device).split(TOGETHER):
            yield images[part].contiguous(memory_format=torch.channels_last), labels[part]
        first += len(images)
