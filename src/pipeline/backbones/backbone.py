"""One encoder, whatever its architecture."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from pipeline.engine.layers import mlp
from pipeline.engine.randomness import seeded
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Description:
    """What a weight file says of its backbone, JSON-ready.

    Attributes:
        architecture: Settings of the network; ``name`` is its module in `architectures`.
        preprocessing: ``resize``, ``crop``, ``mean``, ``std``.
        projection: ``hidden`` and ``dimensions`` of a projection head, or None.
        class_names: Classes of the pre-training head in label order, or None.
    """

    architecture: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    projection: Mapping[str, Any] | None = None
    class_names: list[str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


class Backbone(nn.Module):
    """An encoder, with a projection head and a pre-training head where it has them.

    Attributes:
        encoder: float32 (n, 3, crop, crop) to penultimate features (n, width).
        width: Width of the penultimate features.
        projection: (n, width) to (n, dimensions), or None.
        head: (n, width) to (n, classes), or None.
        classification_layer: Prefix of the head's keys in published checkpoints, or None.
        frozen: What training leaves as it is; see `freeze`.
    """

    def __init__(self, description: Description):
        super().__init__()
        self.description = description
        architecture = description.architecture
        module = importlib.import_module(f"pipeline.backbones.architectures.{architecture['name']}")
        self.encoder, self.width, self.classification_layer = module.build(architecture)
        self.projection: nn.Module | None = None
        self.head: nn.Linear | None = None
        if description.projection is not None:
            hidden = description.projection["hidden"] or self.width
            self.projection = mlp(self.width, hidden, description.projection["dimensions"])
        if description.class_names is not None:
            self.head = nn.Linear(self.width, len(description.class_names))

        self.frozen = "nothing"

    def freeze(self, what: str) -> None:
        """Let training leave a part as it is.

        Args:
            what: ``nothing``, ``statistics`` (batch normalisation keeps and uses the running ones), or
                ``encoder``.
        """
        self.frozen = what
        self.encoder.requires_grad_(what != "encoder")
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        """As any module's, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for part in self.encoder.modules():
            if self.frozen == "encoder" or (self.frozen == "statistics" and isinstance(part, BatchNorm)):
                part.training = False
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Penultimate features, (n, width)."""
        # Where the encoder is compiled, its forward method is what is not: evaluation comes in batches of
        # many sizes, each of which would be compiled for a few passes.
        return self.encoder(images) if torch.is_grad_enabled() else self.encoder.forward(images)

    def features(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        """Features of one layer, (n, d); maps are averaged over space.

        Args:
            images: float32 (n, 3, crop, crop).
            layer: ``penultimate``, ``projection`` or the path of a module in the encoder.

        Raises:
            PipelineError: If there is no such layer.
        """
        if layer == "penultimate":
            return self.encoder(images)
        if layer == "projection":
            if self.projection is None:
                raise PipelineError("feature_layer is projection, and this backbone has none")
            return self.projection(self.encoder(images))
        return self._output_of(layer, images)

    def _output_of(self, layer: str, images: torch.Tensor) -> torch.Tensor:
        try:
            module = self.encoder.get_submodule(layer)
        except AttributeError:
            known = ", ".join(name for name, _ in self.encoder.named_children())
            raise PipelineError(
                f"feature_layer {layer!r}: no such module; penultimate, projection, or a path "
                f"below one of {known}"
            ) from None
        seen: list[torch.Tensor] = []
        handle = module.register_forward_hook(lambda _module, _input, output: seen.append(output))
        try:
            self.encoder(images)
        finally:
            handle.remove()
        if not seen or not isinstance(seen[-1], torch.Tensor):
            raise PipelineError(f"feature_layer {layer!r}: gives no tensor when an image passes")
        maps = seen[-1]
        return maps.mean(dim=(2, 3)) if maps.ndim == 4 else maps.flatten(1)


def build_backbone(description: Description, seed: int) -> Backbone:
    """A backbone with random weights drawn from `seed`."""
    with seeded(seed, "weights"):
        return Backbone(description).to(memory_format=torch.channels_last)
