"""Pre-training by cross-entropy on the source's labels."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.backbones.backbone import Backbone
from pipeline.engine.streams import Batch

VIEWS = 1


def build(backbone: Backbone, settings: Mapping[str, Any]) -> nn.Module:
    """A learner that trains the backbone and its head."""
    return Supervised(backbone)


class Supervised(nn.Module):
    """Mean cross-entropy of the pre-training head."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        assert backbone.head is not None
        self.backbone = backbone
        self.heads: list[nn.Module] = [backbone.head]

    def loss(self, batches: Mapping[str, Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of the source batch and its accuracy."""
        batch = batches["source"]
        assert self.backbone.head is not None
        logits = self.backbone.head(self.backbone(batch.images)).float()
        hits = (logits.argmax(1) == batch.labels).float().mean()
        return functional.cross_entropy(logits, batch.labels), {"top1": hits}

    def after_step(self) -> None:
        """Nothing to do."""
