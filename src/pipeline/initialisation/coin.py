"""Contrastive initialisation (COIN, section 3.2 and Algorithm 1, lines 2 to 7)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as functional
from torch import nn

from pipeline.backbones.backbone import Backbone
from pipeline.engine.distributed import gather
from pipeline.engine.layers import mlp
from pipeline.engine.learner import Learner, Loss
from pipeline.engine.streams import Batch
from pipeline.objectives.contrastive import supervised_contrastive


def build(backbone: Backbone, settings: Mapping[str, Any], class_names: Sequence[str]) -> Learner:
    """The stage's learner, with a projector of random weights.

    Args:
        backbone: Trained in place.
        settings: ``temperature``, ``projection``, ``hidden``.
        class_names: The target's.
    """
    hidden = settings["hidden"] or backbone.width
    return Coin(backbone, mlp(backbone.width, hidden, settings["projection"]), settings["temperature"])


class Coin(Learner):
    """The supervised contrastive loss of the target's batch (COIN, Eq. 1)."""

    def __init__(self, backbone: Backbone, projector: nn.Module, temperature: float):
        super().__init__()
        self.backbone, self.projector, self.temperature = backbone, projector, temperature
        self.heads = (projector,)
        self.carried = (("projector", projector),)

    def loss(self, batches: Mapping[str, Batch]) -> Loss:
        """The loss, a scalar, and no parts beside it."""
        batch = batches["target"]
        features, labels = gather(self.backbone(batch.images)), gather(batch.labels)
        projections = functional.normalize(self.projector(features).float(), dim=1)
        return supervised_contrastive(projections, labels, self.temperature), {}
