"""Checkpoints to resume from: safetensors with the optimiser's state beside the weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pipeline.engine.optimisation import Optimiser
from pipeline.tables import atomic_path

WEIGHTS = "weights:"
OPTIMISER = "optimiser:"


def save_checkpoint(
    path: Path, learner: nn.Module, optimiser: Optimiser, identity: str, position: Mapping[str, Any]
) -> None:
    """Write weights, buffers and the optimiser's state atomically.

    Args:
        path: The file.
        learner: All of its state is kept.
        optimiser: Its moments are kept; learning rates follow from the step.
        identity: What this training is; another one's checkpoint is never resumed from.
        position: JSON-ready values that say how far it is.
    """
    weights = {WEIGHTS + name: value for name, value in learner.state_dict().items()}
    moments = {OPTIMISER + name: value for name, value in optimiser.state().items()}
    tensors = {name: value.contiguous() for name, value in {**weights, **moments}.items()}
    note = {"identity": identity, "position": dict(position)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"checkpoint": json.dumps(note)})


def load_checkpoint(
    path: Path, learner: nn.Module, optimiser: Optimiser, identity: str, last_step: int
) -> dict[str, Any] | None:
    """Put a checkpoint's state into learner and optimiser.

    Returns:
        The position it was saved at; None if there is no checkpoint, if it is another training's or
        beyond the last step, or if it cannot be read (training then starts anew).
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads(file.metadata()["checkpoint"])
            if note["identity"] != identity or note["position"]["step"] > last_step:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    learner.load_state_dict(_part(tensors, WEIGHTS))
    optimiser.load_state(_part(tensors, OPTIMISER))
    return dict(note["position"])


def _part(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
