"""The training engine: optimisers, schedules, budgets, randomness, batches, augmentation, the loop."""

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy import ndimage, stats
from torch import nn

from pipeline.backbones.architectures.small_resnet import build as build_small_resnet
from pipeline.engine import augmentation
from pipeline.engine.augmentation import DRAWS, Augmentation, Normalisation
from pipeline.engine.inference import forward_all
from pipeline.engine.learner import Learner
from pipeline.engine.optimisation import Optimiser, decay_ratios, rate_factor
from pipeline.engine.randomness import derive, permutation, seeded, uniforms
from pipeline.engine.records import Record
from pipeline.engine.streams import ClassBalanced, ImageStream, Shuffled, target_stream
from pipeline.engine.train import fit
from pipeline.engine.window import Window
from pipeline.engine.workspace import Workspace
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.tables import read_samples, read_table

CPU = torch.device("cpu")
RECORDS = ["distances.parquet", "history.parquet", "timings.parquet"]
PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


# Optimisers

SGD: dict[str, Any] = {
    "name": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.01,
    "layer_decay": 1.0,
}
ADAM: dict[str, Any] = {
    "name": "adam",
    "learning_rate": 0.01,
    "betas": [0.8, 0.99],
    "weight_decay": 0.1,
    "layer_decay": 1.0,
}
# What the engine is given, and what torch.optim calls the same.
OPTIMISERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "momentum": (SGD | {"nesterov": False}, {"momentum": 0.9, "weight_decay": 0.01}),
    "plain": (SGD | {"momentum": 0.0, "weight_decay": 0.0}, {}),
    "adam": (ADAM, {"betas": (0.8, 0.99), "weight_decay": 0.1}),
}
FACTORS = [0.5, 1.0, 1.0, 0.7, 0.1, 0.01]


@pytest.fixture
def network() -> nn.Sequential:
    """Two layers to be the backbone (0, 2), one to be a head (3)."""
    with seeded(5, "network"):
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 3))


def optimiser_of(values: dict[str, Any], network: nn.Sequential, **changes: Any) -> Optimiser:
    """The engine's optimiser: layer 2 at a tenth of the rate, the head at ten times."""
    return Optimiser({"groups": {"2": 0.1}, "head_ratio": 10.0} | values | changes, network[:3], [network[3]])


