"""Mixing of features: hard pairs (Core-tuning, section 4.2), and manifold mixup (Verma et al. 2019)."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as functional

from pipeline.objectives.contrastive import at_least_float32, same_class


@dataclass(frozen=True)
class Mixed:
    """Features mixed of pairs of images, with their soft labels.

    The label is (1 - share) of the first class and share of the second.

    Attributes:
        features: (n, width).
        first: Class of one image of each pair, int64 (n,).
        second: Class of the other, int64 (n,).
        share: (n,), in [0, 1].
        exists: Which rows there are, bool (n,); a batch of one class has no negatives.
    """

    features: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    share: torch.Tensor
    exists: torch.Tensor

    def cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the soft labels over the rows that exist; zero without any.

        Args:
            logits: Of `features`, (n, classes).
        """
        logits = at_least_float32(logits)
        first = functional.cross_entropy(logits, self.first, reduction="none")
        second = functional.cross_entropy(logits, self.second, reduction="none")
        losses = (1 - self.share) * first + self.share * second
        return (losses * self.exists).sum() / self.exists.sum().clamp(min=1)


def beta(draws: torch.Tensor, alpha: float) -> torch.Tensor:
    """Draws of Beta(alpha, alpha) by its inverse distribution function.

    Args:
        draws: Uniform in [0, 1).
        alpha: Above 0.

    Returns:
        In [0, 1], like `draws`.
    """
    if alpha == 1:
        return draws  # the uniform distribution
    from scipy.special import betaincinv

    values = betaincinv(alpha, alpha, draws.double().cpu().numpy())
    return torch.from_numpy(values).to(draws)


def hardest(features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each image the least similar one of its class, and the most similar one of another.

    Similarity is the cosine. An image alone in its class is its own hardest positive; in a batch of
    one class the hardest positive stands for the hardest negative, which is not there.

    Args:
        features: (n, width).
        labels: int64 (n,).

    Returns:
        Their positions in the batch, int64 (n,) each.
    """
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        unit = functional.normalize(at_least_float32(features), dim=1)
        cosine = unit @ unit.T
        positive, negative = same_class(labels), labels[:, None] != labels[None, :]
        own = torch.arange(len(labels), device=labels.device)
        # Masked with infinities: a product with the mask would leave zeros, which may well win.
        lowest = cosine.masked_fill(~positive, float("inf")).argmin(1)
        highest = cosine.masked_fill(~negative, float("-inf")).argmax(1)
        positives = torch.where(positive.any(1), lowest, own)
        return positives, torch.where(negative.any(1), highest, positives)


def random_negatives(labels: torch.Tensor, chosen: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """For each image one of another class, each of these equally likely.

    The other images stand in the order of a draw of their own, so that the choice does not depend on
    where an image stands in the batch.

    Args:
        labels: int64 (n,).
        chosen: Which of the others, as a share of their number, (n,) in [0, 1).
        order: The draw that the others are sorted by, (n,).

    Returns:
        Positions in the batch, int64 (n,); of no meaning in a batch of one class.
    """
    sorted_by = order.argsort(stable=True)
    negative = labels[:, None] != labels[sorted_by][None, :]
    counts = negative.sum(1)
    # In float32 the largest draw times the count can round to the count itself.
    wanted = torch.minimum((chosen * counts).long(), (counts - 1).clamp(min=0))
    passed = negative.cumsum(1)
    return sorted_by[(negative & (passed == wanted[:, None] + 1)).int().argmax(1)]


def mixed_positives(features: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """z+ of each anchor: lambda of its hardest positive, the rest of its hardest negative (section 4.2).

    Gradients reach both.

    Args:
        features: z, (n, width).
        labels: int64 (n,).
        weight: lambda, (n,), clipped already.

    Returns:
        (n, width), in float32 or wider.
    """
    features, (positives, negatives) = at_least_float32(features), hardest(features, labels)
    weight = weight.to(features)[:, None]
    return weight * features[positives] + (1 - weight) * features[negatives]


def mixed_pairs(
    features: torch.Tensor, labels: torch.Tensor, partners: torch.Tensor, share: torch.Tensor
) -> Mixed:
    """Each image with `share` of its partner: z- and its soft label (section 4.2), for one.

    Args:
        features: z, (n, width).
        labels: int64 (n,).
        partners: Positions in the batch, int64 (n,).
        share: The partner's, (n,).
    """
    features = at_least_float32(features)
    share = share.to(features)
    mixed = (1 - share[:, None]) * features + share[:, None] * features[partners]
    return Mixed(mixed, labels, labels[partners], share, torch.ones_like(labels, dtype=torch.bool))


def mixed_negatives(
    features: torch.Tensor, labels: torch.Tensor, partners: torch.Tensor, share: torch.Tensor
) -> Mixed:
    """`mixed_pairs` with images of another class; there are none in a batch of one class."""
    mixed = mixed_pairs(features, labels, partners, share)
    return replace(mixed, exists=mixed.first != mixed.second)


def shuffled_pairs(order: torch.Tensor) -> torch.Tensor:
    """A random partner for each image, never itself unless it is alone: the next in a random order.

    Args:
        order: The draw that images are sorted by, (n,).

    Returns:
        Positions in the batch, int64 (n,).
    """
    sorted_by = order.argsort(stable=True)
    return torch.empty_like(sorted_by).scatter(0, sorted_by, sorted_by.roll(-1))
