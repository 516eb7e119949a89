"""What the engine trains."""

from collections.abc import Mapping

import torch
from torch import nn

from pipeline.engine.streams import Batch

Loss = tuple[torch.Tensor, dict[str, torch.Tensor]]


class Learner(nn.Module):
    """A module that turns batches into a loss.

    Where several processes train together, `loss` gets this one's part of the batches and gives the loss
    of the joint batch, the same in all of them (see `pipeline.engine.distributed`).

    Attributes:
        heads: New layers, trained at the learning rate of heads.
        pretrained: Layers beside the backbone that come trained, at the backbone's learning rate.
        carried: Layers beside the backbone that one stage hands over to the next, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        # Tuples and plain attributes: PyTorch would list these layers twice among the weights.
        self.heads: tuple[nn.Module, ...] = ()
        self.pretrained: tuple[nn.Module, ...] = ()
        self.carried: tuple[tuple[str, nn.Module], ...] = ()

    def loss(self, batches: Mapping[str, Batch]) -> Loss:
        """The scalar to minimise, and its named parts for the history."""
        raise NotImplementedError

    def begin_cycle(self, number: int) -> None:
        """Called before the first step of each cycle of the schedule but the first."""

    def after_step(self) -> None:
        """Called after each step of the optimiser (a momentum encoder moves here)."""
