"""What an objective is, and what it is built from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.objectives.outputs import TargetOutputs

# Columns and further metadata of each table, by kind.
Tables = dict[str, tuple[Mapping[str, Any], Mapping[str, str]]]


@dataclass(frozen=True)
class Start:
    """The model that fine-tuning starts from, and the target.

    Attributes:
        width: Width of the penultimate features.
        class_names: The target's classes, in label order.
        source_head: The head of pre-training, (n, width) to (n, source classes); None without one.
        source_class_names: Its classes, in label order.
        source_logits: From a part of the target (``train``, ``validation``) to the source head's
            logits before training, float32 (n, source classes), and labels int64 (n,).
        pretrained: The backbone that fine-tuning starts from, frozen and in evaluation mode.
        backbone: The one that will be trained, with its new head.
        training: From a number to batches of so many training images, not augmented, spread evenly
            over the manifest: float32 (b, 3, crop, crop) and labels int64 (b,).
    """

    width: int
    class_names: list[str]
    source_head: nn.Linear | None
    source_class_names: list[str]
    source_logits: Callable[[str], tuple[np.ndarray, np.ndarray]]
    pretrained: Any
    backbone: Any
    training: Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]


class Objective(nn.Module):
    """What every objective is.

    Attributes:
        draws: How many random numbers it wants of each image in each epoch.
        views: How many augmentations of each image it wants.
        layers: Modules of the encoder whose outputs it wants.
        cycles: Over how many equal parts of the budget the schedule starts anew.
        heads: Its new layers (a projector, say), trained with the target's head.
        pretrained: Its layers that come trained, at the backbone's learning rate.
        projector: Of `heads`, the one that a stage before may have trained already; None without.
    """

    draws = 0
    views = 1
    layers: tuple[str, ...] = ()
    cycles = 1

    def __init__(self, heads: Sequence[nn.Module] = (), pretrained: Sequence[nn.Module] = ()):
        super().__init__()
        # Not an attribute of the class, which would hide the module that an instance assigns.
        self.projector: nn.Module | None = None
        # Lists of PyTorch's own would put these layers twice among the weights.
        self.heads, self.pretrained = tuple(heads), tuple(pretrained)

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch of the target, a scalar, and its named parts."""
        raise NotImplementedError

    def begin_cycle(self, number: int, backbone: Any) -> None:
        """Called before the first step of each cycle but the first, with its number from 0."""

    def after_step(self, backbone: Any) -> None:
        """Called after each step of the optimiser (a momentum encoder moves here)."""

    def tables(self) -> Tables:
        """What to keep beside the model; most objectives keep nothing."""
        return {}
