"""Contrast-regularised fine-tuning (Core-tuning, sections 4.1 to 4.4 and Algorithm 1)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.engine.layers import mlp
from pipeline.objectives.contrastive import (
    at_least_float32,
    contrastive,
    project,
    supervised_contrastive,
)
from pipeline.objectives.mixup import (
    Mixed,
    beta,
    mixed_negatives,
    mixed_pairs,
    mixed_positives,
    random_negatives,
    shuffled_pairs,
)
from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.pairs import pairs
from pipeline.objectives.start import Objective, Start

# Random numbers of each image: of hard mixup lambda of z+, lambda of z-, which negative, and where the
# image stands among the negatives of others; of manifold mixup lambda and the order of partners.
DRAWS = {"hard": 4, "manifold": 2, "none": 0}


def build(settings: Mapping[str, Any], start: Start) -> Objective:
    """The objective, with a projector of random weights where anything is contrasted.

    Args:
        settings: Of Core-tuning; see `pipeline.config.objectives`.
        start: Its width decides the projector's.
    """
    projector = None
    if settings["contrast"] != "none":
        hidden = settings["hidden"] or start.width
        projector = mlp(start.width, hidden, settings["projection"], settings["depth"])
    return CoreTuning(settings, projector)


class CoreTuning(Objective):
    r"""Cross-entropy of images and mixed negatives, plus eta times a focal contrastive loss.

    .. math::
        \frac{1}{n} \sum_i -y_i \log G_y(z_i) + \frac{1}{n} \sum_i -y_i^- \log G_y(z_i^-)
        + \eta \mathcal{L}_{con}^f

    Gradients reach the images' features through all three, through the mixing too.

    Args:
        settings: ``weight`` (eta), ``alpha``, ``positive_threshold``, ``negative_threshold``,
            ``temperature``, ``pairs``, ``focal_gradient``, ``contrast`` and ``mixup``.
        projector: G_c, (n, width) to (n, dimensions); None where ``contrast`` is ``none``.
    """

    def __init__(self, settings: Mapping[str, Any], projector: nn.Module | None):
        super().__init__(heads=[] if projector is None else [projector])
        self.settings, self.projector = dict(settings), projector
        self.draws = DRAWS[settings["mixup"]]

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and its parts before eta."""
        loss = functional.cross_entropy(at_least_float32(outputs.logits), outputs.labels)
        parts = {"cross_entropy": loss}
        mixed = self._mixed(outputs)
        if mixed is not None:
            parts["mixed_cross_entropy"] = mixed.cross_entropy(outputs.backbone.head(mixed.features))
            loss = loss + parts["mixed_cross_entropy"]
        if self.projector is not None:
            parts["contrastive"] = self._contrastive(self.projector, outputs, mixed)
            loss = loss + self.settings["weight"] * parts["contrastive"]
        return loss, parts

    def _mixed(self, outputs: TargetOutputs) -> Mixed | None:
        """The features, with soft labels, that the classifier learns from beside the images'."""
        features, labels, draws = outputs.features, outputs.labels, outputs.draws
        match self.settings["mixup"]:
            case "hard":
                partners = random_negatives(labels, draws[:, 2], draws[:, 3])
                share = self._share(draws[:, 1], "negative_threshold")
                return mixed_negatives(features, labels, partners, share)
            case "manifold":
                share = beta(draws[:, 0], self.settings["alpha"])
                return mixed_pairs(features, labels, shuffled_pairs(draws[:, 1]), share)
            case _:
                return None

    def _contrastive(self, projector: nn.Module, outputs: TargetOutputs, mixed: Mixed | None) -> torch.Tensor:
        """Among images and their hard pairs; with another mixup among the images alone."""
        settings, features, labels = self.settings, outputs.features, outputs.labels
        focal, detached = settings["contrast"] == "focal", settings["focal_gradient"] == "detach"
        temperature = settings["temperature"]
        if mixed is None or settings["mixup"] != "hard":
            projections = project(projector, features)
            return supervised_contrastive(projections, labels, temperature, focal, detached)
        weight = self._share(outputs.draws[:, 0], "positive_threshold")
        positives = mixed_positives(features, labels, weight)
        projections = project(projector, torch.cat([at_least_float32(features), positives, mixed.features]))
        found = pairs(settings["pairs"], projections, labels, mixed, temperature)
        return contrastive(*found, focal, detached)

    def _share(self, draws: torch.Tensor, threshold: str) -> torch.Tensor:
        """lambda of Beta(alpha, alpha), clipped from below (section 4.2)."""
        return beta(draws, self.settings["alpha"]).clamp(min=self.settings[threshold])
