"""Forward passes without gradients over decoded images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from pipeline.engine.augmentation import Normalisation


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
        For each tensor of `forward` a float32 array of m rows.
    """
    training = module.training
    module.eval()
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, max(1, len(rows)), batch_size):
        pixels = torch.from_numpy(images[rows[start : start + batch_size]]).to(device)
        parts.append(tuple(out.float().cpu().numpy() for out in forward(normalise(pixels))))
    module.train(training)
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
