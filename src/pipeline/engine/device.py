"""The device of a step, and how arithmetic is done on it."""

import torch


def prepare_device(threads: int) -> torch.device:
    """The first GPU where there is one, else the CPU with so many threads, deterministic there."""
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
        return torch.device("cuda")
    torch.set_deterministic_debug_mode("error")
    # No result reads memory that nothing was written to; filling it costs a tenth of a small network.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cpu")
