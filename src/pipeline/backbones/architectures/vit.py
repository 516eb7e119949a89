"""Vision transformers (Dosovitskiy et al. 2021) of torchvision's parts, of any size."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchvision import models

EPSILON = 1e-6


def build(settings: Mapping[str, Any]) -> tuple[nn.Module, int, str | None]:
    """A `VisionTransformer`, its feature width, and the prefix of its classification layer.

    Args:
        settings: ``image_size`` and ``patch_size`` in pixels, ``width``, ``depth``, ``heads``,
            ``mlp_width``, and ``pooling``: ``class_token`` or ``mean``.
    """
    return VisionTransformer(settings), settings["width"], "heads.head"


class VisionTransformer(models.VisionTransformer):
    """torchvision's, without its head, and with the mean of the patches as another feature.

    The mean leaves out the class token and is normalised behind the pooling instead of before, as MAE
    fine-tunes (He et al. 2022, ``models_vit.py``).
    """

    def __init__(self, settings: Mapping[str, Any]):
        super().__init__(
            image_size=settings["image_size"],
            patch_size=settings["patch_size"],
            num_layers=settings["depth"],
            num_heads=settings["heads"],
            hidden_dim=settings["width"],
            mlp_dim=settings["mlp_width"],
        )
        self.heads = nn.Identity()
        self.pools_mean = settings["pooling"] == "mean"
        if self.pools_mean:
            self.encoder.ln = nn.Identity()
            self.fc_norm = nn.LayerNorm(settings["width"], eps=EPSILON)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (n, 3, image_size, image_size) to features (n, width)."""
        patches = self._process_input(images)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1)
        encoded = self.encoder(tokens)
        return self.fc_norm(encoded[:, 1:].mean(dim=1)) if self.pools_mean else encoded[:, 0]
