"""Which features Core-tuning contrasts: readings of P_i and A_i with the mixed ones among them.

The paper says that both hold mixed pairs (section 4.3), and adds each image's own to its own sets
(Algorithm 1, lines 6 and 7: z- to the positives too). It leaves open in whose sets else they are, and
whether they are anchors.
"""

import torch
import torch.nn.functional as functional

from pipeline.objectives.contrastive import at_least_float32, itself, same_class, similarity
from pipeline.objectives.mixup import Mixed

# Similarities, which of them are positive, and which are candidates, as `contrastive` takes them.
Pairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

# How many of the images, their z+ and their z- are anchors, in this order.
ANCHORS = {
    "pooled": 1,
    "pooled_positive_anchors": 2,
    "pooled_soft_labels": 3,
    "pooled_hard_labels": 3,
}


def pairs(
    reading: str, projections: torch.Tensor, labels: torch.Tensor, negatives: Mixed, temperature: float
) -> Pairs:
    """The pairs of a batch, by one reading.

    - ``per_anchor``: anchors are the images; P_i has the other images of the class and the anchor's
      own z+, A_i all other images, its own z+ and its own z-.
    - ``per_anchor_as_printed``: the same, with z- in P_i too.
    - ``pooled``: anchors are the images; P_i has the other images of the class and their z+, A_i all
      other features.
    - ``pooled_positive_anchors``: the same, and z+ are anchors as well.
    - ``pooled_soft_labels``: all are anchors; features with equal soft labels are positives.
    - ``pooled_hard_labels``: all are anchors; a z- has the class of the larger part of its label.

    Args:
        reading: One of these.
        projections: v of the images, of their z+ and of their z-, float (3 n, d), rows of length 1.
        labels: int64 (n,).
        negatives: z- and their labels.
        temperature: tau.
    """
    if reading in ANCHORS:
        return _pooled(reading, projections, labels, negatives, temperature)
    return _own(reading == "per_anchor_as_printed", projections, labels, negatives, temperature)


def _own(
    as_printed: bool, projections: torch.Tensor, labels: torch.Tensor, negatives: Mixed, temperature: float
) -> Pairs:
    """The readings in which mixed features meet their own anchor alone."""
    images, plus, minus = at_least_float32(projections).chunk(3)
    products = [(images * mixed).sum(1, keepdim=True) / temperature for mixed in (plus, minus)]
    similarities = torch.cat([similarity(images, images, temperature), *products], 1)
    exists = negatives.exists[:, None]
    always = torch.ones_like(exists)
    positive = torch.cat([same_class(labels), always, exists if as_printed else ~always], 1)
    return similarities, positive, torch.cat([~itself(labels), always, exists], 1)


def _pooled(
    reading: str, projections: torch.Tensor, labels: torch.Tensor, negatives: Mixed, temperature: float
) -> Pairs:
    """The readings in which all features meet."""
    count = ANCHORS[reading] * len(labels)
    classes = _classes(reading, labels, negatives)
    exists = torch.cat([torch.ones_like(negatives.exists).repeat(2), negatives.exists])
    candidate = exists & ~itself(classes)[:count]
    positive = (classes[:count, None] == classes) & candidate & exists[:count, None]
    return similarity(projections[:count], projections, temperature), positive, candidate


def _classes(reading: str, labels: torch.Tensor, negatives: Mixed) -> torch.Tensor:
    """A class for the images, for z+, which have their anchor's, and for z-, int64 (3 n,)."""
    if reading == "pooled_hard_labels":
        hard = torch.where(negatives.share >= 0.5, negatives.second, negatives.first)
        return torch.cat([labels, labels, hard])
    if reading == "pooled_soft_labels":
        known = functional.one_hot(labels).to(negatives.share)
        share = negatives.share[:, None]
        # The partner of each z- is in the batch, so that its class is among the columns.
        second = functional.one_hot(negatives.second, known.shape[1]).to(share)
        vectors = torch.cat([known, known, (1 - share) * known + share * second])
        return torch.unique(vectors, dim=0, return_inverse=True)[1]
    return torch.cat([labels, labels, torch.full_like(labels, -1)])
