"""Weight files: safetensors whose metadata describe the backbone and what made it."""

import json
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.backbones.backbone import Backbone, Description, build_backbone
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, canonical_json
from pipeline.provenance.record import METADATA_KEY, read_safetensors_metadata
from pipeline.tables import atomic_path

DESCRIPTION_KEY = "backbone"


def save_backbone(path: Path, backbone: Backbone, provenance: Provenance) -> None:
    """Write a backbone with its description and provenance, atomically."""
    metadata = {
        DESCRIPTION_KEY: canonical_json(backbone.description.to_dict()),
        METADATA_KEY: provenance.to_json(),
    }
    tensors = {name: value.contiguous() for name, value in backbone.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)
        _sort_metadata(temporary)


def read_description(path: Path) -> Description:
    """What a weight file says of its backbone.

    Raises:
        PipelineError: If it is no weight file of this project.
    """
    text = read_safetensors_metadata(path).get(DESCRIPTION_KEY)
    if text is None:
        raise PipelineError(f"{path}: holds no description of a backbone; was it made elsewhere?")
    return Description(**json.loads(text))


def load_backbone(path: Path) -> Backbone:
    """Read a backbone with its weights.

    Raises:
        PipelineError: If the file is no weight file of this project, or its tensors do not fit.
    """
    backbone = build_backbone(read_description(path), seed=0)
    try:
        backbone.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise PipelineError(f"{path}: weights do not fit their description ({error})") from error
    return backbone.to(memory_format=torch.channels_last)


def _sort_metadata(path: Path) -> None:
    """Order the header's metadata: safetensors writes it in random order, and equal runs give equal files."""
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))
