"""Bi-tuning (Zhong et al. 2021): classifier and projections contrasted with queues of keys.

Read from the Transfer Learning Library (TLL), its authors' code.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.engine.distributed import gather
from pipeline.objectives.contrastive import at_least_float32, project, similarity
from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.start import Objective, Start


def build(settings: Mapping[str, Any], start: Start) -> Objective:
    """The objective, with a momentum copy of the encoder and queues of random keys.

    Args:
        settings: ``weight``, ``temperature``, ``momentum``, ``queue``, ``projection``.
        start: Its backbone is copied.
    """
    projection = nn.Linear(start.width, settings["projection"])
    return BiTuning(start.backbone.encoder, projection, start.width, len(start.class_names), settings)


class BiTuning(Objective):
    """Cross-entropy plus classifier (CCE) and categorical (CLR) contrast with keys of an older encoder.

    Args:
        encoder: Images to features, (n, width); copied, and the copy moves after each step.
        projection: (n, width) to (n, dimensions).
        width: Of the features.
        classes: How many the target has.
        settings: See `build`.

    Attributes:
        feature_queue: Features of earlier keys with a 1 behind, unit length, (classes, K, width + 1).
        projection_queue: Their projections, unit length, (classes, K, dimensions).
        position: Where the next key of each class goes, int64 (classes,).
    """

    views = 2
    feature_queue: torch.Tensor
    projection_queue: torch.Tensor
    position: torch.Tensor

    def __init__(
        self, encoder: nn.Module, projection: nn.Linear, width: int, classes: int, settings: Mapping[str, Any]
    ):
        super().__init__(heads=[projection])
        self.projection = projection
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_projection = copy.deepcopy(projection).requires_grad_(False)
        self.weight, self.temperature = settings["weight"], settings["temperature"]
        self.momentum = settings["momentum"]
        for name, dimensions in (("feature_queue", width + 1), ("projection_queue", projection.out_features)):
            keys = torch.randn(classes, settings["queue"], dimensions)
            self.register_buffer(name, functional.normalize(keys, dim=2))
        self.register_buffer("position", torch.zeros(classes, dtype=torch.long))

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and its three parts before the weight; the keys join the queues.

        As in TLL, projections meet the queue from before this batch, the classifier that from after.
        """
        labels, head = outputs.labels, outputs.backbone.head
        keys, key_projections = self._keys(outputs)
        parts = {"cross_entropy": functional.cross_entropy(at_least_float32(outputs.logits), labels)}
        parts["categorical_contrast"] = categorical_contrast(
            project(self.projection, outputs.features),
            key_projections,
            # A copy: the queue changes before the backward pass would read it.
            self.projection_queue.clone(),
            labels,
            self.temperature,
        )
        self.enqueue(extended(keys), key_projections, labels)
        parts["classifier_contrast"] = classifier_contrast(
            extended(outputs.features), self.feature_queue, head.weight, head.bias, labels, self.temperature
        )
        contrast = parts["categorical_contrast"] + parts["classifier_contrast"]
        return parts["cross_entropy"] + self.weight * contrast, parts

    @torch.no_grad()
    def _keys(self, outputs: TargetOutputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the second view by the older encoder, and their projections, of the joint batch."""
        # Where batch normalisation of the trained encoder is frozen, so is that of the copy.
        for key, query in zip(self.key_encoder.modules(), outputs.backbone.encoder.modules(), strict=True):
            key.training = query.training
        images = outputs.views[0].contiguous(memory_format=torch.channels_last)
        keys = gather(self.key_encoder(images))
        return keys, project(self.key_projection, keys)

    @torch.no_grad()
    def enqueue(self, features: torch.Tensor, projections: torch.Tensor, labels: torch.Tensor) -> None:
        """Put keys in place of the oldest ones of their classes.

        Args:
            features: `extended` features, (n, width + 1).
            projections: (n, dimensions).
            labels: int64 (n,).
        """
        size = self.feature_queue.shape[1]
        same = labels[:, None] == labels[None, :]
        before, count = same.tril(-1).sum(1), same.sum(1)
        # Of several keys for one place the last counts; all write it, so that their order is no matter.
        last = before + (count - 1 - before) // size * size
        written = (same & (before[None, :] == last[:, None])).int().argmax(1)
        places = labels, (self.position[labels] + before) % size
        self.feature_queue[places] = features[written].to(self.feature_queue)
        self.projection_queue[places] = projections[written].to(self.projection_queue)
        self.position.index_add_(0, labels, torch.ones_like(labels)).remainder_(size)

    @torch.no_grad()
    def after_step(self, backbone: Any) -> None:
        """Move the copies of encoder and projection towards the trained ones."""
        for old, new in ((self.key_encoder, backbone.encoder), (self.key_projection, self.projection)):
            for key, query in zip(old.parameters(), new.parameters(), strict=True):
                key.lerp_(query, 1 - self.momentum)


def extended(features: torch.Tensor) -> torch.Tensor:
    """Features with a 1 behind, for the classifier's bias, at unit length: (n, width + 1)."""
    return functional.normalize(functional.pad(at_least_float32(features), (0, 1), value=1.0), dim=1)


def categorical_contrast(
    queries: torch.Tensor,
    keys: torch.Tensor,
    queue: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """CLR: the projection of each image against its own key and those of all classes in the queue.

    Args:
        queries: Unit length, (n, d).
        keys: Of the same images, unit length, (n, d).
        queue: (classes, K, d).
        labels: int64 (n,).
        temperature: tau.
    """
    own = (queries * keys).sum(1) / temperature
    return _contrast(own, similarity(queries, queue.flatten(0, 1), temperature), labels, len(queue))


def classifier_contrast(
    features: torch.Tensor,
    queue: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """CCE: the classifier's row of each image's class against its features and those in the queue.

    Only features get a gradient: TLL takes the classifier as a constant here.

    Args:
        features: `extended`, (n, width + 1).
        queue: (classes, K, width + 1).
        weight: Of the classifier, (classes, width).
        bias: (classes,).
        labels: int64 (n,).
        temperature: tau.
    """
    rows = torch.cat([weight, bias[:, None]], 1).detach()[labels]
    rows = functional.normalize(at_least_float32(rows), dim=1)
    own = (features * rows).sum(1) / temperature
    return _contrast(own, similarity(rows, queue.flatten(0, 1), temperature), labels, len(queue))


def _contrast(own: torch.Tensor, queued: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Minus the mean log-softmax of an image's own key and the K of its class, over the batch.

    Args:
        own: (n,).
        queued: (n, classes K), class by class.
        labels: int64 (n,).
        classes: How many.
    """
    normaliser = torch.logsumexp(torch.cat([own[:, None], queued], 1), 1)
    of_class = queued.unflatten(1, (classes, -1))[torch.arange(len(labels), device=labels.device), labels]
    positives = torch.cat([own[:, None], of_class], 1)
    return (normaliser - positives.mean(1)).mean()
