"""Compile the forward pass of an encoder, and its gradient, with torch.compile."""

import torch
from torch import nn

from pipeline.errors import PipelineError


def compile_forward(encoder: nn.Module, threads: int) -> None:
    """Compile what calls of an encoder do, from its first call on; names of its weights stay.

    Each size of batch is compiled for itself. One kernel for all sizes would come with the second size that
    a process sees, so that a resumed training could use another one, and end with other bits.

    Args:
        encoder: Hooks that its layers have by its first call are compiled in; later ones are not seen.
        threads: That compile.

    Raises:
        PipelineError: If nothing can be compiled here.
    """
    import torch._inductor.config as inductor

    inductor.compile_threads = threads
    device = next(encoder.parameters()).device
    try:
        torch.compile(_trial)(torch.ones(8, device=device))
    except RuntimeError as error:
        needed = "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler"
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PipelineError(
            f"compile: true needs {needed} on the machine that trains, and compiling failed here ({said}); "
            "install g++, or set compile: false"
        ) from error
    encoder.compile(dynamic=False)


def _trial(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.sin() + 1
