"""A checkpoint with the network's own names, below a prefix."""

from collections.abc import Mapping
from typing import Any

import torch

NESTED = ("state_dict", "model", "model_state")


def convert(
    tensors: Mapping[str, torch.Tensor], architecture: Mapping[str, Any], source: str
) -> dict[str, torch.Tensor]:
    """The tensors as they are."""
    return dict(tensors)