def backward(network: nn.Module, step: int) -> None:
    """Gradients that differ at each step."""
    inputs = torch.from_numpy(uniforms(np.arange(7), 4, "inputs", step))
    nn.functional.cross_entropy(network(inputs), torch.arange(7) % 3).backward()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimiser_equals_torch(network: nn.Sequential, name: str) -> None:
    values, options = OPTIMISERS[name]
    expected = copy.deepcopy(network)
    rate = values["learning_rate"]
    groups = [(expected[0], 1.0), (expected[2], 0.1), (expected[3], 10.0)]
    kind = torch.optim.AdamW if name == "adam" else torch.optim.SGD
    reference = kind([{"params": layer.parameters(), "lr": rate} for layer, _ in groups], lr=rate, **options)
    optimiser = optimiser_of(values, network)
    for step, factor in enumerate(FACTORS):
        for module in (network, expected):
            backward(module, step)
        optimiser.step(factor)
        for group, (_, ratio) in zip(reference.param_groups, groups, strict=True):
            group["lr"] = rate * factor * ratio
        reference.step()
        reference.zero_grad()
    for found, wanted in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimiser_continues_from_its_state(network: nn.Sequential, name: str) -> None:
    values, _ = OPTIMISERS[name]
    first = optimiser_of(values, network)
    for step in range(3):
        backward(network, step)
        first.step(1.0)
    resumed = copy.deepcopy(network)
    second = optimiser_of(values, resumed)
    second.load_state({key: value.clone() for key, value in first.state().items()})
    for step in range(3, 6):
        for module, optimiser in ((network, first), (resumed, second)):
            backward(module, step)
            optimiser.step(0.5)
    for found, wanted in zip(resumed.parameters(), network.parameters(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("values", [SGD, ADAM], ids=["sgd", "adam"])
def test_parameter_without_gradient_stays(network: nn.Sequential, values: dict[str, Any]) -> None:
    optimiser = optimiser_of(values, network)
    before = copy.deepcopy(network)
    network[:3](torch.ones(2, 4)).sum().backward()  # the head takes no part
    optimiser.step(1.0)
    now, then = network.state_dict(), before.state_dict()
    assert torch.equal(now["3.weight"], then["3.weight"])
    assert not torch.equal(now["0.weight"], then["0.weight"])
    assert all(parameter.grad is None for parameter in network.parameters())


def test_longest_prefix_decides_the_group() -> None:
    backbone = nn.ModuleDict({"stages": nn.ModuleDict({"0": nn.Linear(1, 1), "1": nn.Linear(1, 1)})})
    backbone["stem"] = nn.Linear(1, 1)
    backbone["stem"].bias.requires_grad_(False)
    optimiser = Optimiser(
        SGD | {"groups": {"stages": 0.5, "stages.1": 0.25}, "head_ratio": 4.0}, backbone, [nn.Linear(1, 2)]
    )
    sizes = {ratio: len(parameters) for ratio, parameters in optimiser.groups.items()}
    assert sizes == {0.5: 2, 0.25: 2, 1.0: 1, 4.0: 2}
    assert optimiser.rate(0.5) == 0.05


def test_pretrained_parts_take_the_rate_of_the_backbone() -> None:
    """Co-Tuning's source head, beside a new head that is ten times as fast."""
    backbone, new, trained = nn.Linear(1, 1), nn.Linear(1, 2), nn.Linear(1, 3)
    optimiser = Optimiser(SGD | {"groups": {}, "head_ratio": 10.0}, backbone, [new], [trained])
    shapes = {ratio: [tuple(p.shape) for p in group] for ratio, group in optimiser.groups.items()}
    assert shapes == {1.0: [(1, 1), (1,), (3, 1), (3,)], 10.0: [(2, 1), (2,)]}


# By network, how often the decay is applied to parameters of it, written down by hand; MAE's
# util/lr_decay.py gives a transformer's blocks and what surrounds them the same.
RESNET18 = {
    **{"conv1.weight": 9, "bn1.bias": 9, "layer1.0.conv1.weight": 8, "layer1.1.bn2.weight": 7},
    **{"layer2.0.downsample.0.weight": 6, "layer2.1.conv2.weight": 5, "layer3.0.conv1.weight": 4},
    **{"layer3.1.conv1.weight": 3, "layer4.0.downsample.1.bias": 2, "layer4.1.bn2.bias": 1},
}
SMALL_RESNET = {
    **{"stem.weight": 5, "stem_norm.bias": 5, "stages.0.first.weight": 4, "stages.1.second_norm.weight": 3},
    **{"stages.2.shortcut.0.weight": 2, "stages.3.second.weight": 1},
}
TRANSFORMER = {
    **{"class_token": 4, "conv_proj.weight": 4, "conv_proj.bias": 4, "encoder.pos_embedding": 4},
    "encoder.layers.encoder_layer_0.ln_1.weight": 3,
    "encoder.layers.encoder_layer_1.self_attention.in_proj_weight": 2,
    "encoder.layers.encoder_layer_2.mlp.0.weight": 1,
    "encoder.layers.encoder_layer_2.mlp.3.bias": 1,
    **{"encoder.ln.weight": 0, "encoder.ln.bias": 0},
}


def decayed_networks() -> list[tuple[nn.Module, dict[str, int], int]]:
    """Networks without their heads, what is expected of some parameters, and how many levels there are."""
    resnet = torchvision.models.resnet18()
    resnet.fc = nn.Identity()
    small, _, _ = build_small_resnet({"widths": [4, 6], "blocks": 2, "stem_stride": 1})
    transformer = torchvision.models.VisionTransformer(
        8, 4, num_layers=3, num_heads=1, hidden_dim=4, mlp_dim=4
    )
    transformer.heads = nn.Identity()
    return [(resnet, RESNET18, 9), (small, SMALL_RESNET, 5), (transformer, TRANSFORMER, 5)]


def test_layer_decay_falls_from_block_to_block() -> None:
    for network, expected, levels in decayed_networks():
        ratios = decay_ratios([name for name, _ in network.named_parameters()], 0.5)
        assert {name: ratios[name] for name in expected} == {
            name: 0.5**times for name, times in expected.items()
        }
        assert len(ratios) == len(list(network.parameters()))
        assert len(set(ratios.values())) == levels


def test_layer_decay_multiplies_groups_and_leaves_heads_alone() -> None:
    backbone = nn.ModuleDict({"stem": nn.Linear(1, 1), "stages": nn.ModuleList([nn.Linear(1, 1)] * 1)})
    values = SGD | {"layer_decay": 0.5, "groups": {"stages": 0.1}, "head_ratio": 10.0}
    optimiser = Optimiser(values, backbone, [nn.Linear(1, 2)], [nn.Linear(1, 3)])
    shapes = {ratio: [tuple(p.shape) for p in group] for ratio, group in optimiser.groups.items()}
    assert shapes == {
        0.25: [(1, 1), (1,)],
        0.05: [(1, 1), (1,)],
        10.0: [(2, 1), (2,)],
        1.0: [(3, 1), (3,)],
    }


def test_what_lies_between_blocks_belongs_to_the_one_before() -> None:
    names = ["stages.0.weight", "transition.weight", "stages.1.weight", "norm.weight", "scale_2"]
    assert list(decay_ratios(names, 0.5).values()) == [0.25, 0.25, 0.5, 1.0, 1.0]


def test_layer_decay_needs_blocks() -> None:
    assert decay_ratios(["weight", "bias"], 1.0) == {"weight": 1.0, "bias": 1.0}
    with pytest.raises(
        PipelineError, match=r"layer_decay: found 0.9, .* no numbered blocks .*\(weight, bias"
    ):
        decay_ratios(["weight", "bias"], 0.9)


# Schedules

STEP = {"name": "step", "milestones": [0.6, 0.8], "factor": 0.1, "warmup": 0.0}
COSINE = {"name": "cosine", "final": 0.1, "warmup": 0.0}
POLY = {"name": "poly", "power": 0.9, "warmup": 0.0}
EXPONENTIAL = {"name": "exponential", "gamma": 0.5, "warmup": 0.0}


@pytest.mark.parametrize("per_epoch", [1, 7, 13, 24])
def test_step_schedule_divides_by_ten_at_60_and_80_of_100_epochs(per_epoch: int) -> None:
    """UOT paper, section 4.1."""
    by_epoch = {0: 1.0, 59: 1.0, 60: 0.1, 79: 0.1, 80: 0.01, 99: 0.01}
    for epoch, expected in by_epoch.items():
        for step in (epoch * per_epoch, (epoch + 1) * per_epoch - 1):
            assert rate_factor(STEP, step, 100 * per_epoch, per_epoch) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (COSINE, 0, 1.0),
        (COSINE, 10, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2),
        (COSINE, 20, 0.55),
        (COSINE, 30, 0.1 + 0.9 * (1 - math.sqrt(0.5)) / 2),
        (COSINE, 40, 0.1),
        (COSINE | {"final": 0.0}, 20, 0.5),
        (POLY, 0, 1.0),
        (POLY, 20, 0.5358867312681466),
        (POLY, 36, 0.12589254117941673),
        (POLY | {"power": 2.0}, 30, 0.0625),
        (EXPONENTIAL, 3, 1.0),
        (EXPONENTIAL, 4, 0.5),
        (EXPONENTIAL, 11, 0.25),
        (EXPONENTIAL, 39, 0.5**9),
    ],
)
def test_schedules_by_hand(schedule: dict[str, Any], step: int, expected: float) -> None:
    """Of 40 steps in 10 epochs."""
    assert rate_factor(schedule, step, 40, 4) == pytest.approx(expected, rel=1e-12)


def test_warm_up_rises_in_equal_steps_and_multiplies_the_schedule() -> None:
    """Two epochs of five steps each: 0.1, 0.2, ... 1.0, then no more."""
    constant = EXPONENTIAL | {"gamma": 1.0, "warmup": 2.0}
    found = [rate_factor(constant, step, 50, 5) for step in range(12)]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0])
    assert rate_factor(POLY | {"power": 1.0, "warmup": 2.0}, 4, 50, 5) == pytest.approx(0.5 * 0.92)
    half_an_epoch = [rate_factor(constant | {"warmup": 0.5}, step, 50, 4) for step in range(3)]
    assert half_an_epoch == pytest.approx([0.5, 1.0, 1.0])


