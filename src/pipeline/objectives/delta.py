"""DELTA: Deep Learning Transfer using Feature Map with Attention (Li et al., ICLR 2019)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.engine.distributed import total
from pipeline.objectives.attention import channel_attention
from pipeline.objectives.layers import last_of_stages, outputs_of, require_layers
from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.penalties import half_squared_norm
from pipeline.objectives.start import Objective, Start


def build(settings: Mapping[str, Any], start: Start) -> Objective:
    """The objective, with attention measured on training images where the settings ask for it.

    Args:
        settings: ``alpha``, ``beta``, ``layers`` (None for the last of each stage), ``normalise``,
            ``attention``, ``attention_images`` and ``fitting_images``.
        start: Its ``pretrained`` encoder gives the maps to stay near.

    Raises:
        PipelineError: If a layer does not exist or gives no maps, or none are named of an encoder whose
            stages are not known.
    """
    encoder = start.pretrained.encoder
    layers = tuple(settings["layers"] or last_of_stages(encoder))
    images, _ = next(start.training(2))
    with torch.no_grad():
        axes = {name: channel_axis(maps) for name, maps in require_layers(encoder, layers, images).items()}
    attention = None
    if settings["attention"]:
        attention = channel_attention(
            encoder, axes, start.training, settings["attention_images"], settings["fitting_images"]
        )
    return Delta(encoder, layers, attention, settings["alpha"], settings["beta"], settings["normalise"])


class Delta(Objective):
    r"""Cross-entropy, and penalties on maps that leave those of the start and on the head (DELTA, Eq. 2-4).

    .. math::
        \mathcal{L}_{ce} + \alpha \, \Omega + \frac{\beta}{2} |w_{head}|^2, \quad
        \Omega = \frac{1}{2} \sum_l \sum_i |F_l(x_i) - F^0_l(x_i)|^2
        \quad \text{or} \quad
        \frac{1}{2} \sum_l \sum_i \frac{C_l}{H_l W_l} \sum_c a_{lc} |F_{lc}(x_i) - F^0_{lc}(x_i)|^2

    Args:
        start: The encoder that gives F0, frozen and in evaluation mode; it is not copied.
        layers: Paths of the modules that give F.
        attention: By layer a, float (c,); None for the plain sum.
        alpha: Of the maps.
        beta: Of the head.
        normalise: ``sum`` over the images of a batch, or their ``mean``.
    """

    def __init__(
        self,
        start: nn.Module,
        layers: tuple[str, ...],
        attention: Mapping[str, torch.Tensor] | None,
        alpha: float,
        beta: float,
        normalise: str,
    ):
        super().__init__()
        self.layers, self.alpha, self.beta, self.normalise = layers, alpha, beta, normalise
        # In a tuple it is no submodule: its weights are in the start's file, not in every checkpoint.
        self._start = (start,)
        self.with_attention = attention is not None
        for number, name in enumerate(layers if attention else ()):
            assert attention is not None
            self.register_buffer(f"attention_{number}", attention[name])

    def forward(self, outputs: TargetOutputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, a scalar, and its parts before alpha and beta."""
        target = functional.cross_entropy(outputs.logits.float(), outputs.labels)
        with torch.no_grad():
            start = outputs_of(self._start[0], self.layers, outputs.images)
        distances = [
            self._distance(number, outputs.layers[name], start[name])
            for number, name in enumerate(self.layers)
        ]
        behaviour = total(torch.stack(distances).sum())
        if self.normalise == "mean":
            behaviour = behaviour / len(outputs.labels)
        head = half_squared_norm(outputs.backbone.head.parameters())
        loss = target + self.alpha * behaviour + self.beta * head
        return loss, {"cross_entropy": target, "delta": behaviour, "l2_head": head}

    def _distance(self, number: int, maps: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        attention = getattr(self, f"attention_{number}") if self.with_attention else None
        # Differences are taken again in the backward pass: to hold them would cost more than the maps.
        distance = checkpoint(
            behavioural_distance, maps, start, attention, use_reentrant=False, preserve_rng_state=False
        )
        assert isinstance(distance, torch.Tensor)
        return distance


def behavioural_distance(
    maps: torch.Tensor, start: torch.Tensor, attention: torch.Tensor | None
) -> torch.Tensor:
    """Half the squared distance of maps, over all images and, with attention, the mean over space.

    Args:
        maps: Maps (n, c, h, w) or tokens (n, t, c), float.
        start: The same of the start.
        attention: Of the channels, (c,), or None for the plain sum.

    Returns:
        A scalar.
    """
    precise = torch.promote_types(maps.dtype, torch.float32)
    moved = (maps.to(precise) - start.to(precise)).square()
    if attention is None:
        return moved.sum() / 2
    axis = channel_axis(maps)
    rest = [other for other in range(maps.ndim) if other != axis]
    positions = moved[0].numel() // len(attention)
    return (moved.sum(rest) * attention).sum() * len(attention) / positions / 2


def channel_axis(maps: torch.Tensor) -> int:
    """Where maps (n, c, h, w) or tokens (n, t, c) have their channels."""
    return 1 if maps.ndim == 4 else 2
