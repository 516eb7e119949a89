"""Layers that a stage hands over to the next beside the backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.progress import log
from pipeline.provenance import Provenance
from pipeline.provenance.record import METADATA_KEY
from pipeline.tables import atomic_path

Layers = Sequence[tuple[str, nn.Module]]


def save_carried(path: Path, layers: Layers, provenance: Provenance) -> None:
    """Write the weights of named layers, atomically; none at all is a file too."""
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, layer in layers
        for key, value in layer.state_dict().items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {METADATA_KEY: provenance.to_json()})


def take_over(path: Path, layers: Layers) -> list[str]:
    """Load layers that a stage handed over into those of the same name and shape.

    Args:
        path: What `save_carried` wrote.
        layers: What may take them.

    Returns:
        Names of the layers that were loaded; what fits no layer here is dropped, with a line in the log.
    """
    tensors, taken = load_file(path), []
    for name in dict.fromkeys(key.partition(".")[0] for key in tensors):
        found = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        for own, layer in layers:
            if own == name and _shapes(layer.state_dict()) == _shapes(found):
                layer.load_state_dict(found)
                taken.append(name)
        log.info(
            "%s of the stage before: %s", name, "carried on" if name in taken else "dropped, not used here"
        )
    return taken


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in tensors.items()}