@given(
    schedule=st.sampled_from([STEP, COSINE, POLY, EXPONENTIAL]),
    warmup=st.floats(0, 5),
    epochs=st.integers(1, 30),
    per_epoch=st.integers(1, 20),
)
def test_rates_fall_after_the_warm_up(
    schedule: dict[str, Any], warmup: float, epochs: int, per_epoch: int
) -> None:
    schedule = schedule | {"warmup": warmup}
    factors = [
        rate_factor(schedule, step, epochs * per_epoch, per_epoch) for step in range(epochs * per_epoch)
    ]
    assert all(0 < factor <= 1 for factor in factors)
    after = factors[math.ceil(warmup * per_epoch) :]
    assert after == sorted(after, reverse=True)


# Budgets


def budget(epochs: int | None = None, iterations: int | None = None) -> dict[str, Any]:
    return {"epochs": epochs, "iterations": iterations}


@pytest.mark.parametrize(
    ("of", "batches", "accumulate", "share", "expected"),
    [
        (budget(epochs=100), 13, 1, (0, 1), Window(0, 1300, 1300, 13)),
        (budget(epochs=100), 13, 4, (0, 1), Window(0, 400, 400, 4)),
        (budget(epochs=100), 13, 1, (0, 0.7), Window(0, 910, 1300, 13)),
        (budget(epochs=100), 13, 1, (0.7, 1), Window(910, 1300, 1300, 13)),
        (budget(epochs=5), 3, 1, (0, 0.7), Window(0, 12, 15, 3)),
        (budget(iterations=1000), 13, 1, (0, 1), Window(0, 1000, 1000, 13)),
        (budget(iterations=1000), 13, 2, (0.7, 1), Window(700, 1000, 1000, 7)),
        (budget(iterations=5), 13, 1, (0, 0.7), Window(0, 4, 5, 13)),
    ],
)
def test_window_of_a_budget(
    of: dict[str, Any], batches: int, accumulate: int, share: tuple[float, float], expected: Window
) -> None:
    assert Window.of_budget(of, batches, accumulate, share) == expected


@given(
    epochs=st.integers(1, 200),
    iterations=st.integers(1, 5000) | st.none(),
    batches=st.integers(1, 50),
    accumulate=st.integers(1, 8),
    share=st.floats(0.01, 0.99),
)
def test_two_stages_share_a_budget_without_gap(
    epochs: int, iterations: int | None, batches: int, accumulate: int, share: float
) -> None:
    of = budget(None if iterations else epochs, iterations)
    whole = Window.of_budget(of, batches, accumulate)
    try:
        first = Window.of_budget(of, batches, accumulate, (0, share))
        second = Window.of_budget(of, batches, accumulate, (share, 1))
    except PipelineError:
        assert round(share * (iterations or epochs)) in (0, iterations or epochs)
        return
    assert (first.first, first.last, second.last) == (0, second.first, whole.last)
    assert whole.last == whole.total == (iterations or epochs * math.ceil(batches / accumulate))
    if not iterations:
        assert first.last % first.per_epoch == 0


@pytest.mark.parametrize(
    ("window", "share", "last"),
    [
        (Window(0, 900, 900, 100), 1 / 9, 100),
        (Window(0, 900, 900, 100), 0.2, 200),
        (Window(0, 900, 900, 100), 1.0, 900),
        (Window(0, 950, 950, 100), 0.999, 950),
        (Window(0, 7, 7, 10), 0.1, 7),
    ],
)
def test_a_part_that_goes_on_ends_with_an_epoch(window: Window, share: float, last: int) -> None:
    assert window.until(share) == Window(window.first, last, window.total, window.per_epoch)
    assert window.until(share).ends == (last == window.total)


def test_a_share_without_a_step_is_refused() -> None:
    """Else fine-tuning would leave its head at random, and say nothing."""
    with pytest.raises(PipelineError, match=r"from 0.7 to 1 of a budget of 1 epochs is empty"):
        Window.of_budget(budget(epochs=1), 13, 1, (0.7, 1))
    with pytest.raises(PipelineError, match=r"from 0 to 0.1 of a budget of 3 iterations is empty"):
        Window.of_budget(budget(iterations=3), 13, 1, (0, 0.1))


# Randomness

SAMPLES = st.lists(st.integers(0, 2**40), min_size=1, max_size=30, unique=True).map(np.array)


def test_derive_depends_on_every_key_and_their_order() -> None:
    keys: list[tuple[int | str, ...]] = [
        (1, "a"),
        ("a", 1),
        (1, "b"),
        (2, "a"),
        ("1a",),
        (1, "a", 0),
        (11, "a"),
        (1, "1a"),
    ]
    seeds = [derive(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(1, "a") == derive(1, "a")


def test_uniforms_are_uniform_and_independent() -> None:
    numbers = uniforms(np.arange(20_000), 5, 0, "test").astype(float)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    # Neither the draws of a sample nor neighbouring samples nor two epochs go together.
    later = uniforms(np.arange(20_000), 5, 1, "test").astype(float)
    together = np.corrcoef(np.hstack([numbers[1:], numbers[:-1], later[1:]]).T)
    assert np.abs(together - np.eye(15)).max() < 5 / math.sqrt(20_000)


@given(samples=SAMPLES, seed=st.integers(0, 2**31), data=st.data())
def test_uniforms_of_a_sample_do_not_depend_on_its_batch(
    samples: np.ndarray, seed: int, data: st.DataObject
) -> None:
    whole = uniforms(samples, DRAWS, seed, "augmentation")
    assert whole.dtype == np.float32
    assert ((whole >= 0) & (whole < 1)).all()
    picked = data.draw(st.permutations(range(len(samples))))[: data.draw(st.integers(1, len(samples)))]
    np.testing.assert_array_equal(uniforms(samples[picked], DRAWS, seed, "augmentation"), whole[picked])


def test_uniforms_differ_by_seed_epoch_view_and_sample() -> None:
    keys = [(seed, "augmentation", epoch, view) for seed in (0, 1) for epoch in (0, 1) for view in (0, 1)]
    rows = np.concatenate([uniforms(np.arange(50), 4, *key) for key in keys])
    assert len(np.unique(rows, axis=0)) == 8 * 50


@given(count=st.integers(1, 200), seed=st.integers(0, 1000))
def test_permutation_holds_each_number_once(count: int, seed: int) -> None:
    found = permutation(count, seed, "order")
    np.testing.assert_array_equal(np.sort(found), np.arange(count))
    np.testing.assert_array_equal(found, permutation(count, seed, "order"))


def test_permutation_differs_by_key_and_has_every_order() -> None:
    orders = {tuple(permutation(3, seed, "order")) for seed in range(100)}
    assert len(orders) == 6
    assert tuple(permutation(50, 0, "order", 0)) != tuple(permutation(50, 0, "order", 1))


def test_seeded_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(1, "weights"):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(1, "weights"):
        assert torch.equal(torch.rand(2), first)


# Samplers


@given(count=st.integers(2, 80), batch_size=st.integers(1, 30), epoch=st.integers(0, 5))
def test_shuffled_takes_every_sample_once(count: int, batch_size: int, epoch: int) -> None:
    sampler = Shuffled(count, batch_size, seed=7)
    batches = list(sampler.epoch(epoch))
    assert len(batches) == sampler.batches
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches[-1]) > 1 or batch_size == 1
    taken = np.sort(np.concatenate(batches))
    # Only a single sample left over is dropped, since batch normalisation cannot train on it.
    dropped = 1 if batch_size > 1 and count % batch_size == 1 else 0
    assert len(taken) == count - dropped
    assert len(np.unique(taken)) == len(taken)


def test_shuffled_drops_another_sample_each_epoch() -> None:
    sampler = Shuffled(9, 4, seed=0)
    left_out = {(set(range(9)) - set(np.concatenate(list(sampler.epoch(e))))).pop() for e in range(40)}
    assert len(left_out) > 5


def test_shuffled_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int, size: int = 5) -> list[int]:
        return np.concatenate(list(Shuffled(20, size, seed).epoch(epoch))).tolist()

    assert order(0, 3) == order(0, 3) == order(0, 3, size=10)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array),
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=5),
    epoch=st.integers(0, 3),
)
def test_class_balanced_batches(labels: np.ndarray, sizes: list[int], epoch: int) -> None:
    sampler = ClassBalanced(labels, sizes, seed=1)
    batches = list(sampler.epoch(epoch))
    assert [len(batch) for batch in batches] == sizes
    assert sampler.batches == len(sizes)
    for batch in batches:
        counts = [int((labels[batch] == label).sum()) for label in np.unique(labels)]
        assert max(counts) - min(counts) <= 1
    for batch, again in zip(batches, sampler.epoch(epoch), strict=True):
        np.testing.assert_array_equal(batch, again)


