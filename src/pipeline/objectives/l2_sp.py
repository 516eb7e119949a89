"""Explicit Inductive Bias for Transfer Learning with Convolutional Networks (Li et al., ICML 2018)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.penalties import half_squared_distance, half_squared_norm
from pipeline.objectives.start import Objective, Start


def build(settings: Mapping[str, Any], start: Start) -> Objective:
    """The objective, which holds the encoder to the weights of `start`.

    Args:
        settings: ``alpha`` and ``beta``.
        start: Its ``pretrained`` encoder has w0.
    """
    return L2Sp(start.pretrained.encoder, settings["alpha"], settings["beta"])


class L2Sp(Objective):
    r"""Cross-entropy, and penalties on leaving the start and on the head (L2-SP, section 3.2).

    .. math::
        \mathcal{L}_{ce} + \frac{\alpha}{2} \sum |w - w^0|^2 + \frac{\beta}{2} |w_{head}|^2

    w are all parameters of the encoder, those of batch normalisation among them but not its running
    statistics; the head's are its weight and its bias.

    Args:
        start: The encoder with w0; it is not copied, so it must stay as it is.
        alpha: Of the encoder.
        beta: Of the head.
    """

    def __init__(self, start: nn.Module, alpha: float, beta: float):
        super().__init__()
        self.alpha, self.beta = alpha, beta
        # No buffers: these weights are in the start's file, not in every checkpoint.
        self._start = {name: weight.detach() for name, weight in start.named_parameters()}

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and its parts before alpha and beta."""
        target = functional.cross_entropy(outputs.logits.float(), outputs.labels)
        weights = dict(outputs.backbone.encoder.named_parameters())
        moved = half_squared_distance(list(weights.values()), [self._start[name] for name in weights])
        head = half_squared_norm(outputs.backbone.head.parameters())
        loss = target + self.alpha * moved + self.beta * head
        return loss, {"cross_entropy": target, "l2_sp": moved, "l2_head": head}
