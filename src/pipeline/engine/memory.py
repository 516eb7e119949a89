"""Full memory, of a device or of the machine: how it is told from other errors, and what helps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.progress import log, speaks

# PyTorch has an exception of its own for its GPU allocator alone; the CPU's, the driver and cuBLAS say it in
# words.
SIGNS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_memory_full(error: Exception) -> bool:
    """Whether an error says that there is no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def memory_advice(training: Mapping[str, Any]) -> Iterator[None]:
    """Say what to change where memory does not hold a training step.

    Args:
        training: ``batch_size``, ``accumulate`` and ``precision`` of the step.

    Raises:
        PipelineError: Inside, there was no memory left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_memory_full(error):
            raise
        advice = _advice(training)
        if not speaks():  # of processes that train together, it may be this one's memory alone
            log.error(advice)
        raise PipelineError(advice) from error


def _advice(training: Mapping[str, Any]) -> str:
    size, accumulate, precision = (training[key] for key in ("batch_size", "accumulate", "precision"))
    found = (
        f"no memory left for a step with batch_size {size}, accumulate {accumulate}, precision {precision}"
    )
    ways = []
    if precision != "bfloat16":
        ways.append("precision: bfloat16")
    if size > 1:
        ways.append(
            f"batch_size: {size // 2} with accumulate: {2 * accumulate}, which gives steps of as many images "
            "(an objective that compares the images of a batch sees half of them together)"
        )
    ways.append("a smaller network or smaller images")
    return f"{found}. Try {', or '.join(ways)}. The last good checkpoint is kept."
