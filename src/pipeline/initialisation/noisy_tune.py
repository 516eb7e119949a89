"""NoisyTune (Wu et al. 2022): a little noise on every weight before fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipeline.backbones.backbone import Backbone
from pipeline.engine.learner import Learner


def build(backbone: Backbone, settings: Mapping[str, Any], class_names: Sequence[str]) -> Learner:
    r"""Perturb the encoder; there is nothing to train.

    Each parameter tensor W becomes W + U(-lambda/2, lambda/2) std(W), with the deviation of its own values
    (NoisyTune, Eq. 1). A tensor of one value has none, and stays.

    Args:
        backbone: Changed in place; statistics of batch normalisation stay as they are.
        settings: ``noise`` lambda.
        class_names: The target's.
    """
    with torch.no_grad():
        for parameter in backbone.encoder.parameters():
            deviation = parameter.std(correction=0)
            # Drawn on the CPU, whose generator is the one that is seeded.
            uniform = torch.rand(parameter.shape).to(parameter)
            parameter.add_((uniform - 0.5) * settings["noise"] * deviation)
    return Learner()
