"""Forward passes without gradients over decoded images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from pipeline.engine.augmentation import Normalisation
from pipeline.engine.distributed import gather, own_part, world


@torch.inference_mode()
def forward_all(
    module: nn.Module,
    forward: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
    images: np.ndarray,
    rows: np.ndarray,
    normalise: Normalisation,
    device: torch.device,
    batch_size: int = 256,
) -> tuple[np.ndarray, ...]:
    """Apply `forward` to images in evaluation mode, batch by batch.

    Args:
        module: Set to evaluation mode meanwhile.
        forward: From float32 (b, 3, crop, crop) to tensors of b rows each.
        images: uint8 (n, size, size, 3), usually memory-mapped.
        rows: Which images, int64 (m,), in this order.
        normalise: From images to input.
        device: Where to compute.
        batch_size: Images in a forward pass.

    Returns:
        For each tensor of `forward` a float32 array of m rows. Processes that train together take a
        part of the rows each, and all get all of them.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    rows = own_part(rows)
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, max(1, len(rows)), batch_size):
        pixels = torch.from_numpy(images[rows[start : start + batch_size]]).to(device)
        parts.append(tuple(out.float().cpu().numpy() for out in forward(normalise(pixels))))
    for part, training in modes:
        part.training = training
    return tuple(_of_all(np.concatenate(column), device) for column in zip(*parts, strict=True))


def _of_all(own: np.ndarray, device: torch.device) -> np.ndarray:
    """The rows of all processes."""
    return own if world() == 1 else gather(torch.from_numpy(own).to(device)).cpu().numpy()
