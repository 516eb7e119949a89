"""Several processes that train one model: each passes its part of every batch through the network.

What they compute of a batch together is gathered, so that each has the loss of the joint batch; PyTorch's
DistributedDataParallel then takes the mean of their gradients. Through `gather` and `total` every process
gets the sum of all processes' gradients of that same loss, so the mean is the joint batch's gradient.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as distributed

from pipeline.errors import PipelineError


def world() -> int:
    """How many processes train; one without torchrun."""
    return distributed.get_world_size() if _running() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if _running() else 0


def gather(values: torch.Tensor) -> torch.Tensor:
    """Rows of all processes in the order of their ranks, (n, ...) to (all, ...), with gradient.

    The parts may have unequal numbers of rows.
    """
    if world() == 1:
        return values
    from torch.distributed.nn.functional import all_gather

    counts = [torch.zeros((), dtype=torch.long, device=values.device) for _ in range(world())]
    distributed.all_gather(counts, torch.tensor(len(values), device=values.device))
    most = int(torch.stack(counts).max())
    # Collectives take parts of one size.
    padding = values.new_zeros(most - len(values), *values.shape[1:])
    padded = torch.cat([values, padding]).contiguous()
    if values.requires_grad:
        parts = list(all_gather(padded))
    else:
        parts = [torch.empty_like(padded) for _ in range(world())]
        distributed.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, of the same shape, with gradient."""
    if world() == 1:
        return values
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values)


@contextmanager
def lost_connection_told() -> Iterator[None]:
    """Say it plainly where another process of this job has ended, and this one waits for it in vain.

    Raises:
        PipelineError: The connection to another process broke.
    """
    try:
        yield
    except RuntimeError as error:
        # NCCL's failures have a class of their own, gloo's a path of its sources.
        if not isinstance(error, distributed.DistError) and "gloo/transport" not in str(error):
            raise
        said = str(error).partition(". ")[0]
        raise PipelineError(
            "another process of this job ended, and this one cannot go on alone; the end of the log names "
            f"the one that failed first. The last good checkpoint is kept: run again to go on ({said})"
        ) from error


def wait_for_all() -> None:
    """Go on once every process has come here: what the first has written is then there for all."""
    if world() > 1:
        distributed.barrier()


def own_part(positions: np.ndarray) -> np.ndarray:
    """The rows of a batch that this process takes: as many as any other, or one fewer."""
    return np.array_split(positions, world())[rank()]


def _running() -> bool:
    return distributed.is_available() and distributed.is_initialized()
