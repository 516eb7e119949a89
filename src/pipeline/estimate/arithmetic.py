"""The arithmetic of one forward pass."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.backbones.backbone import Backbone, Description
from pipeline.backbones.fetch import published_weights
from pipeline.config.backbones import AnyBackbone, Elsewhere, KeptEpoch, TorchvisionWeights


def forward_flops(entry: AnyBackbone) -> int:
    """FLOPs of the encoder for one image of its crop size, a multiplication and an addition being two.

    The network is built without memory for its weights, and none are fetched. Heads and projections,
    which add less than a hundredth, are left out.

    Args:
        entry: A backbone of the config whose network is at hand.

    Raises:
        PipelineError: If torchvision has no such model or weights.
    """
    assert not isinstance(entry, KeptEpoch | Elsewhere)
    if isinstance(entry, TorchvisionWeights):
        architecture = {"name": "torchvision", "model": published_weights(entry.weights)[0]}
    else:
        architecture = entry.architecture.plain()
    preprocessing = entry.preprocessing.plain()
    with torch.device("meta"), torch.inference_mode():
        encoder = Backbone(Description(architecture, preprocessing)).encoder.eval()
        crop = preprocessing["crop"]
        with FlopCounterMode(display=False) as counter:
            encoder(torch.empty(1, 3, crop, crop))
    return counter.get_total_flops()
