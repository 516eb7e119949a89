"""Mix-and-Match tuning (Zhan et al., AAAI 2018), as Core-tuning compares with it: a triplet loss beside."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional

from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.start import Objective, Start


def build(settings: Mapping[str, Any], start: Start) -> Objective:
    """The objective; where fine-tuning starts does not matter to it.

    Args:
        settings: ``weight`` and ``margin``.
        start: Not read.
    """
    return MixAndMatch(settings["weight"], settings["margin"])


class MixAndMatch(Objective):
    """Cross-entropy, plus a weight times the triplet loss of the features.

    Args:
        weight: Of the triplet loss.
        margin: Its margin.
    """

    def __init__(self, weight: float, margin: float):
        super().__init__()
        self.weight, self.margin = weight, margin

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and its parts before the weight."""
        target = functional.cross_entropy(outputs.logits.float(), outputs.labels)
        triplets = batch_hard_triplets(outputs.features, outputs.labels, self.margin)
        return target + self.weight * triplets, {"cross_entropy": target, "triplet": triplets}


def batch_hard_triplets(features: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    r"""Each image against its farthest positive and nearest negative (Hermans et al. 2017, Eq. 5).

    .. math::
        \frac{1}{|A|} \sum_{i \in A} \max \Bigl(0, \max_{y_p = y_i} |v_i - v_p|
        - \min_{y_n \ne y_i} |v_i - v_n| + m \Bigr)

    v are features divided by their length, and distances are Euclidean. A are the images that have both
    a positive and a negative in the batch.

    Args:
        features: Float (n, width).
        labels: int64 (n,).
        margin: m.

    Returns:
        A scalar; zero, with zero gradient, where A is empty.
    """
    v = functional.normalize(features.to(torch.promote_types(features.dtype, torch.float32)))
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = labels[:, None] == labels[None, :]
    positive, negative = same & ~itself, ~same
    # Among vectors of one length the farthest is the least similar. Only the triplets found keep a graph.
    with torch.no_grad(), torch.autocast(v.device.type, enabled=False):
        similarity = v @ v.T
        farthest = similarity.masked_fill(~positive, float("inf")).argmin(1)
        nearest = similarity.masked_fill(~negative, float("-inf")).argmax(1)
    apart = torch.linalg.vector_norm(v - v[farthest], dim=1)
    near = torch.linalg.vector_norm(v - v[nearest], dim=1)
    anchors = positive.any(1) & negative.any(1)
    losses = functional.relu(apart - near + margin) * anchors
    return losses.sum() / anchors.sum().clamp(min=1)
