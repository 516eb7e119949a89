"""Reuse with labels: a second head for the source (UOT paper, Eq. 6)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.engine.augmentation import Augmentation
from pipeline.reuse.outputs import Reuse, SourceOutputs

LABELLED = True
VIEWS = 1


def augmentations(
    settings: Mapping[str, Any], augmentation: Mapping[str, Any], preprocessing: Mapping[str, Any]
) -> list[Augmentation]:
    """One view, changed as the target's images are."""
    return [Augmentation(augmentation, preprocessing)]


def build(settings: Mapping[str, Any], width: int, classes: int, pretraining_head: nn.Linear | None) -> Reuse:
    """The source head and its weighted loss.

    Args:
        settings: ``weight`` lambda.
        width: Width of the features.
        classes: Source classes among the selected images.
        pretraining_head: Rows of the pre-training head for those classes, to start from; None
            starts at random, as in the paper.
    """
    head = pretraining_head if pretraining_head is not None else nn.Linear(width, classes)
    return LabelledReuse(head, settings["weight"])


class LabelledReuse(Reuse):
    """lambda times the mean cross-entropy of the source batch, on a head of its own."""

    def __init__(self, head: nn.Linear, weight: float):
        super().__init__(weight, [head])
        self.head = head

    def forward(self, outputs: SourceOutputs) -> torch.Tensor:
        """The second term of Eq. 6, a scalar."""
        (features,) = outputs.features
        return self.weight * functional.cross_entropy(self.head(features).float(), outputs.labels)
