"""A backbone's features, its file, and its architectures."""

import itertools
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torchvision.models import VisionTransformer, get_model

from pipeline.backbones.architectures.resnet import SameMaxPool
from pipeline.backbones.backbone import Backbone, Description, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.config.backbones import AnyArchitecture, AnyBackbone
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, read_provenance

SMALL = Description(
    {"name": "small_resnet", "widths": [4, 6], "blocks": 2, "stem_stride": 2},
    {"resize": 16, "crop": 16, "mean": [0.5] * 3, "std": [0.5] * 3},
    {"hidden": None, "dimensions": 5},
    ["bird", "cat", "fish"],
)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
RECORD = Provenance("pipeline.test", {"name": 'Grünspecht "\n\x01'}, "pipeline.test=0", {}, {})
DOCS = Path(__file__).parents[2] / "docs" / "backbones.md"


def torchvision(model: str) -> Backbone:
    preprocessing = {"resize": 256, "crop": 224, "mean": [0.5] * 3, "std": [0.5] * 3}
    architecture = {"name": "torchvision", "model": model}
    return build_backbone(Description(architecture, preprocessing), seed=0).eval()


def features(layer: str, description: Description = SMALL) -> torch.Tensor:
    backbone = build_backbone(description, seed=0).eval()
    with torch.inference_mode():
        return backbone.features(IMAGES, layer)


def test_penultimate_features_are_what_the_network_gives():
    assert features("penultimate").shape == (2, 6)
    assert torch.equal(features("penultimate"), build_backbone(SMALL, seed=0).eval()(IMAGES))


def test_projection_is_read_behind_the_network():
    backbone = build_backbone(SMALL, seed=0).eval()
    assert backbone.projection is not None
    assert torch.equal(features("projection"), backbone.projection(backbone(IMAGES)))
    assert features("projection").shape == (2, 5)
    wider = build_backbone(replace(SMALL, projection={"hidden": 9, "dimensions": 5}), seed=0)
    assert [tuple(value.shape) for value in wider.projection.parameters()] == [(9, 6), (9,), (5, 9), (5,)]
    with pytest.raises(PipelineError, match="feature_layer is projection, and this backbone has none"):
        features("projection", replace(SMALL, projection=None))


def test_maps_of_an_inner_layer_are_averaged_over_space():
    encoder = build_backbone(SMALL, seed=0).eval().encoder
    maps = encoder.stages[:2](torch.relu(encoder.stem_norm(encoder.stem(IMAGES))))
    assert maps.shape == (2, 4, 8, 8)
    torch.testing.assert_close(features("stages.1"), maps.mean(dim=(2, 3)))


def test_unknown_layer_lists_where_paths_begin():
    with pytest.raises(PipelineError, match=r"'stages.9': no such module; .* stem, stem_norm, stages"):
        features("stages.9")


