"""Co-Tuning for Transfer Learning (You et al., NeurIPS 2020): the source head is trained as well."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.errors import PipelineError
from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.relationship import calibrated, direct, probabilities
from pipeline.objectives.start import Objective, Start, Tables
from pipeline.tables import feature_column


def build(settings: Mapping[str, Any], start: Start) -> Objective:
    """The objective, with the relationship of classes estimated from the untrained start.

    Args:
        settings: ``weight`` lambda, ``relationship``, ``logit_scale`` and ``regularisation``.
        start: Its backbone must have the head of pre-training.

    Raises:
        PipelineError: If there is no such head, or the target's images do not allow the estimate.
    """
    if start.source_head is None:
        raise PipelineError("objective co_tuning trains the head of pre-training, and this backbone has none")
    return CoTuning(
        start.source_head,
        settings["weight"],
        _relationship(settings, start),
        start.class_names,
        start.source_class_names,
    )


def _relationship(settings: Mapping[str, Any], start: Start) -> np.ndarray:
    logits, labels = start.source_logits("train")
    absent = set(range(len(start.class_names))) - set(labels.tolist())
    if absent:
        names = ", ".join(repr(start.class_names[label]) for label in sorted(absent)[:10])
        raise PipelineError(f"objective co_tuning: no training image of class {names}")
    train = probabilities(logits, settings["logit_scale"])
    if settings["relationship"] == "direct":
        return direct(train, labels)
    logits, validation_labels = start.source_logits("validation")
    if not len(validation_labels):
        raise PipelineError(
            "objective co_tuning: relationship calibrated needs a validation part, and the target has "
            "none; take relationship: direct"
        )
    validation = probabilities(logits, settings["logit_scale"])
    return calibrated(train, labels, validation, validation_labels, settings["regularisation"])


class CoTuning(Objective):
    r"""Cross-entropy of the target, plus lambda times that of the source head (You et al. 2020).

    .. math::
        \frac{1}{n} \sum_i \Bigl( -\log p_t(y_i | x_i)
        - \lambda \sum_s p(y_s = s | y_t = y_i) \log p_s(s | x_i) \Bigr)

    Args:
        source_head: Trained on, at the backbone's learning rate.
        weight: lambda.
        relationship: p(y_s | y_t), float (target classes, source classes), rows of sum 1.
        class_names: The target's classes.
        source_class_names: The source's.

    Attributes:
        relationship: float32, kept with the weights.
    """

    relationship: torch.Tensor

    def __init__(
        self,
        source_head: nn.Linear,
        weight: float,
        relationship: np.ndarray,
        class_names: list[str],
        source_class_names: list[str],
    ):
        super().__init__(pretrained=[source_head])
        self.source_head, self.weight = source_head, weight
        self.class_names, self.source_class_names = class_names, source_class_names
        self.register_buffer("relationship", torch.from_numpy(relationship.astype(np.float32)))

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and its two parts before lambda."""
        target = functional.cross_entropy(outputs.logits.float(), outputs.labels)
        logits = self.source_head(outputs.features).float()
        source = functional.cross_entropy(logits, self.relationship[outputs.labels])
        return target + self.weight * source, {"cross_entropy": target, "co_tuning": source}

    def tables(self) -> Tables:
        """The relationship, a row for each class of the target."""
        rows = self.relationship.cpu().numpy()
        columns = {
            "label": np.arange(len(rows), dtype=np.int32),
            "class_name": self.class_names,
            "probabilities": feature_column(rows),
        }
        return {"relationship": (columns, {"class_names": json.dumps(self.source_class_names)})}
