"""The head first, then everything (LP-FT; Kumar et al. 2022)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as functional
from torch import nn

from pipeline.backbones.backbone import Backbone
from pipeline.engine.distributed import gather
from pipeline.engine.learner import Learner, Loss
from pipeline.engine.streams import Batch


def build(backbone: Backbone, settings: Mapping[str, Any], class_names: Sequence[str]) -> Learner:
    """The stage's learner, with a head of random weights.

    Args:
        backbone: Left as it is.
        settings: None of its own beside the stage's share of the budget.
        class_names: The target's, in label order.
    """
    return LinearProbe(backbone, nn.Linear(backbone.width, len(class_names)))


class LinearProbe(Learner):
    """Mean cross-entropy of a new head on the features of the frozen backbone."""

    def __init__(self, backbone: Backbone, head: nn.Linear):
        super().__init__()
        backbone.freeze("encoder")
        self.backbone, self.head = backbone, head
        self.heads = (head,)
        self.carried = (("head", head),)

    def loss(self, batches: Mapping[str, Batch]) -> Loss:
        """The loss of the target batch and its accuracy."""
        batch = batches["target"]
        labels = gather(batch.labels)
        logits = self.head(gather(self.backbone(batch.images))).float()
        hits = (logits.argmax(1) == labels).float().mean()
        return functional.cross_entropy(logits, labels), {"top1": hits}
