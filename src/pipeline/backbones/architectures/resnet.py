"""ResNets and ResNeXts (He et al. 2016; Xie et al. 2017) of torchvision's parts, at any depth."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}


def build(settings: Mapping[str, Any]) -> tuple[nn.Module, int, str | None]:
    """The network, its feature width, and the prefix of its classification layer.

    Args:
        settings: ``depth``; ``groups`` and ``width_per_group`` of the 3x3 convolutions; ``max_pool``,
            the padding of the stem's pooling: ``symmetric``, or ``same`` as TensorFlow pads.
    """
    block = BasicBlock if settings["depth"] < 50 else Bottleneck
    network = ResNet(
        block,
        BLOCKS[settings["depth"]],
        groups=settings["groups"],
        width_per_group=settings["width_per_group"],
    )
    if settings["max_pool"] == "same":
        network.maxpool = SameMaxPool(kernel=3, stride=2)
    width = network.fc.in_features
    network.fc = nn.Identity()
    return network, int(width), "fc"


class SameMaxPool(nn.Module):
    """Max pooling with TensorFlow's SAME padding: what is odd of it goes to the bottom and the right."""

    def __init__(self, kernel: int, stride: int):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) to (n, channels, ceil(h / stride), ceil(w / stride))."""
        top, bottom = self._padding(maps.shape[2])
        left, right = self._padding(maps.shape[3])
        padded = functional.pad(maps, (left, right, top, bottom), value=-torch.inf)
        return functional.max_pool2d(padded, self.kernel, self.stride)

    def _padding(self, side: int) -> tuple[int, int]:
        windows = -(-side // self.stride)
        total = max((windows - 1) * self.stride + self.kernel - side, 0)
        return total // 2, total - total // 2
