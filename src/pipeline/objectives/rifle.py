"""RIFLE (Li et al., ICML 2020): the head is drawn anew at regular intervals."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional

from pipeline.engine.randomness import seeded
from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.start import Objective, Start


def build(settings: Mapping[str, Any], start: Start) -> Objective:
    """The objective.

    Args:
        settings: ``cycles``.
        start: Where fine-tuning starts does not matter to it.
    """
    return Rifle(settings["cycles"])


class Rifle(Objective):
    """Mean cross-entropy, with a new head at the start of each cycle of the schedule but the first.

    Attributes:
        seed: What the heads are drawn from, int64 ().
    """

    seed: torch.Tensor

    def __init__(self, cycles: int):
        super().__init__()
        self.cycles = cycles
        self.register_buffer("seed", torch.randint(2**31, ()))

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and no parts beside it."""
        return functional.cross_entropy(outputs.logits.float(), outputs.labels), {}

    def begin_cycle(self, number: int, backbone: Any) -> None:
        """Draw the head anew; the optimiser's momentum stays, as the authors' code leaves it."""
        with seeded(int(self.seed), "head", number):
            fresh = torch.nn.Linear(backbone.head.in_features, backbone.head.out_features)
        backbone.head.load_state_dict(fresh.state_dict())