def test_same_seed_same_weights_and_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    first, again, other = (build_backbone(SMALL, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_round_trip_is_equal_to_the_bit(tmp_path: Path):
    backbone = build_backbone(SMALL, seed=7)
    backbone(IMAGES)  # batch normalisation counts it
    save_backbone(tmp_path / "a.safetensors", backbone, RECORD)
    loaded = load_backbone(tmp_path / "a.safetensors")
    assert loaded.description == SMALL
    assert read_provenance(tmp_path / "a.safetensors") == RECORD
    saved = backbone.state_dict()
    assert list(loaded.state_dict()) == list(saved)
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    assert saved["encoder.stem_norm.num_batches_tracked"] == 1
    files = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for file in files:
        save_backbone(file, loaded, RECORD)
    assert {file.read_bytes() for file in files} == {(tmp_path / "a.safetensors").read_bytes()}


def test_files_that_are_no_weights_of_a_backbone(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_file({"stem.weight": torch.zeros(4)}, path)
    with pytest.raises(PipelineError, match="holds no description of a backbone"):
        load_backbone(path)
    save_backbone(path, build_backbone(SMALL, seed=0), RECORD)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PipelineError, match="weights do not fit their description"):
        load_backbone(path)


@pytest.mark.parametrize(
    ("model", "width", "layer"),
    [
        ("resnet18", 512, "fc"),
        ("mobilenet_v3_small", 1024, "classifier.3"),
        ("vit_b_16", 768, "heads.head"),
    ],
)
def test_torchvision_network_loses_its_classification_layer(model: str, width: int, layer: str):
    backbone = torchvision(model)
    assert (backbone.width, backbone.classification_layer) == (width, layer)
    assert not any(name.startswith(layer) for name in backbone.encoder.state_dict())
    with torch.inference_mode():
        assert backbone.features(torch.zeros(1, 3, 224, 224), "penultimate").shape == (1, width)


def test_layer_that_gives_no_tensor_is_refused():
    backbone = torchvision("vit_b_16")
    layer = "encoder.layers.encoder_layer_0.self_attention"
    with pytest.raises(PipelineError, match="self_attention': gives no tensor"):
        backbone.features(torch.zeros(1, 3, 224, 224), layer)


def test_models_that_torchvision_has_not_or_that_do_not_fit():
    with pytest.raises(PipelineError, match="no classification model 'resnet81'; did you mean 'resnet18'"):
        torchvision("resnet81")
    with pytest.raises(PipelineError, match="squeezenet1_1 has no linear classification layer"):
        torchvision("squeezenet1_1")
    for model in ("googlenet", "inception_v3", "mnasnet1_0"):
        with pytest.raises(PipelineError, match=f"{model} cannot be fine-tuned here"):
            torchvision(model)


def test_small_resnet_halves_the_side_at_its_stem_and_between_stages():
    architecture = {"name": "small_resnet", "widths": [4, 6, 8], "blocks": 1, "stem_stride": 1}
    for stride, side in ((1, 28), (2, 14)):
        backbone = build_backbone(replace(SMALL, architecture={**architecture, "stem_stride": stride}), 0)
        stem = backbone.encoder.stem(torch.zeros(1, 3, 28, 28))
        assert stem.shape == (1, 4, side, side)
        assert backbone.encoder.stages(stem).shape == (1, 8, -(-side // 4), -(-side // 4))
        assert (backbone.width, backbone.classification_layer) == (8, None)


def built(architecture: dict[str, object]) -> Backbone:
    """A backbone on the meta device: shapes without the weights."""
    settings = TypeAdapter(AnyArchitecture).validate_python(architecture).plain()
    with torch.device("meta"):
        return Backbone(replace(SMALL, architecture=settings, projection=None, class_names=None))


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({"depth": 18}, "resnet18"),
        ({"depth": 34}, "resnet34"),
        ({}, "resnet50"),
        ({"depth": 101}, "resnet101"),
        ({"depth": 152}, "resnet152"),
        ({"groups": 32, "width_per_group": 4}, "resnext50_32x4d"),
        ({"depth": 101, "groups": 32, "width_per_group": 8}, "resnext101_32x8d"),
        ({"depth": 101, "groups": 64, "width_per_group": 4}, "resnext101_64x4d"),
        ({"width_per_group": 128}, "wide_resnet50_2"),
    ],
)
def test_resnets_are_those_of_torchvision(settings: dict[str, int], model: str):
    backbone = built({"name": "resnet", **settings})
    with torch.device("meta"):
        expected = shapes_of(get_model(model, weights=None))
    assert (backbone.classification_layer, expected.pop("fc.bias")) == ("fc", (1000,))
    assert expected.pop("fc.weight") == (1000, backbone.width)
    assert shapes_of(backbone.encoder) == expected


def test_resnext_152_has_the_parameters_of_its_convolutions():
    """32x8d: 32 groups, in the first stage of 8 channels each (Xie et al. 2017, Table 1)."""
    encoder = built({"name": "resnet", "depth": 152, "groups": 32, "width_per_group": 8}).encoder
    expected, below = 64 * 3 * 7 * 7 + 2 * 64, 64
    for stage, blocks in enumerate([3, 8, 36, 3]):
        inner, outer = 32 * 8 * 2**stage, 256 * 2**stage
        for block in range(blocks):
            convolutions = below * inner + inner * (inner // 32) * 9 + inner * outer
            expected += convolutions + 2 * (inner + inner + outer)
            if block == 0:
                expected += below * outer + 2 * outer
            below = outer
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected


def test_resnets_of_basic_blocks_have_no_groups():
    for wrong in ({"groups": 32}, {"width_per_group": 8}):
        with pytest.raises(ValidationError, match="depth 18 takes groups 1 and width_per_group 64"):
            built({"name": "resnet", "depth": 18, **wrong})


@pytest.mark.parametrize("side", [5, 6, 7, 112, 113])
def test_max_pooling_with_padding_as_tensorflow_has_it(side: int):
    """https://www.tensorflow.org/api_docs/python/tf/nn, on padding SAME."""
    maps = torch.rand(1, 1, side, side + 1, generator=torch.Generator().manual_seed(side)) - 2
    found = SameMaxPool(kernel=3, stride=2)(maps)
    assert found.shape == (1, 1, -(-side // 2), -(-(side + 1) // 2))
    for y, x in itertools.product(range(found.shape[2]), range(found.shape[3])):
        # Pixels outside the image: 1 at an even side, all behind it; 2 at an odd one, one before it.
        top, left = 2 * y - side % 2, 2 * x - (side + 1) % 2
        window = maps[0, 0, max(top, 0) : top + 3, max(left, 0) : left + 3]
        assert found[0, 0, y, x] == window.max()


def test_vision_transformer_is_that_of_torchvision():
    backbone = built({"name": "vit"})
    with torch.device("meta"):
        expected = shapes_of(get_model("vit_b_16", weights=None))
    assert expected.pop("heads.head.weight") == (1000, backbone.width)
    del expected["heads.head.bias"]
    assert shapes_of(backbone.encoder) == expected
    small = {
        "name": "vit",
        "image_size": 16,
        "patch_size": 8,
        "width": 6,
        "depth": 2,
        "heads": 2,
        "mlp_width": 9,
    }
    ours = build_backbone(replace(SMALL, architecture={**small, "pooling": "class_token"}), 0).eval()
    theirs = VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=6, mlp_dim=9).eval()
    theirs.heads = torch.nn.Identity()
    theirs.load_state_dict(ours.encoder.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(ours(IMAGES), theirs(IMAGES))


def test_mean_of_the_patches_has_a_norm_of_its_own():
    small = {"image_size": 16, "patch_size": 8, "width": 6, "depth": 1, "heads": 2, "mlp_width": 9}
    architecture = {"name": "vit", **small, "pooling": "mean"}
    backbone = build_backbone(replace(SMALL, architecture=architecture), seed=0).eval()
    names = set(backbone.encoder.state_dict())
    assert {"fc_norm.weight", "fc_norm.bias"} < names
    assert not {"encoder.ln.weight", "encoder.ln.bias"} & names
    with torch.inference_mode():
        tokens = backbone.features(IMAGES, "encoder").reshape(2, 5, 6)
        mean = tokens[:, 1:].mean(dim=1)
        centred = mean - mean.mean(dim=1, keepdim=True)
        expected = centred / centred.square().mean(dim=1, keepdim=True).add(1e-6).sqrt()
        torch.testing.assert_close(backbone(IMAGES), expected)


def test_sizes_of_a_vision_transformer_must_divide():
    with pytest.raises(ValidationError, match="image_size 32 is no multiple of patch_size 14"):
        built({"name": "vit", "image_size": 32, "patch_size": 14})
    with pytest.raises(ValidationError, match="width 100 is no multiple of heads 12"):
        built({"name": "vit", "width": 100})


def test_timm_that_is_not_installed_says_how_to(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PipelineError, match=r"timm is not installed here; .*graftune\[timm\]"):
        built({"name": "timm", "model": "resnet18"})


@pytest.mark.parametrize(
    ("model", "width", "layer"),
    [
        ("resnet18", 512, "fc"),
        ("mobilenetv3_small_050", 1024, "classifier"),
        ("convnext_atto", 320, "head.fc"),
    ],
)
def test_timm_network_loses_its_classification_layer(model: str, width: int, layer: str):
    timm = pytest.importorskip("timm", reason="timm is an optional dependency and not installed here")
    backbone = build_backbone(replace(SMALL, architecture={"name": "timm", "model": model}), seed=0).eval()
    assert (backbone.width, backbone.classification_layer) == (width, layer)
    whole = timm.create_model(model).eval()
    whole.load_state_dict(backbone.encoder.state_dict(), strict=False)
    images = IMAGES.repeat(1, 1, 4, 4)
    with torch.inference_mode():
        found = whole.get_classifier()(backbone(images))
        torch.testing.assert_close(found, whole(images))


def test_timm_models_that_do_not_exist_or_do_not_fit():
    pytest.importorskip("timm", reason="timm is an optional dependency and not installed here")
    with pytest.raises(PipelineError, match="timm has no model 'resnet81'; did you mean 'resnet"):
        built({"name": "timm", "model": "resnet81"})
    with pytest.raises(PipelineError, match=r"several classification layers \(head, head_dist\)"):
        built({"name": "timm", "model": "deit_tiny_distilled_patch16_224"})


def test_examples_of_the_documentation_are_valid():
    text = DOCS.read_text().replace("<64 digits>", "a" * 64)
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    entries = [entry for block in blocks for entry in block["backbones"].values()]
    origins = [TypeAdapter(AnyBackbone).validate_python(entry).origin for entry in entries]
    assert sorted(set(origins)) == ["checkpoint", "elsewhere", "kept_epoch", "pretraining", "torchvision"]
