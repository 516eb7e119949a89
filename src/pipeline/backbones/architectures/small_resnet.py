"""A ResNet of basic blocks (He et al. 2016) for images of 28 to 96 pixels."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn


def build(settings: Mapping[str, Any]) -> tuple[nn.Module, int, str | None]:
    """A `SmallResNet`, its feature width, and no classification layer.

    Args:
        settings: ``widths`` of the stages, ``blocks`` in each, ``stem_stride``.
    """
    network = SmallResNet(settings["widths"], settings["blocks"], settings["stem_stride"])
    return network, settings["widths"][-1], None


class SmallResNet(nn.Module):
    """Stem, stages of basic blocks (all but the first halve the side), global average pooling."""

    def __init__(self, widths: list[int], blocks: int, stem_stride: int):
        super().__init__()
        self.stem = _convolution(3, widths[0], stem_stride)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        stages: list[nn.Module] = []
        width = widths[0]
        for number, wider in enumerate(widths):
            for block in range(blocks):
                stride = 2 if number > 0 and block == 0 else 1
                stages.append(BasicBlock(width, wider, stride))
                width = wider
        self.stages = nn.Sequential(*stages)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (n, 3, height, width) to features (n, widths[-1])."""
        maps = self.stages(functional.relu(self.stem_norm(self.stem(images))))
        return maps.mean(dim=(2, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, projected where the shape changes."""

    def __init__(self, width: int, wider: int, stride: int):
        super().__init__()
        self.first = _convolution(width, wider, stride)
        self.first_norm = nn.BatchNorm2d(wider)
        self.second = _convolution(wider, wider, 1)
        self.second_norm = nn.BatchNorm2d(wider)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width != wider:
            projection = nn.Conv2d(width, wider, 1, stride, bias=False)
            nn.init.kaiming_normal_(projection.weight, mode="fan_out", nonlinearity="relu")
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(wider))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(n, width, h, w) to (n, wider, h / stride, w / stride)."""
        inner = functional.relu(self.first_norm(self.first(maps)))
        return functional.relu(self.second_norm(self.second(inner)) + self.shortcut(maps))


def _convolution(width: int, wider: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(width, wider, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
