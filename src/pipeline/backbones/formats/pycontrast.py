"""PyContrast's InsDis, PIRL, MoCo, MoCo-v2 and InfoMin (github.com/HobbitLong/PyContrast).

Its networks are torchvision's ResNets and ResNeXts without the classification layer
(``networks/resnet.py``), as ``encoder`` of a module with a projection head, and with a second head where
pre-training solved jigsaws (``networks/build_backbone.py``). CMC, which has two encoders of other
channels, is refused.
"""

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.backbones.formats.keys import rename

# Beside `model` a file has the momentum encoder as `model_ema`, the memory bank and the optimiser.
NESTED = ("model",)
# Trained on several GPUs, the network is the `module` of another.
PLACES = {r"(?:module\.)?encoder\.(.+)": r"\1"}
# A head is linear or of two layers; the jigsaw head has one more layer over the nine pieces.
HEADS = (
    r"(?:module\.)?head\.[02]\.(weight|bias)",
    r"(?:module\.)?head_jig\.fc1(\.[02])?\.(weight|bias)",
    r"(?:module\.)?head_jig\.fc2\.(weight|bias)",
)


def convert(
    tensors: Mapping[str, torch.Tensor], architecture: Mapping[str, Any], source: str
) -> dict[str, torch.Tensor]:
    """The encoder's tensors by torchvision's names of a ResNet."""
    return rename(tensors, PLACES, HEADS, source, "pycontrast")
