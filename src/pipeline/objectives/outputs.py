"""What an objective is given."""

from dataclasses import dataclass

import torch


@dataclass
class TargetOutputs:
    """One batch of the target, after the forward pass.

    Attributes:
        images: float32 (n, 3, crop, crop).
        labels: int64 (n,).
        features: Penultimate features, (n, width).
        logits: (n, classes).
    """

    images: torch.Tensor
    labels: torch.Tensor
    features: torch.Tensor
    logits: torch.Tensor
