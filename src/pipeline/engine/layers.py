"""Small networks that several parts are built from."""

from itertools import pairwise

from torch import nn


def mlp(width: int, hidden: int, dimensions: int, depth: int = 2) -> nn.Sequential:
    """Linear layers with a ReLU between each two.

    Args:
        width: Of the input.
        hidden: Of the layers between.
        dimensions: Of the output.
        depth: How many linear layers.
    """
    widths = [width, *[hidden] * (depth - 1), dimensions]
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
