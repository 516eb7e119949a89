"""Published checkpoints in formats of their own, against networks written out here in those formats."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional
from torchvision.models import get_model

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.download import sha256_of
from pipeline.backbones.fetch import fetch
from pipeline.config.backbones import Checkpoint
from pipeline.errors import PipelineError

Tensors = dict[str, torch.Tensor]
SIDE = 64


def adopted(tmp_path: Path, content: Any, **settings: Any) -> Backbone:
    """The backbone that a checkpoint of some content becomes, ready to give features."""
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    place = {"path": str(path), "sha256": sha256_of(path)}
    preprocessing = {"resize": SIDE, "crop": SIDE}
    entry = {"origin": "checkpoint", "preprocessing": preprocessing, **place, **settings}
    return fetch(Checkpoint.model_validate(entry).plain(), tmp_path).backbone.eval()


def images(side: int = SIDE) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def features(backbone: Backbone, side: int = SIDE) -> torch.Tensor:
    with torch.inference_mode():
        return backbone(images(side))


def drawn(**shapes: tuple[int, ...]) -> Tensors:
    """Random tensors of the given shapes, about as large as trained weights are."""
    generator = torch.Generator().manual_seed(len(shapes))
    return {
        name: torch.randn(shape, generator=generator) * math.prod(shape[1:]) ** -0.5
        for name, shape in shapes.items()
    }


# PyContrast. Its encoder is torchvision's ResNet without the classification layer.

RESNET18 = {"name": "resnet", "depth": 18}
LINEAR_HEAD = {"head.0.weight": (128, 512), "head.0.bias": (128,)}
MLP_HEAD = {
    "head.0.weight": (512, 512),
    "head.0.bias": (512,),
    "head.2.weight": (128, 512),
    "head.2.bias": (128,),
}
JIGSAW_OUT = {"head_jig.fc2.weight": (128, 1152), "head_jig.fc2.bias": (128,)}
# How PyContrast trains these: --head, --jigsaw.
HEADS = {
    "InsDis": LINEAR_HEAD,
    "PIRL": {**LINEAR_HEAD, "head_jig.fc1.weight": (128, 512), "head_jig.fc1.bias": (128,), **JIGSAW_OUT},
    "InfoMin": {
        **MLP_HEAD,
        **{name.replace("head.", "head_jig.fc1."): shape for name, shape in MLP_HEAD.items()},
        **JIGSAW_OUT,
    },
}


def pycontrast(method: str) -> tuple[nn.Module, Tensors]:
    """torchvision's network, and the `model` of a file that has its weights."""
    torch.manual_seed(5)
    network = get_model("resnet18", weights=None)
    network.fc = nn.Identity()
    network(images())  # gives batch normalisation its means
    tensors = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    return network.eval(), tensors | drawn(**HEADS[method])


@pytest.mark.parametrize("wrapped", ["", "module."])
@pytest.mark.parametrize("method", HEADS)
def test_pycontrast_encoders_give_the_features_of_torchvision(
    method: str, wrapped: str, tmp_path: Path
) -> None:
    network, tensors = pycontrast(method)
    model = {wrapped + name: value for name, value in tensors.items()}
    average = {name: torch.zeros_like(value) for name, value in tensors.items()}
    content = {"model": model, "model_ema": average, "contrast": {"memory": torch.zeros(3)}, "epoch": 200}
    backbone = adopted(tmp_path, content, format="pycontrast", architecture=RESNET18)
    with torch.inference_mode():
        torch.testing.assert_close(features(backbone), network(images()))
    assert (backbone.head, backbone.projection) == (None, None)


