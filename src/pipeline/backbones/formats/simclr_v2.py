"""SimCLR-v2 as github.com/Separius/SimCLRv2-Pytorch converts it, without selective kernels.

The network is a ResNet with the stride of a block in its 3x3 convolution, as torchvision's, but its stem
pools with TensorFlow's padding (github.com/google-research/simclr, ``resnet.py``), which the converter's
own network does not: take architecture ``resnet`` with ``max_pool: same``. Images are not normalised:
mean 0, standard deviation 1. The classification layer is the linear probe trained beside the encoder.
"""

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.backbones.formats.keys import rename

# Beside `resnet` a file has the projection head as `head`.
NESTED = ("resnet",)
BLOCK = r"net\.([1-4])\.blocks\.(\d+)\."
NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
PLACES = {
    r"net\.0\.0\.weight": r"conv1.weight",
    rf"net\.0\.1\.0\.{NORM}": r"bn1.\1",
    rf"{BLOCK}projection\.shortcut\.weight": r"layer\1.\2.downsample.0.weight",
    rf"{BLOCK}projection\.bn\.0\.{NORM}": r"layer\1.\2.downsample.1.\3",
    rf"{BLOCK}net\.0\.weight": r"layer\1.\2.conv1.weight",
    rf"{BLOCK}net\.1\.0\.{NORM}": r"layer\1.\2.bn1.\3",
    rf"{BLOCK}net\.2\.weight": r"layer\1.\2.conv2.weight",
    rf"{BLOCK}net\.3\.0\.{NORM}": r"layer\1.\2.bn2.\3",
    rf"{BLOCK}net\.4\.weight": r"layer\1.\2.conv3.weight",
    rf"{BLOCK}net\.5\.0\.{NORM}": r"layer\1.\2.bn3.\3",
    r"fc\.(weight|bias)": r"fc.\1",
}


def convert(
    tensors: Mapping[str, torch.Tensor], architecture: Mapping[str, Any], source: str
) -> dict[str, torch.Tensor]:
    """The tensors by torchvision's names of a ResNet."""
    return rename(tensors, PLACES, (), source, "simclr_v2")
