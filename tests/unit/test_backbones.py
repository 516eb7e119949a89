"""A backbone's features, its file, and its architectures."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import save_file

from pipeline.backbones.backbone import Backbone, Description, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.config.backbones import AnyBackbone
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


def test_examples_of_the_documentation_are_valid():
    text = DOCS.read_text().replace("<64 digits>", "a" * 64)
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    entries = [entry for block in blocks for entry in block["backbones"].values()]
    origins = [TypeAdapter(AnyBackbone).validate_python(entry).origin for entry in entries]
    assert sorted(set(origins)) == ["checkpoint", "elsewhere", "kept_epoch", "pretraining", "torchvision"]
