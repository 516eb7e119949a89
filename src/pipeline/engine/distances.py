"""How far training has moved the weights of a backbone."""

import torch
from torch import nn


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
