"""What reuse is, and what it is given."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class SourceOutputs:
    """One batch of the source, after the forward pass.

    Attributes:
        features: Penultimate features of each view, (m, width) each.
        labels: int64 (m,) among the selected classes; -1 where there is none.
        target_head: The head that predicts the target's classes.
    """

    features: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    target_head: nn.Module


class Reuse(nn.Module):
    """What every kind of reuse is.

    Attributes:
        weight: lambda.
        heads: Its own layers, trained with the target's head.
    """

    def __init__(self, weight: float, heads: Sequence[nn.Module] = ()):
        super().__init__()
        self.weight, self.heads = weight, tuple(heads)

    def forward(self, outputs: SourceOutputs) -> torch.Tensor:
        """lambda times the loss of a source batch, a scalar."""
        raise NotImplementedError