def test_class_balanced_draws_images_of_a_class_evenly() -> None:
    """One class of 2 images and one of 6: each class half, within it each image alike."""
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    drawn = np.concatenate(list(ClassBalanced(labels, [8] * 500, seed=0).epoch(0)))
    counts = np.bincount(drawn, minlength=8)
    assert counts[:2].sum() == counts[2:].sum() == 2000
    assert stats.chisquare(counts[:2]).pvalue > 1e-3
    assert stats.chisquare(counts[2:]).pvalue > 1e-3


# Augmentation


@pytest.fixture
def photos() -> torch.Tensor:
    """Six images of 12 x 12 whose pixels all differ from their neighbours."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8))


@pytest.fixture
def augment(training: Callable[..., dict[str, Any]]) -> Callable[..., torch.Tensor]:
    """A function that augments images, all settings off but the given ones."""

    def apply(
        images: torch.Tensor, draws: np.ndarray | None = None, crop: int = 12, **changes: Any
    ) -> torch.Tensor:
        numbers = uniforms(np.arange(len(images)), DRAWS, 0, "test") if draws is None else draws
        options = training()["augmentation"] | changes
        return Augmentation(options, {"crop": crop, **PLAIN})(images, numbers)

    return apply


def all_draws(count: int, value: float = 0.5) -> np.ndarray:
    return np.full((count, DRAWS), value, np.float32)


def plain(images: torch.Tensor) -> torch.Tensor:
    """Images as the network takes them, unchanged."""
    return images.permute(0, 3, 1, 2).float() / 255


def test_identity_settings_change_nothing(photos: torch.Tensor, augment: Callable[..., torch.Tensor]) -> None:
    found = augment(photos)
    assert torch.equal(found, plain(photos))
    assert torch.equal(found, Normalisation({"crop": 12, **PLAIN})(photos))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("crop", "start"), [(12, 0), (11, 0), (10, 1), (9, 2), (8, 2), (7, 2), (5, 4)])
def test_centre_crop_rounds_as_torchvision(photos: torch.Tensor, crop: int, start: int) -> None:
    """Half a pixel goes to the even side: what published weights were trained on."""
    centre = plain(photos)[:, :, start : start + crop, start : start + crop]
    assert torch.equal(Normalisation({"crop": crop, **PLAIN})(photos), centre)


def test_middle_draw_gives_the_centre_crop(
    photos: torch.Tensor, augment: Callable[..., torch.Tensor]
) -> None:
    assert torch.equal(augment(photos, all_draws(6), crop=8), plain(photos)[:, :, 2:10, 2:10])


def test_normalisation_by_channel(photos: torch.Tensor) -> None:
    found = Normalisation({"crop": 12, "mean": [0.1, 0.2, 0.3], "std": [0.5, 1.0, 2.0]})(photos)
    expected = plain(photos)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)]):
        torch.testing.assert_close(found[:, channel], (expected[:, channel] - mean) / std)


def test_flip_mirrors_half_of_the_images(photos: torch.Tensor, augment: Callable[..., torch.Tensor]) -> None:
    draws = all_draws(6)
    draws[:, 4] = [0.0, 0.49, 0.5, 0.99, 0.2, 0.7]
    found, expected = augment(photos, draws, flip=True), plain(photos)
    mirrored = torch.tensor([True, True, False, False, True, False])
    assert torch.equal(found[mirrored], expected[mirrored].flip(3))
    assert torch.equal(found[~mirrored], expected[~mirrored])


def test_padded_crop_only_shifts(photos: torch.Tensor, augment: Callable[..., torch.Tensor]) -> None:
    draws = uniforms(np.arange(300), DRAWS, 0, "shift")
    found = augment(photos[:1].expand(300, -1, -1, -1), draws, padding=2, fill=51)
    padded = nn.functional.pad(plain(photos[:1])[0], (2, 2, 2, 2), value=51 / 255)
    shifts = [(y, x) for y in range(5) for x in range(5)]
    windows = torch.stack([padded[:, y : y + 12, x : x + 12] for y, x in shifts])
    matches = (found[:, None] == windows[None]).flatten(2).all(2)
    assert (matches.sum(1) == 1).all()
    # Every one of the 25 shifts comes, about equally often.
    assert stats.chisquare(matches.sum(0).numpy()).pvalue > 1e-3


def test_crop_extremes_touch_the_border(photos: torch.Tensor, augment: Callable[..., torch.Tensor]) -> None:
    expected = plain(photos)
    assert torch.equal(augment(photos, all_draws(6, 0.0), 9), expected[:, :, :9, :9])
    assert torch.equal(augment(photos, all_draws(6, 1 - 2**-24), 9), expected[:, :, 3:, 3:])


def test_resized_crop_of_the_whole_area_is_the_image(
    photos: torch.Tensor, augment: Callable[..., torch.Tensor]
) -> None:
    draws = all_draws(6)
    draws[3:, 4] = 0.2
    found, expected = augment(photos, draws, resized_crop=(1.0, 1.0), flip=True), plain(photos)
    torch.testing.assert_close(found[:3], expected[:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[3:], expected[3:].flip(3), atol=1e-5, rtol=0)


def test_resized_crop_stays_inside_and_in_range(augment: Callable[..., torch.Tensor]) -> None:
    """Pixels hold their own position, so that the output says which part of the image it shows."""
    size, count = 64, 400
    position = torch.arange(size, dtype=torch.uint8) * 4
    images = torch.stack(
        [position[None, :].expand(size, -1), position[:, None].expand(-1, size), torch.zeros(size, size)], 2
    ).to(torch.uint8)[None]
    draws = uniforms(np.arange(count), DRAWS, 0, "crop")
    found = augment(images.expand(count, -1, -1, -1), draws, crop=16, resized_crop=(0.2, 0.8))
    assert found.shape == (count, 3, 16, 16)
    assert (found >= 0).all()
    assert (found <= 252 / 255 + 1e-6).all()
    # Of 16 columns the outer two centres span 15/16 of the window's width.
    scale = 255 / 4 / size * 16 / 15
    width = (found[:, 0, 8, -1] - found[:, 0, 8, 0]) * scale
    height = (found[:, 1, -1, 8] - found[:, 1, 0, 8]) * scale
    area, ratio = (width * height).numpy(), (width / height).numpy()
    assert area.min() > 0.2 - 0.02
    assert area.max() < 0.8 + 0.02
    assert stats.kstest((area - 0.2) / 0.6, "uniform").pvalue > 1e-4
    assert ratio.min() > 3 / 4 - 0.02
    assert ratio.max() < 4 / 3 + 0.02


def test_resized_crop_reads_where_its_draws_say(
    photos: torch.Tensor, augment: Callable[..., torch.Tensor]
) -> None:
    """Against interpolation by SciPy between the middles of pixels."""
    draws = uniforms(np.arange(6), DRAWS, 0, "crop")
    found = augment(photos, draws, crop=7, resized_crop=(0.2, 0.8), flip=True)
    assert 0 < (draws[:, 4] < 0.5).sum() < 6
    for image, draw, pixels in zip(plain(photos), draws.astype(np.float64), found, strict=True):
        area, ratio = 0.2 + 0.6 * draw[2], (4 / 3) ** (2 * draw[3] - 1)
        width, height = np.sqrt([area * ratio, area / ratio])
        columns = draw[1] * (1 - width) + width * (np.arange(7) + 0.5) / 7
        rows = draw[0] * (1 - height) + height * (np.arange(7) + 0.5) / 7
        if draw[4] < 0.5:
            columns = columns[::-1]
        places = np.meshgrid(12 * rows - 0.5, 12 * columns - 0.5, indexing="ij")
        for channel in range(3):
            expected = ndimage.map_coordinates(image[channel].numpy(), places, order=1, mode="nearest")
            np.testing.assert_allclose(pixels[channel], expected, atol=1e-5)


@pytest.mark.parametrize("together", [1, 2 * 12 * 12 * 3, 4 * 12 * 12 * 3])
def test_how_many_images_change_together_changes_nothing(
    photos: torch.Tensor,
    augment: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    together: int,
) -> None:
    changes: dict[str, Any] = {"crop": 9, "resized_crop": (0.2, 0.8), "colour_jitter": 0.4, "blur": 0.5}
    whole = augment(photos, **changes)
    monkeypatch.setattr(augmentation, "TOGETHER", together)
    found = augment(photos, **changes)
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("number", [5, 6, 7], ids=["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("draw", [0.0, 0.25, 0.5, 1.0 - 2**-24])
def test_colour_jitter_by_hand(
    photos: torch.Tensor, augment: Callable[..., torch.Tensor], number: int, draw: float
) -> None:
    draws = all_draws(6)
    draws[:, number] = draw
    found = augment(photos, draws, colour_jitter=0.4)
    pixels = plain(photos)
    grey = (pixels * torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]).sum(1, keepdim=True)
    centre = {5: torch.zeros(1), 6: grey.mean((2, 3), keepdim=True), 7: grey}[number]
    factor = 1 + 0.4 * (2 * draw - 1)
    expected = (centre + (pixels - centre) * factor).clamp(0, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.min() >= 0
    assert found.max() <= 1


def test_grey_of_the_chosen_images(photos: torch.Tensor, augment: Callable[..., torch.Tensor]) -> None:
    draws = all_draws(6)
    draws[:, 8] = [0.0, 0.29, 0.3, 0.9, 0.1, 0.5]
    found, expected = augment(photos, draws, grey=0.3), plain(photos)
    chosen = torch.tensor([True, True, False, False, True, False])
    assert torch.equal(found[~chosen], expected[~chosen])
    for pixels in (found[chosen], found[chosen].roll(1, 1)):
        torch.testing.assert_close(pixels[:, 0], pixels[:, 1])
    luma = 0.299 * expected[:, 0] + 0.587 * expected[:, 1] + 0.114 * expected[:, 2]
    torch.testing.assert_close(found[chosen][:, 0], luma[chosen])


def test_blur_of_the_chosen_images(photos: torch.Tensor, augment: Callable[..., torch.Tensor]) -> None:
    draws = all_draws(6, 0.25)
    draws[:, 9] = [0.0, 0.49, 0.5, 0.9, 0.1, 0.7]
    draws[:, 10] = [0.0, 0.5, 0.5, 0.5, 1.0, 0.5]
    found, expected = augment(photos, draws, blur=0.5), plain(photos)
    chosen = torch.tensor([True, True, False, False, True, False])
    assert torch.equal(found[~chosen], expected[~chosen])
    # A Gaussian of 0.1 pixels does nothing; one of 1.05 and of 2 pixels smooths more and more.
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)
    spread = [
        (image[:, :, 1:] - image[:, :, :-1]).abs().mean() for image in (expected[1], found[1], found[4])
    ]
    assert spread[0] > 2 * spread[1] > 2.5 * spread[2]
    taps = np.exp(-0.5 * (np.arange(-4, 5) / 1.05) ** 2)
    taps /= taps.sum()
    centre = np.einsum("i,j,cij->c", taps, taps, expected[1, :, 2:11, 1:10].numpy())
    np.testing.assert_allclose(found[1, :, 6, 5], centre, atol=1e-5)


def test_augmentation_of_an_image_does_not_depend_on_its_batch(
    photos: torch.Tensor, augment: Callable[..., torch.Tensor]
) -> None:
    draws = uniforms(np.arange(6), DRAWS, 3, "test")
    for options in (
        {"padding": 2, "flip": True},
        {"resized_crop": (0.3, 1.0), "flip": True, "colour_jitter": 0.4, "grey": 0.5, "blur": 0.5},
    ):
        whole = augment(photos, draws, **options)
        for rows in ([0], [4, 1], [5, 3, 2]):
            assert torch.equal(augment(photos[rows], draws[rows], **options), whole[rows])


def test_stream_gives_views_that_differ_and_repeat(dataset: Any, make_stream: Any) -> None:
    stream = make_stream(dataset, views=2, augmentation={"padding": 2, "flip": True})
    first, again, other = (next(stream.epoch(number)) for number in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.views[0], again.views[0])
    assert not torch.equal(first.images, first.views[0])
    assert first.samples.tolist() != other.samples.tolist()
    np.testing.assert_array_equal(first.labels, dataset.labels[first.samples])


def test_stream_augments_a_sample_alike_in_any_batch_size(dataset: Any, make_stream: Any) -> None:
    def images(batch_size: int) -> dict[int, torch.Tensor]:
        stream = make_stream(dataset, batch_size=batch_size, augmentation={"padding": 3, "flip": True})
        return {
            row: image
            for batch in stream.epoch(2)
            for row, image in zip(batch.samples.tolist(), batch.images, strict=True)
        }

    small, large = images(4), images(12)
    assert set(small) == set(large)
    assert all(torch.equal(small[row], large[row]) for row in small)


# Records


def test_record_truncates_and_finishes(tmp_path: Path, record: Provenance) -> None:
    history = Record("history", tmp_path / "history.parquet")
    assert history.size() == 0
    assert history.rows() == []
    rows = [
        {"stage": "s", "epoch": epoch, "step": 4 * epoch, "split": "train", "metric": "loss", "value": value}
        for epoch, value in [(1, 0.5), (2, float("nan")), (3, 0.25)]
    ]
    history.append(rows[:1])
    seen = history.size()
    history.append(rows[1:2])
    with history.lines.open("a") as file:
        file.write('{"stage": "s", "epo')  # a process was killed while it wrote
    history.truncate(seen)
    assert history.rows() == rows[:1]
    history.append(rows[2:])
    history.truncate(10**6)  # beyond the end: nothing is lost, nothing is added
    history.finish(record)
    table = read_table("history", history.table)
    assert table["epoch"].to_pylist() == [1, 3]
    assert table["value"].to_pylist() == [0.5, 0.25]
    assert history.rows() == [rows[0], rows[2]]
    history.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["history.parquet"]


def test_record_starts_over(tmp_path: Path) -> None:
    history = Record("history", tmp_path / "new" / "history.parquet")
    history.truncate(100)
    assert history.size() == 0
    history.append([{"metric": "ä"}])
    history.truncate(0)
    assert history.rows() == []


# The loop


class Toy(Learner):
    """A small learner without batch normalisation; its loss can be spoilt at a call."""

    def __init__(self, classes: int = 3, dropout: float = 0.0, spoilt: int | None = None):
        super().__init__()
        with seeded(0, "toy"):
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(300, 8), nn.Tanh(), nn.Dropout(dropout))
            self.head = nn.Linear(8, classes)
        self.heads = [self.head]
        self.calls, self.spoilt, self.steps = 0, spoilt, 0

    def loss(self, batches: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = batches["target"]
        logits = self.head(self.encoder(batch.images))
        loss = nn.functional.cross_entropy(logits, batch.labels)
        if self.calls == self.spoilt:
            loss = loss * float("nan")
        self.calls += 1
        return loss, {"top1": (logits.argmax(1) == batch.labels).float().mean()}

    def after_step(self) -> None:
        self.steps += 1


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Any:
    """24 training images of three classes."""
    return make_dataset(tmp_path_factory.mktemp("target"))


@pytest.fixture
def make_stream(training: Callable[..., dict[str, Any]]) -> Callable[..., ImageStream]:
    """A function that makes the target's stream."""

    def make(
        dataset: Any,
        views: int = 1,
        seed: int = 0,
        augmentation: dict[str, Any] | None = None,
        **changes: Any,
    ) -> ImageStream:
        values = training(**changes)
        values["augmentation"] = values["augmentation"] | (augmentation or {})
        samples = read_samples(dataset.manifest)
        preprocessing = {"crop": 10, **PLAIN}
        images = np.load(dataset.images, mmap_mode="r")
        stream = target_stream(samples, samples.training_rows(), images, values, preprocessing, seed, CPU)
        stream.augmentations = [*stream.augmentations] * views
        return stream

    return make


