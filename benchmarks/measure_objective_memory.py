"""The most memory that a step of Core-tuning has, against one of cross-entropy.

Counted is what PyTorch's allocator has given out at once, network, moments and projector included:
by CUDA's own account on a GPU. On CPUs it is summed over the allocations that PyTorch's profiler
lists from the start of the process. The resident memory of a process would add the libraries to
both sides and so bring the ratio nearer to 1.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from training import Size, Trained, prepare, pretrained_resnet50, write_noise

LIMIT = 1.05
# The gradients of the second step meet moments that the first has made.
STEPS = 3


def measure(folder: Path) -> list[dict[str, Any]]:
    """One row, from a process for each objective."""
    ours, plain = (_measured(name, folder) for name in ("core_tuning", "cross_entropy"))
    ratio = ours["megabytes"] / plain["megabytes"]
    return [
        {
            "benchmark": "objective core_tuning, memory",
            "case": f"ResNet-50, {ours['case']}, {ours['counted']}",
            "measured": ours["megabytes"],
            "unit": "MB",
            "peer": "cross-entropy",
            "peer_value": plain["megabytes"],
            "compared": ratio,
            "limit": f"at most {LIMIT:.2f} of the memory",
            "kept": ratio <= LIMIT,
            "runs": 1,
        }
    ]


def _measured(name: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, name, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # The profiler talks before.
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure(name: str, folder: Path) -> dict[str, Any]:
    device, size = prepare()

    def steps() -> None:
        _steps(name, folder, size, device)

    if device.type == "cuda":
        steps()
        counted, most = "by CUDA's allocator", torch.cuda.max_memory_allocated(device)
    else:
        counted, most = "by the profiler's list of allocations", _most_allocated(steps, folder)
    return {"case": str(size), "counted": counted, "megabytes": most / 1e6}


def _steps(name: str, folder: Path, size: Size, device: torch.device) -> None:
    images = write_noise(folder / "images.npy", size)
    trained = Trained(name, pretrained_resnet50(size, device), images, size, device)
    trained.step()
    if device.type == "cuda":
        # The first step also tries algorithms of the convolutions, some with large workspaces.
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(STEPS - 1):
        trained.step()


def _most_allocated(call: Callable[[], None], folder: Path) -> int:
    """Bytes on the CPU, as the profiler's trace has them after each allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    trace = folder / "trace.json"
    profiled.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]")


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]))))
