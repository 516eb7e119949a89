"""Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage (Chen et al., NeurIPS 2019)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional

from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.start import Objective, Start


def build(settings: Mapping[str, Any], start: Start) -> Objective:
    """The objective; where fine-tuning starts does not matter to it.

    Args:
        settings: ``weight`` eta and ``singular_values`` k.
        start: Not read.
    """
    return BatchSpectralShrinkage(settings["weight"], settings["singular_values"])


class BatchSpectralShrinkage(Objective):
    r"""Cross-entropy, plus eta times the k smallest squared singular values of a batch's features.

    .. math::
        \mathcal{L}_{ce} + \eta \sum_{i=1}^{k} \sigma_{-i}^2

    Args:
        weight: eta.
        singular_values: k; all of them where there are fewer.
    """

    def __init__(self, weight: float, singular_values: int):
        super().__init__()
        self.weight, self.singular_values = weight, singular_values

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and its parts before eta."""
        target = functional.cross_entropy(outputs.logits.float(), outputs.labels)
        smallest = smallest_squared_singular_values(outputs.features, self.singular_values).to(target.dtype)
        return target + self.weight * smallest, {"cross_entropy": target, "bss": smallest}


def smallest_squared_singular_values(features: torch.Tensor, count: int) -> torch.Tensor:
    r"""The sum of the k smallest squared singular values of a matrix, among min(b, f).

    With V_k their singular vectors the sum is :math:`|F V_k|^2`, and its gradient
    :math:`2 F V_k V_k^T` is that of the same expression with V_k held still. So singular values that
    are equal or zero do no harm, whose vectors have no derivative.

    Args:
        features: F, float (b, f).
        count: k.

    Returns:
        A scalar, float64: eigenvalues of F F^T lose half of their digits.
    """
    features = features.double()
    if len(features) < features.shape[1]:
        features = features.T
    with torch.no_grad():
        gram = features.T @ features
        # Features that are not finite should give such a loss, which names the batch, and no error here.
        vectors = torch.linalg.eigh(gram.nan_to_num(0, 0, 0)).eigenvectors[:, :count]
    return (features @ vectors).square().sum()
