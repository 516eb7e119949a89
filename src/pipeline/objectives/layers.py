"""Layers inside an encoder: which end its stages, whether they exist, and what they give."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pipeline.errors import PipelineError, did_you_mean


def last_of_stages(encoder: nn.Module) -> tuple[str, ...]:
    """The last convolution of each stage of a ResNet; of a vision transformer the last block of each quarter.

    Raises:
        PipelineError: If the encoder is neither.
    """
    children: dict[str, Any] = dict(encoder.named_children())
    if "layer1" in children:  # ResNet, ResNeXt and Wide ResNet of torchvision
        return tuple(
            f"{stage}.{len(children[stage]) - 1}.{_last_convolution(children[stage][-1])}"
            for stage in ("layer1", "layer2", "layer3", "layer4")
        )
    if "stages" in children:  # our small ResNet: all stages but the first begin with a stride
        blocks = children["stages"]
        starts = [number for number, block in enumerate(blocks) if block.first.stride != (1, 1)]
        return tuple(f"stages.{end - 1}.second" for end in [*starts, len(blocks)])
    if isinstance(getattr(children.get("encoder"), "layers", None), nn.Sequential):  # torchvision's ViT
        names = [name for name, _ in children["encoder"].layers.named_children()]
        ends = sorted({-(-len(names) * quarter // 4) for quarter in range(1, 5)})
        return tuple(f"encoder.layers.{names[end - 1]}" for end in ends)
    raise PipelineError(
        "objective delta: the stages of this backbone are not known; name modules in layers, as in "
        f"layers: [{', '.join(children)}]"
    )


def _last_convolution(block: nn.Module) -> str:
    """The name of a residual block's last convolution, its shortcut's aside."""
    return [name for name, layer in block.named_children() if isinstance(layer, nn.Conv2d)][-1]


def require_layers(encoder: nn.Module, names: Sequence[str], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the named modules give for a few images.

    Raises:
        PipelineError: If one does not exist (the message lists what does), or gives neither maps
            (n, c, h, w) nor tokens (n, t, c).
    """
    for name in names:
        try:
            encoder.get_submodule(name)
        except AttributeError:
            raise PipelineError(f"objective delta: layers: {_what_exists(encoder, name)}") from None
    found = outputs_of(encoder, names, images)
    for name in names:
        output = found.get(name)
        if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4) or len(output) != len(images):
            given = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise PipelineError(
                f"objective delta: layers: module {name!r} gives "
                f"{given if name in found else 'nothing'} for {len(images)} images; "
                "expected maps (n, c, h, w) or tokens (n, t, c)"
            )
    return found


def _what_exists(encoder: nn.Module, name: str) -> str:
    """How far the path of a missing module exists, and what is there."""
    above: list[str] = []
    module = encoder
    for part in name.split("."):
        children = dict(module.named_children())
        if part not in children:
            break
        above.append(part)
        module = children[part]
    where = f"below {'.'.join(above)!r}" if above else "in the backbone's encoder"
    listed = ", ".join(children) or "nothing"
    nearest = did_you_mean(name, [path for path, _ in encoder.named_modules() if path])
    return f"no module {name!r}: {where} there is {listed}{nearest}"


def outputs_of(encoder: nn.Module, names: Sequence[str], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pass images and return what the named modules gave.

    Args:
        encoder: Takes `images`.
        names: Paths of modules in it.
        images: float32 (n, 3, crop, crop).
    """
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            found[name] = output

        return encoder.get_submodule(name).register_forward_hook(hook)

    handles = [keep(name) for name in names]
    try:
        encoder(images.contiguous(memory_format=torch.channels_last))
    finally:
        for handle in handles:
            handle.remove()
    return found
