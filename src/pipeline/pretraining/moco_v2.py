"""Momentum contrast, version 2 (Chen et al. 2020; He et al. 2020).

The UOT paper's self-supervised backbone is MoCo-v2 with 128 dimensions (section 4.1). The authors'
shuffling of batch normalisation needs several devices and is left out.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional

from pipeline.backbones.backbone import Backbone
from pipeline.engine.distributed import gather
from pipeline.engine.learner import Learner, Loss
from pipeline.engine.streams import Batch
from pipeline.errors import PipelineError

VIEWS = 2


def build(backbone: Backbone, settings: Mapping[str, Any]) -> Learner:
    """A learner that trains the backbone and its projection against a momentum copy.

    Raises:
        PipelineError: If the queue is no multiple of the batch size.
    """
    if settings["queue"] % settings["batch_size"]:
        raise PipelineError(
            f"method.queue {settings['queue']} must be a multiple of batch_size {settings['batch_size']}"
        )
    return MoCoV2(backbone, settings["queue"], settings["momentum"], settings["temperature"])


class MoCoV2(Learner):
    """InfoNCE between two views, with negatives from a queue of earlier keys.

    Attributes:
        queue: Unit-length keys, (size, dimensions).
        position: Where the next keys go.
    """

    queue: torch.Tensor
    position: torch.Tensor

    def __init__(self, backbone: Backbone, size: int, momentum: float, temperature: float):
        super().__init__()
        assert backbone.projection is not None
        self.backbone = backbone
        self.heads = (backbone.projection,)
        self.key_encoder = copy.deepcopy(backbone).requires_grad_(False)
        self.momentum, self.temperature = momentum, temperature
        dimensions = backbone.description.projection["dimensions"]  # type: ignore[index]
        self.register_buffer("queue", functional.normalize(torch.randn(size, dimensions), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def loss(self, batches: Mapping[str, Batch]) -> Loss:
        """InfoNCE of the source batch, and how often the positive scores highest."""
        batch = batches["source"]
        queries = gather(self._embed(self.backbone, batch.images))
        with torch.no_grad():
            keys = gather(self._embed(self.key_encoder, batch.views[0]))
        positives = (queries * keys).sum(1, keepdim=True)
        # Under autocast the product would come in bfloat16, too coarse once divided by the temperature.
        with torch.autocast(queries.device.type, enabled=False):
            # A copy: the queue changes before the backward pass would read it.
            negatives = queries @ self.queue.clone().T
        logits = torch.cat([positives, negatives], 1) / self.temperature
        nearest = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        hits = (logits.argmax(1) == 0).float().mean()
        self._enqueue(keys)
        return functional.cross_entropy(logits, nearest), {"instance_top1": hits}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the key encoder towards the query encoder."""
        pairs = zip(self.key_encoder.parameters(), self.backbone.parameters(), strict=True)
        for key, query in pairs:
            key.lerp_(query, 1 - self.momentum)

    def _embed(self, backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
        assert backbone.projection is not None
        return functional.normalize(backbone.projection(backbone(images)).float(), dim=1)

    @torch.no_grad()
    def _enqueue(self, keys: torch.Tensor) -> None:
        places = (self.position + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[places] = keys
        self.position.copy_((self.position + len(keys)) % len(self.queue))
