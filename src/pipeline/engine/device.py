"""The device of a step, and how arithmetic is done on it."""

import atexit
import os

import torch
import torch.distributed as distributed

from pipeline.errors import PipelineError


def prepare_device(threads: int, processes: int = 1) -> torch.device:
    """The GPU of this process where there is one, else the CPU with so many threads, deterministic there.

    Args:
        threads: Of each process.
        processes: How many train together; more than one are started by torchrun and join here.

    Raises:
        PipelineError: If another number of processes was started, or there are fewer GPUs than processes.
    """
    torch.set_num_threads(threads)
    started = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if started != processes:
        raise PipelineError(
            f"gpu: {processes} asks for {processes} processes that train together, and {started} started; "
            f"begin the command with torchrun --standalone --nproc-per-node {processes} -m"
        )
    own = _join() if processes > 1 else 0
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
        return torch.device("cuda", own)
    torch.set_deterministic_debug_mode("error")
    # No result reads memory that nothing was written to; filling it costs a tenth of a small network.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cpu")


def _join() -> int:
    """Join the other processes of this job; the number of this one's GPU."""
    own, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < found < here:
        raise PipelineError(f"{here} processes train together here, and there are {found} GPUs")
    distributed.init_process_group("nccl" if found else "gloo")
    atexit.register(distributed.destroy_process_group)
    return own
