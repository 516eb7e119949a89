"""Cross-entropy with a supervised contrastive loss beside it (SCL, Gunel et al. 2021)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.engine.layers import mlp
from pipeline.objectives.contrastive import at_least_float32, project, supervised_contrastive
from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.start import Objective, Start


def build(settings: Mapping[str, Any], start: Start) -> Objective:
    """The objective, with a projector of random weights.

    Args:
        settings: ``weight``, ``temperature``, ``projection``, ``hidden``.
        start: Its width decides the projector's.
    """
    projector = mlp(start.width, settings["hidden"] or start.width, settings["projection"])
    return SupervisedContrastiveLearning(projector, settings["weight"], settings["temperature"])


class SupervisedContrastiveLearning(Objective):
    """Cross-entropy plus lambda times the supervised contrastive loss (COIN, section 3.2).

    Args:
        projector: (n, width) to (n, dimensions).
        weight: lambda.
        temperature: tau.
    """

    projector: nn.Module

    def __init__(self, projector: nn.Module, weight: float, temperature: float):
        super().__init__(heads=[projector])
        self.projector, self.weight, self.temperature = projector, weight, temperature

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and its two parts before lambda."""
        cross_entropy = functional.cross_entropy(at_least_float32(outputs.logits), outputs.labels)
        projections = project(self.projector, outputs.features)
        contrastive = supervised_contrastive(projections, outputs.labels, self.temperature)
        parts = {"cross_entropy": cross_entropy, "contrastive": contrastive}
        return cross_entropy + self.weight * contrastive, parts
