"""A step of each objective, and of COIN's stage, against one of cross-entropy."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from training import CORES, ON_GPU, STAGE, Size, Trained, prepare, pretrained_resnet50, write_noise

# A step's time over that of cross-entropy.
LIMITS = {
    "core_tuning": 1.10,
    STAGE: 1.03,
    "scl": 1.03,
    "bi_tuning": 1.50,
    "delta": 1.40,
    "l2_sp": 1.10,
    "bss": 1.10,
    "rifle": 1.10,
    "mix_and_match": 1.10,
    "co_tuning": 1.10,
}
# Rounds of one objective: a step takes seconds on two cores, and there all should be done in ten minutes.
ROUNDS = {"cpu": 5, "cuda": 20}


def measure(folder: Path, rounds: int | None, only: Sequence[str] | None) -> list[dict[str, Any]]:
    """A row for each objective.

    Args:
        folder: For the images.
        rounds: Steps of each objective, each between two of cross-entropy; on a GPU runs of steps.
        only: Names of objectives; None for all.
    """
    unknown = set(only or []) - set(LIMITS)
    if unknown:
        sys.exit(f"--only: found {', '.join(sorted(unknown))}, expected of {', '.join(LIMITS)}")
    device, size = prepare()
    images = write_noise(folder / "images.npy", size)
    pretrained = pretrained_resnet50(size, device)
    plain = Trained("cross_entropy", pretrained, images, size, device)
    rows = []
    for name in only or LIMITS:
        print(f"  {name} ...", file=sys.stderr, flush=True)
        objective = Trained(name, pretrained, images, size, device)
        rows.append(_row(name, plain, objective, size, rounds or ROUNDS[device.type]))
    return rows


def _row(name: str, plain: Trained, objective: Trained, size: Size, rounds: int) -> dict[str, Any]:
    """Each figure of the objective over the mean of the two of cross-entropy beside it: drift cancels."""
    for trained in (plain, objective):
        trained.seconds(size.steps)
    theirs, ours = [plain.seconds(size.steps)], []
    for _ in range(rounds):
        ours.append(objective.seconds(size.steps))
        theirs.append(plain.seconds(size.steps))
    ratios = [2 * one / (theirs[turn] + theirs[turn + 1]) for turn, one in enumerate(ours)]
    ratio = statistics.median(ratios)
    where = torch.cuda.get_device_name() if size is ON_GPU else f"{CORES} threads"
    return {
        "benchmark": f"objective {name}",
        "case": f"ResNet-50, {size}, {where}; ratios {min(ratios):.3f} to {max(ratios):.3f}",
        "measured": statistics.median(ours),
        "unit": "s/step",
        "peer": "cross-entropy",
        "peer_value": statistics.median(theirs),
        "compared": ratio,
        "limit": f"at most {LIMITS[name]:.2f} of the time",
        "kept": ratio <= LIMITS[name],
        "runs": rounds,
    }
