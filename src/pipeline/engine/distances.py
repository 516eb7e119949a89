"""How far training has moved the weights of a backbone, and the features it gives."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

# Images whose features are followed.
FOLLOWED = 256


class Distances:
    """Distances of weights from where they were when this was made.

    Args:
        encoder: Its weight tensors of two dimensions or more are followed; biases and the weights of
            normalisation are not.
    """

    def __init__(self, encoder: nn.Module):
        weights = {name: weight for name, weight in encoder.named_parameters() if weight.ndim > 1}
        self.names, self.weights = list(weights), list(weights.values())
        self.first = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def now(self) -> dict[str, float]:
        """The Frobenius norm of each weight's change, by its name in the encoder."""
        if not self.names:
            return {}
        norms = [torch.linalg.vector_norm(w - f) for w, f in zip(self.weights, self.first, strict=True)]
        return dict(zip(self.names, torch.stack(norms).tolist(), strict=True))


class FeatureDistance:
    """How far the features of some images have moved since this was made.

    Args:
        count: Images, one at least.
        features: Gives those of some of them, by int64 positions (m,) to (m, width).
    """

    def __init__(self, count: int, features: Callable[[np.ndarray], np.ndarray]):
        self.followed = spread(np.arange(count), FOLLOWED)
        self.first = features(self.followed)

    def of(self, features: np.ndarray) -> float:
        """The mean distance over the images followed, in mean norms of their first features.

        Args:
            features: Of all images now, (count, width); at most `FOLLOWED` of them, evenly spread, count.
        """
        moved = np.linalg.norm(features[self.followed] - self.first, axis=1)
        return float(moved.mean() / np.linalg.norm(self.first, axis=1).mean())


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """So many rows, evenly over all: a manifest often goes class by class."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)]
