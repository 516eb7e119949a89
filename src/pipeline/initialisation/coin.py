"""Contrastive initialisation (COIN, section 3.2 and Algorithm 1, lines 2 to 7)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.backbones.backbone import Backbone, mlp
from pipeline.engine.streams import Batch
from pipeline.objectives.contrastive import supervised_contrastive


def build(backbone: Backbone, settings: Mapping[str, Any]) -> nn.Module:
    """The stage's learner, with a projector of random weights.

    Args:
        backbone: Trained in place.
        settings: ``temperature``, ``projection``, ``hidden``.
    """
    hidden = settings["hidden"] or backbone.width
    return Coin(backbone, mlp(backbone.width, hidden, settings["projection"]), settings["temperature"])


class Coin(nn.Module):
    """The supervised contrastive loss of the target's batch (COIN, Eq. 1)."""

    def __init__(self, backbone: Backbone, projector: nn.Module, temperature: float):
        super().__init__()
        self.backbone, self.projector, self.temperature = backbone, projector, temperature
        self.heads: list[nn.Module] = [projector]

    def loss(self, batches: Mapping[str, Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and no parts beside it."""
        batch = batches["target"]
        projections = functional.normalize(self.projector(self.backbone(batch.images)).float(), dim=1)
        return supervised_contrastive(projections, batch.labels, self.temperature), {}

    def after_step(self) -> None:
        """Nothing to do."""