@pytest.fixture
def train(
    dataset: Any, make_stream: Any, training: Callable[..., dict[str, Any]], record: Provenance
) -> Callable[..., Toy]:
    """A function that trains a toy in a folder, without finishing the workspace."""

    def run(
        folder: Path,
        learner: Toy | None = None,
        share: tuple[float, float] = (0, 1),
        provenance: Provenance = record,
        finish: bool = False,
        kill_after: int | None = None,
        scores: list[float] | None = None,
        **changes: Any,
    ) -> Toy:
        learner = learner or Toy()
        values = training(**changes)
        stream = make_stream(dataset, **changes)
        window = Window.of_budget(values["budget"], stream.sampler.batches, values["accumulate"], share)
        optimiser = Optimiser(values["optimiser"], learner.encoder, learner.heads)
        position = {"epoch": 0}

        def after_epoch(epoch: int) -> None:
            position["epoch"] = epoch
            if epoch == kill_after:
                raise KilledError

        def evaluate() -> dict[str, float]:
            # By the learner's steps, so that a resumed run finds the same scores.
            assert scores is not None
            epoch = len(read_lines(folder / "timings.jsonl"))
            return {"top1": scores[epoch - 1]}

        with Workspace(folder, "training", provenance) as workspace:
            fit(
                learner,
                optimiser,
                {"target": stream},
                values,
                window,
                workspace,
                evaluate=evaluate if scores else None,
                keep_best="top1" if scores else None,
                after_epoch=after_epoch,
            )
            if finish:
                workspace.finish()
        return learner

    return run


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    for (name, found), expected in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name


