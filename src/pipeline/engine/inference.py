"""Forward passes without gradients over decoded images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from pipeline.engine.augmentation import Normalisation
from pipeline.engine.distributed import gather, own_part, world
from pipeline.engine.memory import is_memory_full
from pipeline.errors import PipelineError
from pipeline.progress import log


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
        batch_size: Images in a forward pass; halved, with a line in the log, until memory holds one.

    Returns:
        For each tensor of `forward` a float32 array of m rows. Processes that train together take a
        part of the rows each, and all get all of them.

    Raises:
        PipelineError: If memory does not hold a forward pass of one image.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    rows = own_part(rows)
    parts: list[tuple[np.ndarray, ...]] = []
    start = 0
    while start < max(1, len(rows)):
        try:
            pixels = torch.from_numpy(images[rows[start : start + batch_size]]).to(device)
            parts.append(tuple(out.float().cpu().numpy() for out in forward(normalise(pixels))))
            start += batch_size
        except (RuntimeError, MemoryError) as error:
            batch_size = _smaller(batch_size, error)
    for part, training in modes:
        part.training = training
    return tuple(_of_all(np.concatenate(column), device) for column in zip(*parts, strict=True))


def _smaller(batch_size: int, error: Exception) -> int:
    """Half of a batch size that memory does not hold; any other error is raised again."""
    if not is_memory_full(error):
        raise error
    if batch_size == 1:
        raise PipelineError(
            "no memory left for a forward pass of one image; take a device with more of it, or a smaller "
            "network or smaller images"
        ) from error
    log.warning(
        "no memory left for forward passes of %d images; %d from here on", batch_size, batch_size // 2
    )
    return batch_size // 2


def _of_all(own: np.ndarray, device: torch.device) -> np.ndarray:
    """The rows of all processes."""
    return own if world() == 1 else gather(torch.from_numpy(own).to(device)).cpu().numpy()
