"""Checkpoints made elsewhere: read without running code, and laid onto a backbone key by key."""

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipeline.backbones.backbone import Backbone, Description, build_backbone
from pipeline.errors import PipelineError, listed

Tensors = Mapping[str, torch.Tensor]
# A module, its tensors, and what comes before their names in the checkpoint.
Part = tuple[nn.Module, Tensors, str]

LINEAR = {"weight", "bias"}
PROJECTION = {"0.weight", "0.bias", "2.weight", "2.bias"}


def read_tensors(path: Path, nested: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file or of a checkpoint of PyTorch.

    Which of the two it is, the first bytes say; nothing in the file is ever run.

    Args:
        path: The file.
        nested: Names below which a checkpoint of PyTorch may have the weights, beside its optimiser's
            state, epoch and so on.

    Raises:
        PipelineError: If it needs code to be read, is neither of the two, or holds no tensors by name.
    """
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file is a length in eight bytes, then JSON.
    content = _read_safetensors(path) if start[8:] == b"{" else _unwrap(_read_torch(path), nested)
    if not isinstance(content, Mapping) or not content:
        raise PipelineError(f"{path}: expected tensors by name, found {type(content).__name__}")
    others = [
        f"{key}: {type(value).__name__}"
        for key, value in content.items()
        if not (isinstance(key, str) and isinstance(value, torch.Tensor))
    ]
    if others:
        raise PipelineError(
            f"{path}: expected tensors by name, {' or below '.join(['at the top', *nested])}; found also\n"
            + listed(others)
        )
    return dict(content)


def adopt(
    description: Description,
    tensors: Tensors,
    source: str,
    prefix: str = "",
    class_names: list[str] | None = None,
) -> Backbone:
    """A backbone with a checkpoint's weights; every key has its place or is an error.

    The classification layer becomes the head. Where a projection of two layers is in its place, as
    in MoCo-v2, it becomes the projection that the description asks for.

    Args:
        description: Of the backbone, without class names.
        tensors: Of the checkpoint; floating point of any width becomes float32.
        source: The checkpoint's name in errors.
        prefix: Of the backbone's keys, removed; other keys are none of the backbone's.
        class_names: Of the head; ``class 0``, ``class 1``, ... where they are not known.

    Raises:
        PipelineError: If keys are missing or left over, shapes differ, values are not finite, or the
            projection is asked for and not there, or there and not asked for.
    """
    backbone = build_backbone(description, seed=0)
    hint = _prefix_hint(tensors, backbone.encoder)
    own = _below(tensors, prefix)
    if not own:
        raise PipelineError(f"{source}: no key starts with {prefix!r}{hint}\n{listed(list(tensors))}")
    _require_finite(own, source, prefix)
    layer = backbone.classification_layer
    last = _below(own, f"{layer}.") if layer else {}
    if last.keys() == {"weight"}:  # as MaxViT's: a layer without bias is one whose bias is zero
        last["bias"] = torch.zeros(len(last["weight"]))
    top = _top(backbone, last, class_names, source)
    parts: list[Part] = [(backbone.encoder, own, prefix)]
    if top is not None:
        rest = {key: value for key, value in own.items() if not key.startswith(f"{layer}.")}
        parts = [(backbone.encoder, rest, prefix), (top, last, f"{prefix}{layer}.")]
    _load(parts, source, hint)
    return backbone


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise PipelineError(f"{path}: not a readable safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            # The first sentence alone: the next one advises to let the file run its code.
            reason = str(error).partition(". ")[0] or type(error).__name__
            raise PipelineError(
                f"{path}: neither safetensors nor a checkpoint of PyTorch with plain tensors ({reason})"
            ) from error
        raise PipelineError(
            f"{path}: refused, since reading it would run code of its choice: besides tensors it "
            f"pickles {named[1]}. Open it in a place where that can do no harm, save its tensors alone "
            "with safetensors.torch.save_file, and give that file with its own sha256."
        ) from error


def _unwrap(content: Any, nested: Sequence[str]) -> Any:
    if isinstance(content, Mapping):
        for name in nested:
            if isinstance(content.get(name), Mapping):
                return _unwrap(content[name], nested)
    return content


def _below(tensors: Tensors, prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _require_finite(tensors: Tensors, source: str, prefix: str) -> None:
    bad = [prefix + key for key, value in tensors.items() if not value.isfinite().all()]
    if bad:
        raise PipelineError(f"{source}: weights that are not finite:\n{listed(bad)}")


def _top(backbone: Backbone, last: Tensors, class_names: list[str] | None, source: str) -> nn.Module | None:
    """What the tensors in the place of the classification layer are of: the projection, or a new head.

    None where there are none, or such that are of neither.
    """
    if last.keys() == PROJECTION:
        if backbone.projection is None:
            hidden, dimensions = len(last["0.weight"]), len(last["2.weight"])
            raise PipelineError(
                f"{source}: a projection of two layers is in the place of the classification layer; "
                f"set projection: {{hidden: {hidden}, dimensions: {dimensions}}}"
            )
        return backbone.projection
    if backbone.projection is not None:
        raise PipelineError(
            f"{source}: projection is set, and no two layers are in the place of the classification layer"
        )
    if last.keys() == LINEAR:
        names = class_names or [f"class {number}" for number in range(len(last["weight"]))]
        backbone.head = nn.Linear(backbone.width, len(names))
        backbone.description = replace(backbone.description, class_names=names)
    return backbone.head


def _load(parts: list[Part], source: str, hint: str) -> None:
    """Load every part, or say all that does not fit."""
    differing = [
        f"{place}{key}: found {tuple(found[key].shape)}, expected {tuple(value.shape)}"
        for module, found, place in parts
        for key, value in module.state_dict().items()
        if key in found and found[key].shape != value.shape
    ]
    if differing:
        raise PipelineError(
            f"{source}: a checkpoint of another architecture, since sizes differ:\n{listed(differing)}"
        )
    missing: list[str] = []
    left_over: list[str] = []
    for module, found, place in parts:
        # Not strict: the networks themselves know older names of their keys, and that batch
        # normalisation once counted no batches. What they then miss is an error below.
        result = module.load_state_dict(found, strict=False)
        missing += [place + key for key in result.missing_keys]
        left_over += [place + key for key in result.unexpected_keys]
    problems = [
        f"{len(keys)} {kind}:\n{listed(keys)}"
        for kind, keys in (("missing", missing), ("left over", left_over))
        if keys
    ]
    if problems:
        raise PipelineError(f"{source}: keys do not fit the architecture{hint}\n" + "\n".join(problems))


def _prefix_hint(tensors: Tensors, encoder: nn.Module) -> str:
    """``; did you mean ...?`` for the prefixes below which the tensors have all that the encoder needs."""
    wanted = [name for name, _ in encoder.named_parameters()]
    candidates = {key.removesuffix(wanted[0]) for key in tensors if key.endswith(f".{wanted[0]}")}
    fitting = [repr(start) for start in sorted(candidates) if all(start + name in tensors for name in wanted)]
    return f"; did you mean prefix {' or '.join(fitting)}?" if fitting else ""
