"""Contrastive losses with labels: COIN, Eq. 1; Core-tuning, Eq. 1 and section 4.3."""

import torch
import torch.nn.functional as functional
from torch import nn


def similarity(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Inner products of all pairs over the temperature, (n, m), in float32 or wider.

    Args:
        first: float (n, d).
        second: float (m, d).
        temperature: tau.
    """
    first, second = at_least_float32(first), at_least_float32(second)
    # Under autocast the product would come in bfloat16, too coarse once divided by the temperature.
    with torch.autocast(first.device.type, enabled=False):
        return first @ second.T / temperature


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Values in float32, or in what they have where that is wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def project(projector: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Projections of length 1, (n, dimensions), in float32 or wider.

    Args:
        projector: (n, width) to (n, dimensions).
        features: (n, width).
    """
    return functional.normalize(at_least_float32(projector(at_least_float32(features))), dim=1)


def contrastive(
    similarities: torch.Tensor,
    positive: torch.Tensor,
    candidate: torch.Tensor,
    focal: bool = False,
    detached: bool = False,
) -> torch.Tensor:
    r"""Pull each anchor to its positives, push all other candidates away.

    .. math::
        -\frac{1}{n} \sum_i \frac{1}{|P_i|} \sum_{j \in P_i} w_{ij} \log p_{ij}, \quad
        p_{ij} = \frac{\exp s_{ij}}{\sum_{k \in A_i} \exp s_{ik}}

    The papers do not say what n is when an anchor has no positive; here n counts the anchors that
    have one, so that the others neither add to the loss nor dilute it.

    Args:
        similarities: s, inner products over the temperature, (anchors, others).
        positive: Which pairs are positive (P_i), bool like `similarities`; all of them candidates.
        candidate: Which pairs the denominator has (A_i), bool like `similarities`.
        focal: w_ij is 1 - p_ij, so that hard positives weigh more (Core-tuning, section 4.3); else 1.
        detached: The gradient takes that weight as a constant.

    Returns:
        A scalar; zero, with zero gradient, where no anchor has a positive.
    """
    # The least finite number, not minus infinity: a row without candidates must not become NaN.
    absent = torch.finfo(similarities.dtype).min
    normaliser = torch.logsumexp(similarities.masked_fill(~candidate, absent), dim=1, keepdim=True)
    log_p = torch.where(positive, similarities - normaliser, 0)
    terms = log_p
    if focal:
        weights = -torch.expm1(log_p)
        terms = (weights.detach() if detached else weights) * log_p
    positives = positive.sum(1)
    # Counts stay on the device: asking whether there is any positive would wait for it.
    return -(terms.sum(1) / positives.clamp(min=1)).sum() / (positives > 0).sum().clamp(min=1)


def same_class(labels: torch.Tensor) -> torch.Tensor:
    """Which pairs of different images share their class, bool (n, n)."""
    return (labels[:, None] == labels[None, :]) & ~itself(labels)


def itself(labels: torch.Tensor) -> torch.Tensor:
    """The diagonal, bool (n, n)."""
    return torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def supervised_contrastive(
    projections: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    focal: bool = False,
    detached: bool = False,
) -> torch.Tensor:
    """`contrastive` among the images of a batch (COIN, Eq. 1; Core-tuning, Eq. 1).

    P_i are the other images of the anchor's class, A_i all other images.

    Args:
        projections: v, float (n, d), each row of length 1.
        labels: int64 (n,).
        temperature: tau.
        focal: See `contrastive`.
        detached: See `contrastive`.
    """
    similarities = similarity(projections, projections, temperature)
    return contrastive(similarities, same_class(labels), ~itself(labels), focal, detached)