def test_other_models_of_pycontrast_and_incomplete_ones_are_refused(tmp_path: Path) -> None:
    _, tensors = pycontrast("InsDis")
    settings = {"format": "pycontrast", "architecture": RESNET18}
    with pytest.raises(PipelineError, match=r"keys that format pycontrast does not have:\n  encoder1.conv1"):
        adopted(tmp_path, {"model": {"encoder1.conv1.weight": torch.zeros(1), **tensors}}, **settings)
    with pytest.raises(
        PipelineError, match=r"module.encoder.bn1.bias: the place of another key too, bn1.bias"
    ):
        adopted(tmp_path, {"model": {**tensors, "module.encoder.bn1.bias": torch.zeros(64)}}, **settings)
    with pytest.raises(PipelineError, match=r"does not have:\n  head.0.weight\n  head.0.bias$"):
        adopted(tmp_path, {"model": drawn(**LINEAR_HEAD)}, **settings)
    del tensors["encoder.layer4.1.bn2.running_var"]
    with pytest.raises(PipelineError, match=r"1 missing:\n  layer4.1.bn2.running_var$"):
        adopted(tmp_path, {"model": tensors}, **settings)
    with pytest.raises(PipelineError, match=r"1 left over:\n  layer5.weight"):
        adopted(
            tmp_path,
            {"model": {**pycontrast("PIRL")[1], "encoder.layer5.weight": torch.zeros(1)}},
            **settings,
        )


# SimCLR-v2, as Separius/SimCLRv2-Pytorch writes it: a network of sequences of sequences.

BLOCKS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)
RESNET50 = {"name": "resnet", "depth": 50, "max_pool": "same"}


def simclr_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of r50_1x_sk0's convolutions; norms are named by `norm`."""
    shapes: dict[str, tuple[int, ...]] = {"net.0.0.weight": (64, 3, 7, 7)}
    below = 64
    for stage, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), 1):
        for block in range(blocks):
            path = f"net.{stage}.blocks.{block}"
            if block == 0:
                shapes[f"{path}.projection.shortcut.weight"] = (4 * width, below, 1, 1)
            shapes[f"{path}.net.0.weight"] = (width, below, 1, 1)
            shapes[f"{path}.net.2.weight"] = (width, width, 3, 3)
            shapes[f"{path}.net.4.weight"] = (4 * width, width, 1, 1)
            below = 4 * width
    return shapes


def norm_of(convolution: str) -> str:
    """The path of the norm behind a convolution."""
    if "projection" in convolution:
        return convolution.replace("shortcut.weight", "bn.0")
    path, _, place = convolution.removesuffix(".weight").rpartition(".")
    return f"{path}.{int(place) + 1}.0"


def simclr_tensors() -> Tensors:
    """The `resnet` of a converted file."""
    shapes = simclr_shapes()
    tensors = drawn(**shapes)
    generator = torch.Generator().manual_seed(2)
    for convolution, (width, *_) in shapes.items():
        norm = norm_of(convolution)
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{name}"] = torch.rand(width, generator=generator) + 0.5
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    return tensors | drawn(**{"fc.weight": (1000, 2048), "fc.bias": (1000,)})


