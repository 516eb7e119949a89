"""Squared distances of weights, as penalties."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def half_squared_distance(weights: Sequence[torch.Tensor], start: Sequence[torch.Tensor]) -> torch.Tensor:
    r"""How far weights have moved: :math:`\frac{1}{2} \sum |w - w^0|^2`, with gradient w - w0.

    Args:
        weights: w, float tensors of any shapes, all on one device.
        start: w0, as many of the same shapes; no gradient goes to them.

    Returns:
        A scalar.
    """
    return _HalfSquaredDistance.apply(len(weights), *weights, *start)


def half_squared_norm(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    r""":math:`\frac{1}{2} \sum |w|^2` of a few tensors, a scalar."""
    return torch.stack([weight.square().sum() for weight in weights]).sum() / 2


class _HalfSquaredDistance(torch.autograd.Function):
    """All weights of a network at once: operation by operation, autograd would launch a thousand kernels
    and keep every difference until the backward pass."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.count = count
        ctx.save_for_backward(*tensors)
        moved = torch._foreach_sub(tensors[:count], tensors[count:])
        return torch.stack(torch._foreach_norm(moved)).square().sum() / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tensors = ctx.saved_tensors
        moved = torch._foreach_sub(tensors[: ctx.count], tensors[ctx.count :])
        torch._foreach_mul_(moved, gradient)
        return None, *moved, *[None] * ctx.count
