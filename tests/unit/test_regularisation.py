"""L2-SP, DELTA, BSS and Mix-and-Match against reference values, loops and libraries."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from pipeline.errors import PipelineError
from pipeline.objectives import Objective, TargetOutputs, attention, bss, delta, l2_sp, mix_and_match
from pipeline.objectives.layers import last_of_stages, outputs_of
from pipeline.objectives.penalties import half_squared_distance, half_squared_norm


@pytest.fixture(scope="module")
def values(shared_data: Path) -> Any:
    return np.load(shared_data / "reference_values" / "l2sp_delta_bss.npz", allow_pickle=False)


def leaf(array: np.ndarray) -> torch.Tensor:
    """A float64 tensor that collects its gradient."""
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def gradient(of: torch.Tensor) -> np.ndarray:
    """What a leaf has collected."""
    assert of.grad is not None
    return of.grad.numpy()


def network() -> nn.Sequential:
    """Two convolutions with batch normalisation, pooled: images to (n, 6)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Model(nn.Module):
    """An encoder and a head, as objectives see them."""

    def __init__(self, encoder: nn.Module, width: int, classes: int = 3):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, classes)


def outputs_for(
    objective: Objective, model: Model, images: torch.Tensor, labels: torch.Tensor
) -> TargetOutputs:
    """A forward pass of `model`, as the learner makes it."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.encoder.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, output)
        )
        for name in objective.layers
    ]
    features = model.encoder(images)
    for handle in handles:
        handle.remove()
    return TargetOutputs(
        images, labels, features, model.head(features), model, torch.empty(len(labels), 0), layers=seen
    )


@pytest.fixture
def start() -> Any:
    """What objectives are built from: a small network, and 12 images of three classes."""
    pretrained = Model(network(), 6).eval().requires_grad_(False)
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 3

    def training(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter([*zip(images[:count].split(5), labels[:count].split(5), strict=True)])

    return SimpleNamespace(pretrained=pretrained, backbone=Model(network(), 6), training=training)


# L2-SP


def test_l2_sp_value_and_gradient(values: Any) -> None:
    names = [name.removeprefix("l2sp_w0_") for name in values.files if name.startswith("l2sp_w0_")]
    weights = [leaf(values[f"l2sp_w_{name}"]) for name in names]
    start = [leaf(values[f"l2sp_w0_{name}"]) for name in names]
    moved = half_squared_distance(weights, start)
    assert moved.item() == pytest.approx(float(values["l2sp_value"]), rel=1e-14)
    assert float(values["l2sp_tll"]) == pytest.approx(moved.item(), rel=1e-14)
    (0.3 * moved).backward()
    for name, weight, origin in zip(names, weights, start, strict=True):
        np.testing.assert_allclose(gradient(weight), 0.3 * values[f"l2sp_grad_{name}"], rtol=1e-14)
        assert origin.grad is None
    head = [leaf(values["l2head_weight"]), leaf(values["l2head_bias"])]
    norm = half_squared_norm(head)
    assert norm.item() == pytest.approx(float(values["l2head_value"]), rel=1e-14)
    norm.backward()
    np.testing.assert_allclose(gradient(head[1]), values["l2head_bias"], rtol=1e-14)


def test_l2_sp_adds_its_penalties(start: Any) -> None:
    objective = l2_sp.build({"alpha": 0.2, "beta": 0.5}, start)
    model = start.backbone
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight += torch.randn_like(weight)
        model.encoder[1].running_mean += 100  # no parameter: it does not count
    images, labels = next(start.training(12))
    outputs = outputs_for(objective, model, images, labels)
    plain = functional.cross_entropy(outputs.logits, labels)
    plain.backward(retain_graph=True)
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    origins = dict(start.pretrained.encoder.named_parameters())
    moved = 0.0
    for name, weight in model.encoder.named_parameters():
        moved += float((weight - origins[name]).detach().pow(2).sum()) / 2
        expected[f"encoder.{name}"] += 0.2 * (weight - origins[name]).detach()
    for name, weight in model.head.named_parameters():
        expected[f"head.{name}"] += 0.5 * weight.detach()
    model.zero_grad()
    loss, parts = objective(outputs)
    loss.backward()
    assert parts["l2_sp"].item() == pytest.approx(moved, rel=1e-5)
    head = sum(float(weight.detach().pow(2).sum()) for weight in model.head.parameters()) / 2
    assert loss.item() == pytest.approx(plain.item() + 0.2 * moved + 0.5 * head, rel=1e-5)
    for name, weight in model.named_parameters():
        np.testing.assert_allclose(weight.grad, expected[name], rtol=1e-4, atol=1e-5)
    assert not objective.state_dict()


def test_l2_sp_at_the_start_is_zero(start: Any) -> None:
    moved = l2_sp.build({"alpha": 1.0, "beta": 0.0}, start)(
        outputs_for(Objective(), start.backbone, *next(start.training(4)))
    )[1]["l2_sp"]
    moved.backward()
    assert moved.item() == 0
    assert all(not weight.grad.any() for weight in start.backbone.encoder.parameters())


# DELTA


def test_delta_without_attention(values: Any) -> None:
    maps = [leaf(values[f"delta_tgt_{layer}"]) for layer in (0, 1)]
    distance = sum(
        delta.behavioural_distance(maps[layer], torch.from_numpy(values[f"delta_src_{layer}"]), None)
        for layer in (0, 1)
    )
    assert isinstance(distance, torch.Tensor)
    assert distance.item() == pytest.approx(float(values["delta_noatt_value_half"]), rel=1e-14)
    distance.backward()
    for layer in (0, 1):
        np.testing.assert_allclose(gradient(maps[layer]), values[f"delta_noatt_grad_{layer}"], rtol=1e-13)


@pytest.mark.parametrize("tokens", [False, True])
def test_delta_with_attention(values: Any, tokens: bool) -> None:
    """Maps as tokens give the same, space for time."""
    maps = [leaf(values[f"delta_tgt_{layer}"]) for layer in (0, 1)]
    distance = torch.zeros((), dtype=torch.float64)
    for layer in (0, 1):
        start, weights = (torch.from_numpy(values[f"delta_{name}_{layer}"]) for name in ("src", "att"))
        both = [maps[layer], start]
        if tokens:
            both = [part.flatten(2).transpose(1, 2) for part in both]
        distance = distance + delta.behavioural_distance(both[0], both[1], weights)
    assert distance.item() == pytest.approx(float(values["delta_att_value"]), rel=1e-13)
    distance.backward()
    for layer in (0, 1):
        np.testing.assert_allclose(gradient(maps[layer]), values[f"delta_att_grad_{layer}"], rtol=1e-12)


@pytest.mark.parametrize("layer", [0, 1])
def test_attention_of_loss_increases(values: Any, layer: int) -> None:
    found = attention.attention(torch.from_numpy(values[f"delta_att_loss_increase_{layer}"]))
    np.testing.assert_allclose(found, values[f"delta_att_{layer}"], rtol=1e-6)
    assert attention.attention(torch.full((4,), 0.1)).tolist() == [0.25] * 4


SETTINGS = {
    **{"alpha": 0.3, "beta": 0.2, "layers": None, "normalise": "sum", "attention": False},
    **{"attention_images": 6, "fitting_images": 10},
}


@pytest.mark.parametrize("normalise", ["sum", "mean"])
@pytest.mark.parametrize("with_attention", [False, True])
def test_delta_of_a_network(start: Any, normalise: str, with_attention: bool) -> None:
    settings = SETTINGS | {"layers": ["0", "3"], "normalise": normalise, "attention": with_attention}
    objective = delta.build(settings, start)
    assert objective.layers == ("0", "3")
    model = start.backbone.train()
    with torch.no_grad():
        model.encoder[3].weight += 0.1
    images, labels = next(start.training(4))
    outputs = outputs_for(objective, model, images, labels)
    first = start.pretrained.encoder[0](images)
    maps = {"0": first, "3": start.pretrained.encoder[:4](images)}
    expected = 0.0
    for number, (name, of_start) in enumerate(maps.items()):
        moved = (outputs.layers[name] - of_start).detach().double().pow(2)
        if with_attention:
            weights = objective.get_buffer(f"attention_{number}").double()
            moved = moved.mean((2, 3)) * weights * len(weights)
        expected += float(moved.sum()) / 2
    expected /= 4 if normalise == "mean" else 1
    loss, parts = objective(outputs)
    assert parts["delta"].item() == pytest.approx(expected, rel=1e-5)
    total = parts["cross_entropy"] + 0.3 * parts["delta"] + 0.2 * parts["l2_head"]
    assert loss.item() == pytest.approx(total.item(), rel=1e-6)
    loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert all(weight.grad is None for weight in start.pretrained.parameters())
    # Checkpoints hold what was measured, and not the start.
    assert list(objective.state_dict()) == (["attention_0", "attention_1"] if with_attention else [])


def test_gradient_of_delta_reaches_the_weights(start: Any) -> None:
    """Of the first layer: the same as by writing the penalty out, without recomputation."""
    objective = delta.build(SETTINGS | {"layers": ["0"], "alpha": 1.0, "beta": 0.0}, start)
    model, (images, labels) = start.backbone.eval(), next(start.training(5))
    with torch.no_grad():
        model.encoder[0].weight += 0.1
    outputs = outputs_for(objective, model, images, labels)
    expected = torch.autograd.grad(
        functional.cross_entropy(outputs.logits, labels)
        + (outputs.layers["0"] - start.pretrained.encoder[0](images)).pow(2).sum() / 2,
        model.encoder[0].weight,
        retain_graph=True,
    )[0]
    objective(outputs)[0].backward()
    np.testing.assert_allclose(model.encoder[0].weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_attention_is_measured_without_each_channel(start: Any) -> None:
    """Against whole passes of networks whose filters are zero; half of the images are looked at."""
    encoder = start.pretrained.encoder
    found = attention.channel_attention(encoder, {"0": 1, "3": 1}, start.training, 6, 12)
    images, labels = (torch.cat(parts) for parts in zip(*start.training(12), strict=True))
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression().fit(encoder(images).double().numpy(), labels.numpy())
    chosen = np.round(np.linspace(0, 11, 6)).astype(int)

    def loss(changed: nn.Module) -> float:
        features = changed(images[chosen]).double().numpy()
        return float(-fitted.predict_log_proba(features)[np.arange(6), labels[chosen]].mean())

    for name in ("0", "3"):
        increases = []
        for channel in range(len(encoder.get_submodule(name).weight)):
            changed = network().eval()
            with torch.no_grad():
                layer: Any = changed.get_submodule(name)
                layer.weight[channel] = 0
                layer.bias[channel] = 0
                increases.append(loss(changed) - loss(encoder))
        z = (np.array(increases) - np.mean(increases)) / np.std(increases)
        expected = np.exp(z / 5) / np.exp(z / 5).sum()
        np.testing.assert_allclose(found[name], expected, rtol=1e-4)


def test_what_lies_below_a_layer_runs_once(start: Any) -> None:
    encoder, calls = start.pretrained.encoder, []
    for number in (0, 3, 4):
        forward = encoder[number].forward
        encoder[number].forward = lambda images, forward=forward, number=number: (
            calls.append(number),
            forward(images),
        )[1]
    images = torch.rand(2, 3, 8, 8)
    attention.loss_increases(encoder, lambda features, _: features.sum(), "3", 1, images, torch.zeros(2))
    # Two passes to see what there is, then one for each of six channels.
    assert [calls.count(number) for number in (0, 3, 4)] == [2, 8, 8]


@pytest.mark.parametrize("kind", ["ResNet", "vision transformer"])
def test_skipping_what_lies_below_changes_no_loss(kind: str) -> None:
    """In networks of torchvision, whose blocks share modules and work in place."""
    from torchvision.models import ResNet, VisionTransformer
    from torchvision.models.resnet import BasicBlock

    torch.manual_seed(0)
    if kind == "ResNet":
        encoder: nn.Module = ResNet(BasicBlock, [2, 1, 1, 1], num_classes=5)
        # Statistics as of data, so that channels matter.
        encoder.train()(torch.rand(32, 3, 32, 32))
    else:
        encoder = VisionTransformer(32, 8, 4, 2, 8, 16, num_classes=5)
        nn.init.normal_(encoder.heads[0].weight)
    encoder.eval().requires_grad_(False)
    images, labels = torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 4])
    layer = last_of_stages(encoder)[1]
    axis = 1 if kind == "ResNet" else 2

    def loss(out: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(out.double(), labels, reduction="sum")

    found = attention.loss_increases(encoder, loss, layer, axis, images, labels)
    before, module = loss(encoder(images), labels), encoder.get_submodule(layer)
    for channel in (0, 3, 7):
        handle = module.register_forward_hook(
            lambda _module, _inputs, out, channel=channel: out.index_fill(axis, torch.tensor([channel]), 0)
        )
        expected = loss(encoder(images), labels) - before
        handle.remove()
        assert abs(expected) > 1e-4
        assert found[channel].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)


def test_attention_of_one_class_is_even(start: Any) -> None:
    def training(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter([(torch.rand(3, 3, 8, 8), torch.full((3,), 4))])

    found = attention.channel_attention(start.pretrained.encoder, {"0": 1}, training, 2, 2)
    assert found["0"].tolist() == [0.25] * 4


def test_last_layers_of_stages() -> None:
    from pipeline.backbones.architectures.small_resnet import SmallResNet
    from pipeline.backbones.architectures.torchvision import build

    assert last_of_stages(SmallResNet([4, 8, 16], 2, 1)) == tuple(f"stages.{n}.second" for n in (1, 3, 5))
    assert last_of_stages(SmallResNet([4, 4], 1, 2)) == ("stages.0.second", "stages.1.second")
    expected = {
        "resnet18": ["layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2"],
        # As in the released code, and of 101 layers too, where the library's copy stops at block 5 of 22.
        "resnet50": ["layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3"],
        "resnet101": ["layer1.2.conv3", "layer2.3.conv3", "layer3.22.conv3", "layer4.2.conv3"],
        "resnext50_32x4d": ["layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3"],
        "vit_b_16": [f"encoder.layers.encoder_layer_{number}" for number in (2, 5, 8, 11)],
    }
    for name, layers in expected.items():
        with torch.device("meta"):
            assert last_of_stages(build({"model": name})[0]) == tuple(layers)
    with torch.device("meta"), pytest.raises(PipelineError, match=r"name modules in layers, as in .*feature"):
        last_of_stages(build({"model": "mobilenet_v3_small"})[0])


def test_delta_of_a_vision_transformer() -> None:
    from torchvision.models import VisionTransformer

    encoder = VisionTransformer(16, 8, 4, 2, 8, 16, num_classes=3).eval()
    layers = last_of_stages(encoder)
    found = outputs_of(encoder, layers, torch.rand(2, 3, 16, 16))
    assert [tuple(maps.shape) for maps in found.values()] == [(2, 5, 8)] * 4
    increases = attention.loss_increases(
        encoder, lambda out, _: out.sum(), layers[1], 2, torch.rand(2, 3, 16, 16), torch.zeros(2)
    )
    assert increases.shape == (8,)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["3", "8"], "layers: no module '8': in the backbone's encoder there is 0, 1, 2, 3, 4, 5, 6, 7$"),
        (["3.conv"], "no module '3.conv': below '3' there is nothing"),
        (["7"], r"module '7' gives \(2, 6\) for 2 images; expected maps \(n, c, h, w\) or tokens"),
        (None, "the stages of this backbone are not known; name modules in layers, as in layers: .0, 1"),
    ],
)
def test_layers_that_delta_refuses(start: Any, layers: list[str] | None, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        delta.build(SETTINGS | {"layers": layers}, start)


# BSS


@pytest.mark.parametrize("shape", ["tall", "wide", "rankdef"])
@pytest.mark.parametrize("count", [1, 3])
def test_bss_value_and_gradient(values: Any, shape: str, count: int) -> None:
    features = leaf(values[f"bss_{shape}_f"])
    smallest = bss.smallest_squared_singular_values(features, count)
    smallest.backward()
    expected = float(values[f"bss_{shape}_k{count}"])
    assert smallest.item() == pytest.approx(expected, rel=1e-12, abs=1e-13)
    np.testing.assert_allclose(gradient(features), values[f"bss_{shape}_k{count}_grad"], atol=1e-6)
    assert float(values[f"bss_{shape}_k{count}_tll"]) == pytest.approx(expected, rel=1e-12, abs=1e-20)


def test_bss_of_more_singular_values_than_there_are(values: Any) -> None:
    features = torch.from_numpy(values["bss_wide_f"])
    assert bss.smallest_squared_singular_values(features, 99).item() == pytest.approx(
        float(features.square().sum()), rel=1e-12
    )


@given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([-1.0, 0, 1, 2])
    ),
    st.integers(1, 6),
)
def test_bss_of_any_matrix(matrix: np.ndarray, count: int) -> None:
    """Whole numbers make equal and zero singular values, whose vectors have no derivative."""
    features = leaf(matrix)
    smallest = bss.smallest_squared_singular_values(features, count)
    smallest.backward()
    singular = np.linalg.svd(matrix, compute_uv=False)
    expected = (singular[::-1][:count] ** 2).sum()
    assert smallest.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)
    # |gradient|^2 = 4 sum of the k smallest squares, whichever vectors of equal ones were taken.
    assert (gradient(features) ** 2).sum() == pytest.approx(4 * expected, rel=1e-10, abs=1e-10)


def test_bss_objective(start: Any) -> None:
    objective = bss.build({"weight": 0.5, "singular_values": 2}, start)
    images, labels = next(start.training(4))
    outputs = outputs_for(objective, start.backbone, images, labels)
    loss, parts = objective(outputs)
    singular = np.linalg.svd(outputs.features.detach().numpy(), compute_uv=False)
    assert parts["bss"].item() == pytest.approx((singular[-2:] ** 2).sum(), rel=1e-4)
    plain = functional.cross_entropy(outputs.logits, labels).item()
    assert loss.item() == pytest.approx(plain + 0.5 * parts["bss"].item(), rel=1e-6)
    assert loss.dtype == torch.float32


def test_bss_of_features_that_are_not_finite_gives_such_a_loss() -> None:
    features = torch.ones(3, 4)
    features[1, 2] = float("inf")
    assert not torch.isfinite(bss.smallest_squared_singular_values(features, 1))


# Mix-and-Match


def triplets_by_loops(v: np.ndarray, labels: np.ndarray, margin: float) -> float:
    v = v / np.linalg.norm(v, axis=1, keepdims=True)
    losses = []
    for i in range(len(v)):
        distances = [float(np.linalg.norm(v[i] - other)) for other in v]
        apart = [d for j, d in enumerate(distances) if j != i and labels[j] == labels[i]]
        near = [d for j, d in enumerate(distances) if labels[j] != labels[i]]
        if apart and near:
            losses.append(max(0.0, max(apart) - min(near) + margin))
    return float(np.mean(losses)) if losses else 0.0


@pytest.mark.parametrize("margin", [0.0, 0.3, 2.1])
@pytest.mark.parametrize("classes", [1, 2, 4, 12])
def test_triplets_equal_loops(classes: int, margin: float) -> None:
    random = np.random.default_rng(classes)
    features, labels = random.normal(size=(14, 5)), random.integers(0, classes, 14)
    found = mix_and_match.batch_hard_triplets(leaf(features), torch.from_numpy(labels), margin)
    assert found.item() == pytest.approx(triplets_by_loops(features, labels, margin), rel=1e-12)


def test_gradient_of_triplets() -> None:
    random = np.random.default_rng(0)
    features, labels = leaf(random.normal(size=(9, 4))), torch.arange(9) % 3
    assert torch.autograd.gradcheck(
        lambda given: mix_and_match.batch_hard_triplets(given, labels, 0.3), (features,)
    )


def test_mix_and_match_objective(start: Any) -> None:
    objective = mix_and_match.build({"weight": 0.5, "margin": 0.3}, start)
    images, labels = next(start.training(6))
    outputs = outputs_for(objective, start.backbone, images, labels)
    loss, parts = objective(outputs)
    expected = triplets_by_loops(outputs.features.detach().numpy(), labels.numpy(), 0.3)
    assert parts["triplet"].item() == pytest.approx(expected, rel=1e-5)
    plain = functional.cross_entropy(outputs.logits, labels).item()
    assert loss.item() == pytest.approx(plain + 0.5 * expected, rel=1e-5)


# All of them

BUILD: dict[str, Callable[[Any], Objective]] = {
    "l2_sp": lambda start: l2_sp.build({"alpha": 0.01, "beta": 0.01}, start),
    "delta": lambda start: delta.build(SETTINGS | {"layers": ["0", "3"]}, start),
    "delta with attention": lambda start: delta.build(
        SETTINGS | {"layers": ["0", "3"], "attention": True}, start
    ),
    "bss": lambda start: bss.build({"weight": 1e-3, "singular_values": 1}, start),
    "mix_and_match": lambda start: mix_and_match.build({"weight": 1.0, "margin": 0.3}, start),
}


@pytest.mark.parametrize("lowered", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("labels", [[0, 1], [2, 2], [0, 1, 2], [1, 1, 1, 1], [0, 0, 1, 2]], ids=str)
@pytest.mark.parametrize("name", BUILD)
def test_any_batch_gives_a_finite_loss_and_gradient(
    start: Any, torch_as_before: None, name: str, labels: list[int], lowered: bool
) -> None:
    torch.set_deterministic_debug_mode("error")  # as training on a CPU has it
    objective = BUILD[name](start)
    images = torch.rand(len(labels), 3, 8, 8)
    images[-1] = images[0]  # two images that are the same
    with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        loss, parts = objective(outputs_for(objective, start.backbone, images, torch.tensor(labels)))
    assert loss.dtype == torch.float32
    assert all(part.dtype == torch.float32 and torch.isfinite(part) for part in parts.values())
    loss.backward()
    for weight in start.backbone.parameters():
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()


def test_bfloat16_is_as_exact_as_its_features(start: Any) -> None:
    """What is computed of features and maps in bfloat16 is computed in float32."""
    features = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(8) % 3
    with torch.autocast("cpu", torch.bfloat16):
        triplets = mix_and_match.batch_hard_triplets(features, labels, 0.3).item()
        smallest = bss.smallest_squared_singular_values(features, 1).item()
        moved = delta.behavioural_distance(features[:, :, None], features.flip(0)[:, :, None], None).item()
    exact = features.double().numpy()
    assert triplets == pytest.approx(triplets_by_loops(exact, labels.numpy(), 0.3), rel=1e-5)
    assert smallest == pytest.approx(np.linalg.svd(exact, compute_uv=False)[-1] ** 2, rel=1e-5)
    assert moved == pytest.approx(((exact - exact[::-1]) ** 2).sum() / 2, rel=1e-5)