def test_history_and_timings(tmp_path: Path, train: Callable[..., Toy]) -> None:
    learner = train(tmp_path, finish=True, budget=budget(epochs=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == RECORDS
    history = read_table("history", tmp_path / "history.parquet").to_pylist()
    assert [(row["epoch"], row["step"], row["metric"]) for row in history] == [
        (epoch, 3 * epoch, metric) for epoch in (1, 2) for metric in ("loss", "top1", "learning_rate")
    ]
    assert {(row["stage"], row["split"]) for row in history} == {("training", "train")}
    # The rate of each epoch's last step of six: 0.05 (1 + cos(pi k / 6)) / 2.
    rates = [row["value"] for row in history if row["metric"] == "learning_rate"]
    assert rates == pytest.approx([0.05 * 0.75, 0.05 * (1 - math.sqrt(3) / 2) / 2])
    timings = read_table("timings", tmp_path / "timings.parquet").to_pylist()
    assert [(row["epoch"], row["images"], row["device"]) for row in timings] == [
        (1, 24, "cpu"),
        (2, 24, "cpu"),
    ]
    assert all(row["seconds"] >= 0 for row in timings)
    assert learner.steps == 6
    distances = read_table("distances", tmp_path / "distances.parquet").to_pylist()
    assert [(row["stage"], row["epoch"], row["weight"]) for row in distances] == [
        ("training", epoch, "1.weight") for epoch in (1, 2)
    ]
    moved = learner.encoder[1].weight - Toy().encoder[1].weight
    assert distances[1]["distance"] == pytest.approx(float(moved.detach().square().sum().sqrt()), rel=1e-6)


def test_epoch_means_are_weighted_by_images(tmp_path: Path, train: Callable[..., Toy]) -> None:
    """24 images in batches of 10, 10 and 4, at a rate that changes nothing."""
    still = {**SGD, "learning_rate": 1e-30, "groups": {}, "head_ratio": 1.0}
    train(tmp_path / "a", batch_size=10, optimiser=still, budget=budget(epochs=1))
    train(tmp_path / "b", batch_size=24, optimiser=still, budget=budget(epochs=1))
    found, expected = (
        {row["metric"]: row["value"] for row in read_lines(tmp_path / name / "history.jsonl")}
        for name in ("a", "b")
    )
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 3), (12, 2), (10, 3), (7, 4)])
def test_accumulated_gradients_equal_the_joint_batch(
    tmp_path: Path, train: Callable[..., Toy], batch_size: int, accumulate: int
) -> None:
    joint = train(tmp_path / "joint", batch_size=24, budget=budget(epochs=4))
    parts = train(tmp_path / "parts", batch_size=batch_size, accumulate=accumulate, budget=budget(epochs=4))
    assert parts.steps == joint.steps == 4
    for found, expected in zip(parts.parameters(), joint.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_an_epoch_ends_with_a_smaller_step_where_batches_are_left(
    tmp_path: Path, train: Callable[..., Toy]
) -> None:
    learner = train(tmp_path, batch_size=8, accumulate=2, budget=budget(epochs=3))
    assert learner.calls == 9
    assert learner.steps == 6


def test_a_budget_in_iterations_ends_inside_an_epoch(tmp_path: Path, train: Callable[..., Toy]) -> None:
    learner = train(tmp_path, budget=budget(iterations=7))
    assert learner.steps == learner.calls == 7
    rows = read_lines(tmp_path / "history.jsonl")
    assert [row["step"] for row in rows if row["metric"] == "loss"] == [3, 6, 7]


@pytest.mark.parametrize("of", [budget(epochs=5), budget(iterations=13)], ids=["epochs", "iterations"])
def test_two_stages_make_the_steps_of_one(
    tmp_path: Path, train: Callable[..., Toy], of: dict[str, Any]
) -> None:
    """Momentum apart, which a stage starts without: order, augmentation and rates run on."""
    no_momentum = {**SGD, "momentum": 0.0, "groups": {}, "head_ratio": 1.0}
    options: dict[str, Any] = {"budget": of, "optimiser": no_momentum}
    options["augmentation"] = {"padding": 2, "flip": True}
    whole = train(tmp_path / "whole", **options)
    parts = train(tmp_path / "first", share=(0, 0.6), **options)
    train(tmp_path / "second", learner=parts, share=(0.6, 1), **options)
    assert_same_weights(parts, whole)
    joined = [*read_lines(tmp_path / "first/history.jsonl"), *read_lines(tmp_path / "second/history.jsonl")]
    rates = {row["step"]: row["value"] for row in joined if row["metric"] == "learning_rate"}
    for row in read_lines(tmp_path / "whole/history.jsonl"):
        if row["metric"] == "learning_rate":
            assert rates[row["step"]] == row["value"]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("kill_after", [1, 2, 5])
def test_resumes_bit_for_bit(tmp_path: Path, train: Callable[..., Toy], kind: str, kill_after: int) -> None:
    values = {**(SGD if kind == "sgd" else ADAM), "groups": {}, "head_ratio": 2.0}
    options: dict[str, Any] = {"budget": budget(epochs=5), "optimiser": values}
    whole = train(tmp_path / "whole", finish=True, **options)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", kill_after=kill_after, **options)
    resumed = train(tmp_path / "killed", finish=True, **options)
    assert_same_weights(resumed, whole)
    found, expected = (tmp_path / name / "history.parquet" for name in ("killed", "whole"))
    assert found.read_bytes() == expected.read_bytes()
    # Not from the start: from the last checkpoint before the kill.
    assert resumed.steps == 15 - 3 * (kill_after - 1)


def test_resumes_bit_for_bit_with_dropout(tmp_path: Path, train: Callable[..., Toy]) -> None:
    """Layers that draw from the global generator, in whatever state that is."""
    torch.manual_seed(1)
    whole = train(tmp_path / "whole", Toy(dropout=0.5))
    torch.manual_seed(2)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", Toy(dropout=0.5), kill_after=2)
    torch.manual_seed(3)
    assert_same_weights(train(tmp_path / "killed", Toy(dropout=0.5)), whole)


def test_a_finished_training_is_not_repeated(tmp_path: Path, train: Callable[..., Toy]) -> None:
    """Killed after the last epoch, before the files of the step were written."""
    whole = train(tmp_path)
    again = train(tmp_path, finish=True)
    assert again.calls == 0
    assert_same_weights(again, whole)
    assert read_table("history", tmp_path / "history.parquet").num_rows == 9


def test_checkpoint_of_another_training_is_ignored(
    tmp_path: Path, train: Callable[..., Toy], record: Provenance
) -> None:
    other = Provenance("test", {"made": "elsewhere"}, "test=0", {}, {})
    with pytest.raises(KilledError):
        train(tmp_path / "here", kill_after=3)
    found = train(tmp_path / "here", provenance=other, seed=1)
    expected = train(tmp_path / "new", provenance=other, seed=1)
    assert_same_weights(found, expected)
    assert found.steps == 9
    assert len(read_lines(tmp_path / "here/timings.jsonl")) == 3


@pytest.mark.parametrize("damage", ["empty", "header", "tensors", "text", "other"])
def test_damaged_checkpoint_starts_anew(tmp_path: Path, train: Callable[..., Toy], damage: str) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(KilledError):
        train(tmp_path / "damaged", kill_after=3)
    checkpoint = tmp_path / "damaged/resume.safetensors"
    content = checkpoint.read_bytes()
    damaged = {
        "empty": b"",
        "header": content[:100],
        "tensors": content[:-7],
        "text": b"not a checkpoint, but long enough to be one",
        "other": (2).to_bytes(8, "little") + b"{}",
    }
    checkpoint.write_bytes(damaged[damage])
    resumed = train(tmp_path / "damaged")
    assert resumed.steps == 9
    assert_same_weights(resumed, whole)
    assert len(read_lines(tmp_path / "damaged/history.jsonl")) == 9


def test_best_checkpoint_keeps_the_best_epoch(tmp_path: Path, train: Callable[..., Toy]) -> None:
    options: dict[str, Any] = {
        "evaluate_every": 1,
        "schedule": {"name": "exponential", "gamma": 1.0, "warmup": 0},
    }
    scores = [0.2, 0.6, 0.5, 0.6, 0.1]
    best = train(tmp_path / "best", scores=scores, budget=budget(epochs=5), finish=True, **options)
    assert_same_weights(best, train(tmp_path / "two", budget=budget(epochs=2), **options))
    assert not (tmp_path / "best/best.safetensors").exists()
    history = read_table("history", tmp_path / "best/history.parquet").to_pylist()
    assert [row["value"] for row in history if row["split"] == "validation"] == scores


@pytest.mark.parametrize("kill_after", [2, 3, 4])
def test_best_checkpoint_survives_a_kill(tmp_path: Path, train: Callable[..., Toy], kill_after: int) -> None:
    options: dict[str, Any] = {
        "evaluate_every": 1,
        "budget": budget(epochs=5),
        "scores": [0.2, 0.6, 0.5, 0.7, 0.1],
    }
    whole = train(tmp_path / "whole", **options)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", kill_after=kill_after, **options)
    assert_same_weights(train(tmp_path / "killed", **options), whole)


def test_evaluates_at_intervals_and_last(tmp_path: Path, train: Callable[..., Toy]) -> None:
    train(tmp_path, budget=budget(epochs=5), evaluate_every=2, scores=[0.1, 0.2, 0.3, 0.4, 0.5])
    rows = [row for row in read_lines(tmp_path / "history.jsonl") if row["split"] == "validation"]
    assert [(row["epoch"], row["value"]) for row in rows] == [(2, 0.2), (4, 0.4), (5, 0.5)]


def test_not_finite_loss_names_step_samples_and_advice(
    tmp_path: Path, train: Callable[..., Toy], dataset: Any
) -> None:
    with pytest.raises(PipelineError) as failure:
        train(tmp_path, Toy(spoilt=7))
    message = str(failure.value)
    assert "the loss is nan at step 7" in message
    assert "lower learning rate" in message
    training_rows = np.flatnonzero(dataset.split == "train")
    batch = training_rows[permutation(24, 0, "order", 2)[8:16]]
    assert f"target: {', '.join(f'image {row:04}' for row in sorted(batch))}." in message
    kept = load_file(tmp_path / "resume.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())
    # What was computed before is not lost: the next try starts after the second epoch.
    resumed = train(tmp_path, Toy())
    assert resumed.steps == 3
    assert_same_weights(resumed, train(tmp_path / "whole"))


def test_bfloat16_trains(tmp_path: Path, train: Callable[..., Toy]) -> None:
    exact = train(tmp_path / "float32", budget=budget(epochs=8))
    rough = train(tmp_path / "bfloat16", precision="bfloat16", budget=budget(epochs=8))
    assert all(parameter.dtype == torch.float32 for parameter in rough.parameters())
    assert not torch.equal(rough.head.weight, exact.head.weight)
    losses = [
        [row["value"] for row in read_lines(tmp_path / name / "history.jsonl") if row["metric"] == "loss"]
        for name in ("float32", "bfloat16")
    ]
    assert losses[1][-1] < losses[1][0] / 2
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.1)


def test_killed_writers_leave_nothing_behind(tmp_path: Path, train: Callable[..., Toy]) -> None:
    for name in (
        ".resume.safetensors.4711.tmp",
        ".history.parquet.12.tmp",
        "kept/.epoch_0001.safetensors.3.tmp",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half a file")
    train(tmp_path, finish=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([*RECORDS, "kept"])


def test_one_process_trains_in_a_folder(tmp_path: Path, record: Provenance) -> None:
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "history.jsonl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(PipelineError, match="another process is training here"),
            Workspace(tmp_path, "training", record),
        ):
            pass
        other.kill()
        other.wait()
    with Workspace(tmp_path, "training", record):
        pass


# Inference


@given(rows=st.lists(st.integers(0, 41), max_size=20).map(lambda rows: np.array(rows, np.int64)))
@settings(max_examples=20)
def test_forward_all_keeps_the_order_of_rows(dataset: Any, rows: np.ndarray) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    normalise = Normalisation({"crop": 10, **PLAIN})
    flat, sums = forward_all(
        module, lambda x: (module(x), x.sum((1, 2, 3))), dataset.pixels, rows, normalise, CPU, batch_size=6
    )
    expected = dataset.pixels[rows].transpose(0, 3, 1, 2).reshape(len(rows), 300).astype(np.float32) / 255
    np.testing.assert_allclose(flat, expected, rtol=1e-6)
    np.testing.assert_allclose(sums, expected.sum(1), rtol=1e-5)
    assert module.training
