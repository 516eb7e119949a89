"""What an objective is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class TargetOutputs:
    """One batch of the target, after the forward pass.

    Where several processes train together, labels, features, logits and draws are those of the joint
    batch, the same in each; images, views and layers are this process's part of it.

    Attributes:
        images: float32 (m, 3, crop, crop).
        labels: int64 (n,).
        features: Penultimate features, (n, width).
        logits: (n, classes).
        backbone: What is trained, with ``encoder`` and ``head``.
        draws: Random numbers of the images in [0, 1), float32 (n, `Objective.draws`).
        views: Further augmentations of the same images, each like `images`.
        layers: What the modules of the encoder that `Objective.layers` names gave, (m, ...) each.
    """

    images: torch.Tensor
    labels: torch.Tensor
    features: torch.Tensor
    logits: torch.Tensor
    backbone: Any
    draws: torch.Tensor
    views: tuple[torch.Tensor, ...] = ()
    layers: Mapping[str, torch.Tensor] = field(default_factory=dict)