def pooled_like_tensorflow(maps: torch.Tensor) -> torch.Tensor:
    """Max pooling of 3 x 3 by steps of 2 with padding SAME, window by window."""
    before = [max((math.ceil(side / 2) - 1) * 2 + 3 - side, 0) // 2 for side in maps.shape[2:]]
    starts = [range(-start, side - start, 2) for start, side in zip(before, maps.shape[2:], strict=True)]
    rows = [
        [maps[:, :, max(y, 0) : y + 3, max(x, 0) : x + 3].amax(dim=(2, 3)) for x in starts[1]]
        for y in starts[0]
    ]
    return torch.stack([torch.stack(row, dim=2) for row in rows], dim=2)


def simclr_features(tensors: Tensors, inputs: torch.Tensor) -> torch.Tensor:
    """google-research/simclr's resnet.py on the weights of a converted file."""

    def convolved(maps: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight, norm = tensors[name], norm_of(name)
        padding = (weight.shape[2] - 1) // 2
        maps = functional.conv2d(functional.pad(maps, (padding,) * 4), weight, stride=stride)
        mean, variance, scale, shift = (
            tensors[f"{norm}.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (maps - mean) / (variance + 1e-5).sqrt() * scale + shift

    maps = pooled_like_tensorflow(convolved(inputs, "net.0.0.weight", 2).relu())
    for stage, blocks in enumerate(BLOCKS, 1):
        for block in range(blocks):
            path = f"net.{stage}.blocks.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            inner = convolved(maps, f"{path}.net.0.weight").relu()
            inner = convolved(inner, f"{path}.net.2.weight", stride).relu()
            inner = convolved(inner, f"{path}.net.4.weight")
            if block == 0:
                maps = convolved(maps, f"{path}.projection.shortcut.weight", stride)
            maps = (maps + inner).relu()
    return maps.mean(dim=(2, 3))


@pytest.mark.parametrize("side", [SIDE, SIDE + 2], ids=["pooling an even side", "pooling an odd side"])
def test_simclr_v2_gives_the_features_of_tensorflows_network(side: int, tmp_path: Path) -> None:
    tensors = simclr_tensors()
    content = {"resnet": tensors, "head": drawn(**{"layers.0.weight": (2048, 2048)})}
    backbone = adopted(tmp_path, content, format="simclr_v2", architecture=RESNET50)
    with torch.inference_mode():
        expected = simclr_features(tensors, images(side))
        torch.testing.assert_close(features(backbone, side), expected, rtol=1e-4, atol=1e-4)
    assert backbone.head is not None
    assert torch.equal(backbone.head.weight, tensors["fc.weight"])
    if side == SIDE:  # where TensorFlow pads the bottom and the right alone, PyTorch's networks differ
        padded = adopted(
            tmp_path, content, format="simclr_v2", architecture={**RESNET50, "max_pool": "symmetric"}
        )
        assert (features(padded) - expected).abs().mean() > 0.01 * expected.abs().mean()


def test_selective_kernels_are_refused(tmp_path: Path) -> None:
    content = {"resnet": {**simclr_tensors(), "net.1.blocks.0.net.2.main_conv.0.weight": torch.zeros(1)}}
    with pytest.raises(
        PipelineError, match=r"format simclr_v2 does not have:\n  net.1.blocks.0.net.2.main_c"
    ):
        adopted(tmp_path, content, format="simclr_v2", architecture=RESNET50)


# MAE: a vision transformer as timm names its parts.

WIDTH, HEADS_OF_ATTENTION, HIDDEN, DEPTH, PATCH = 12, 3, 20, 3, 16
VIT = {
    **{"name": "vit", "image_size": SIDE, "patch_size": PATCH, "width": WIDTH, "depth": DEPTH},
    **{"heads": HEADS_OF_ATTENTION, "mlp_width": HIDDEN},
}


def block_shapes(path: str, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    shapes: dict[str, tuple[int, ...]] = {f"{path}.{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{path}.{name}.bias": shape[:1] for name, shape in linear.items()}
    return shapes | {
        f"{path}.{n}.{kind}": (width,) for n in ("norm1", "norm2") for kind in ("weight", "bias")
    }


def mae_tensors(decoder: bool = True) -> Tensors:
    """The `model` of a file of MAE's pre-training."""
    patches = (SIDE // PATCH) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, patches + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    for block in range(DEPTH):
        shapes |= block_shapes(f"blocks.{block}", WIDTH, HIDDEN)
    if decoder:
        shapes |= {"mask_token": (1, 1, 8), "decoder_pos_embed": (1, patches + 1, 8)}
        for name, shape in {"embed": (8, WIDTH), "pred": (3 * PATCH**2, 8)}.items():
            shapes |= {f"decoder_{name}.weight": shape, f"decoder_{name}.bias": shape[:1]}
        shapes |= {"decoder_norm.weight": (8,), "decoder_norm.bias": (8,)}
        shapes |= block_shapes("decoder_blocks.0", 8, 16)
    return drawn(**shapes)


def mae_tokens(tensors: Tensors, inputs: torch.Tensor) -> torch.Tensor:
    """Class token and patches behind the last block, (n, 1 + patches, width)."""

    def linear(values: torch.Tensor, name: str) -> torch.Tensor:
        return values @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    # Row by row of patches, each flattened as the convolution's kernel is.
    patches = inputs.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).flatten(3)
    kernel = tensors["patch_embed.proj.weight"].flatten(1)
    embedded = patches.flatten(1, 2) @ kernel.T + tensors["patch_embed.proj.bias"]
    tokens = torch.cat([tensors["cls_token"].expand(len(inputs), 1, WIDTH), embedded], dim=1)
    tokens = tokens + tensors["pos_embed"]
    for block in range(DEPTH):
        path = f"blocks.{block}"
        qkv = linear(normed(tensors, f"{path}.norm1", tokens), f"{path}.attn.qkv")
        per_head = WIDTH // HEADS_OF_ATTENTION
        mixed = []
        for head in range(HEADS_OF_ATTENTION):
            query, key, value = (
                qkv[:, :, part * WIDTH + head * per_head : part * WIDTH + (head + 1) * per_head]
                for part in range(3)
            )
            attention = (query @ key.transpose(1, 2) / math.sqrt(per_head)).softmax(dim=2)
            mixed.append(attention @ value)
        tokens = tokens + linear(torch.cat(mixed, dim=2), f"{path}.attn.proj")
        hidden = linear(normed(tensors, f"{path}.norm2", tokens), f"{path}.mlp.fc1")
        gelu = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        tokens = tokens + linear(gelu, f"{path}.mlp.fc2")
    return tokens


def normed(tensors: Tensors, name: str, values: torch.Tensor) -> torch.Tensor:
    centred = values - values.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


@pytest.mark.parametrize("decoder", [True, False])
def test_mae_gives_the_class_token_of_pre_training(decoder: bool, tmp_path: Path) -> None:
    tensors = mae_tensors(decoder)
    backbone = adopted(tmp_path, {"model": tensors, "epoch": 799}, format="mae", architecture=VIT)
    expected = normed(tensors, "norm", mae_tokens(tensors, images()))[:, 0]
    torch.testing.assert_close(features(backbone), expected, rtol=1e-4, atol=1e-5)
    assert backbone.width == WIDTH


def test_mae_gives_the_mean_of_the_patches_behind_a_new_norm(tmp_path: Path) -> None:
    tensors = mae_tensors()
    backbone = adopted(tmp_path, {"model": tensors}, format="mae", architecture={**VIT, "pooling": "mean"})
    mean = mae_tokens(tensors, images())[:, 1:].mean(dim=1)
    new = {"fc_norm.weight": torch.ones(WIDTH), "fc_norm.bias": torch.zeros(WIDTH)}
    torch.testing.assert_close(features(backbone), normed(new, "fc_norm", mean), rtol=1e-4, atol=1e-5)


def test_a_fine_tuned_mae_keeps_its_norm_and_its_head(tmp_path: Path) -> None:
    tensors = mae_tensors(decoder=False)
    del tensors["norm.weight"], tensors["norm.bias"]
    tensors |= drawn(
        **{"head.weight": (4, WIDTH), "head.bias": (4,), "fc_norm.weight": (WIDTH,), "fc_norm.bias": (WIDTH,)}
    )
    content = {"model": tensors}
    backbone = adopted(tmp_path, content, format="mae", architecture={**VIT, "pooling": "mean"})
    expected = normed(tensors, "fc_norm", mae_tokens(tensors, images())[:, 1:].mean(dim=1))
    torch.testing.assert_close(features(backbone), expected, rtol=1e-4, atol=1e-5)
    assert backbone.head is not None
    assert torch.equal(backbone.head.weight, tensors["head.weight"])
    with pytest.raises(
        PipelineError, match=r"2 missing:\n  encoder.ln.weight\n  encoder.ln.bias\n2 left over:\n  fc_norm"
    ):
        adopted(tmp_path, content, format="mae", architecture=VIT)


def test_mae_with_a_block_less_or_more_is_refused(tmp_path: Path) -> None:
    tensors = mae_tensors()
    with pytest.raises(PipelineError, match=r"12 missing:\n  encoder.layers.encoder_layer_3.ln_1.weight"):
        adopted(tmp_path, {"model": tensors}, format="mae", architecture={**VIT, "depth": 4})
    with pytest.raises(PipelineError, match=r"12 left over:\n  encoder.layers.encoder_layer_2"):
        adopted(tmp_path, {"model": tensors}, format="mae", architecture={**VIT, "depth": 2})
    more = {"blocks.0.attn.q_norm.weight": torch.zeros(1)}
    with pytest.raises(PipelineError, match=r"format mae does not have:\n  blocks.0.attn.q_norm.weight$"):
        adopted(tmp_path, {"model": tensors | more}, format="mae", architecture=VIT)


@pytest.mark.parametrize("key", [{"prefix": "module."}, {"projection": {}}])
def test_prefix_and_projection_are_of_plain_checkpoints(key: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="format mae takes neither prefix nor projection"):
        adopted(tmp_path, {}, format="mae", architecture=VIT, **key)
