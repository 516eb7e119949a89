"""Pre-training by cross-entropy on the source's labels."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as functional

from pipeline.backbones.backbone import Backbone
from pipeline.engine.distributed import gather
from pipeline.engine.learner import Learner, Loss
from pipeline.engine.streams import Batch

VIEWS = 1


def build(backbone: Backbone, settings: Mapping[str, Any]) -> Learner:
    """A learner that trains the backbone and its head."""
    return Supervised(backbone)


class Supervised(Learner):
    """Mean cross-entropy of the pre-training head."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        assert backbone.head is not None
        self.backbone = backbone
        self.heads = (backbone.head,)

    def loss(self, batches: Mapping[str, Batch]) -> Loss:
        """The loss of the source batch and its accuracy."""
        batch = batches["source"]
        assert self.backbone.head is not None
        logits, labels = gather(self.backbone.head(self.backbone(batch.images)).float()), gather(batch.labels)
        hits = (logits.argmax(1) == labels).float().mean()
        return functional.cross_entropy(logits, labels), {"top1": hits}
