"""Plain fine-tuning: the mean cross-entropy of the target's labels."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional

from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.start import Objective, Start


def build(settings: Mapping[str, Any], start: Start) -> Objective:
    """The objective; where fine-tuning starts does not matter to it."""
    return CrossEntropy(settings["label_smoothing"])


class CrossEntropy(Objective):
    """Mean cross-entropy over the batch (f of the UOT paper, Eq. 1)."""

    def __init__(self, label_smoothing: float):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and no parts beside it."""
        loss = functional.cross_entropy(
            outputs.logits.float(), outputs.labels, label_smoothing=self.label_smoothing
        )
        return loss, {}
