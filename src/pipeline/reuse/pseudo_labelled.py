"""Reuse without labels: the target head's own soft pseudo-labels (UOT paper, Eq. 7)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.engine.augmentation import Augmentation
from pipeline.engine.strong import StrongAugmentation
from pipeline.reuse.outputs import Reuse, SourceOutputs

LABELLED = False
VIEWS = 2


def augmentations(
    settings: Mapping[str, Any], augmentation: Mapping[str, Any], preprocessing: Mapping[str, Any]
) -> list[Augmentation]:
    """A weak view as the target's images have it, and a strong one of its own random numbers."""
    strong = StrongAugmentation(augmentation, preprocessing, settings["operations"], settings["magnitude"])
    return [Augmentation(augmentation, preprocessing), strong]


def build(settings: Mapping[str, Any], width: int, classes: int, pretraining_head: nn.Linear | None) -> Reuse:
    """The weighted loss; it needs ``weight`` lambda alone, since Eq. 7 has no head of its own."""
    return PseudoLabelledReuse(settings["weight"])


class PseudoLabelledReuse(Reuse):
    r"""Strong views are taught what the target head says of weak ones (UOT paper, Eq. 7).

    .. math::
        \frac{\lambda}{m} \sum_i -\sum_c p(c | x'_i) \log p(c | \tilde x'_i)

    x' is the weak view and x~' the strong one. The pseudo-label is soft, without temperature or
    threshold (section 3.3), and no gradient flows through it.
    """

    def forward(self, outputs: SourceOutputs) -> torch.Tensor:
        """The second term of Eq. 7, a scalar."""
        weak, strong = (outputs.target_head(features).float() for features in outputs.features)
        return self.weight * functional.cross_entropy(strong, weak.detach().softmax(1))
