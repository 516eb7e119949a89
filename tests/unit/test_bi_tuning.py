"""Bi-tuning against numbers computed outside this project, and its queues against loops."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as some
from torch import nn

from pipeline.engine.randomness import seeded
from pipeline.objectives import TargetOutputs
from pipeline.objectives.bi_tuning import BiTuning, build, categorical_contrast, classifier_contrast, extended

SETTINGS = {"weight": 1.0, "temperature": 0.07, "momentum": 0.999, "queue": 4, "projection": 6}


@pytest.fixture(scope="module")
def values(shared_data: Path) -> Any:
    return np.load(shared_data / "reference_values" / "bi_tuning.npz", allow_pickle=False)


def queue(values: Any, name: str) -> torch.Tensor:
    """A queue of the reference, (d, classes, K), as it is kept here."""
    return torch.from_numpy(values[name]).permute(1, 2, 0).contiguous()


def tensor(values: Any, name: str) -> torch.Tensor:
    return torch.from_numpy(values[name])


def linear(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


@pytest.fixture
def objective(values: Any) -> BiTuning:
    """With the queues of the reference, and images that are their features."""
    projection = linear(values["proj_w"], values["proj_b"])
    made = BiTuning(nn.Flatten(), projection, 5, 3, SETTINGS | {"momentum": 0.9}).double()
    made.feature_queue.copy_(queue(values, "queue_h"))
    made.projection_queue.copy_(queue(values, "queue_z"))
    made.position.copy_(tensor(values, "queue_ptr"))
    # The released code moves the key encoder before the step, here it moves after each step.
    moved = linear(
        0.9 * values["proj_w_k"] + 0.1 * values["proj_w"], 0.9 * values["proj_b_k"] + 0.1 * values["proj_b"]
    )
    made.key_projection.load_state_dict(moved.state_dict())
    return made


def batch_of(values: Any, features: torch.Tensor, head: nn.Linear) -> TargetOutputs:
    return TargetOutputs(
        images=torch.empty(6, 0),
        labels=tensor(values, "labels"),
        features=features,
        logits=head(features),
        backbone=SimpleNamespace(head=head, encoder=nn.Flatten()),
        draws=torch.empty(6, 0),
        views=(tensor(values, "feat_k")[:, :, None, None],),
    )


def test_categorical_contrast(values: Any) -> None:
    features = tensor(values, "feat_q").clone().requires_grad_()
    queries = functional.normalize(linear(values["proj_w"], values["proj_b"])(features), dim=1)
    loss = categorical_contrast(
        queries, tensor(values, "zk"), queue(values, "queue_z"), tensor(values, "labels"), float(values["T"])
    )
    assert loss.item() == pytest.approx(float(values["clr_paper"]), rel=1e-12)
    loss.backward()
    assert features.grad is not None
    np.testing.assert_allclose(features.grad, values["clr_tll_grad_feat_q"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_classifier_contrast(values: Any, moment: str) -> None:
    features = tensor(values, "feat_q").clone().requires_grad_()
    head = linear(values["head_w"], values["head_b"])
    kept = queue(values, "queue_h" if moment == "before" else "queue_h_after")
    loss = classifier_contrast(
        extended(features), kept, head.weight, head.bias, tensor(values, "labels"), float(values["T"])
    )
    assert loss.item() == pytest.approx(float(values[f"cce_paper_queue_{moment}"]), rel=1e-12)
    loss.backward()
    assert head.weight.grad is None
    if moment == "after":
        assert features.grad is not None
        np.testing.assert_allclose(features.grad, values["cce_tll_grad_feat_q"], rtol=1e-9, atol=1e-12)


def test_total_and_what_is_kept(values: Any, objective: BiTuning) -> None:
    features = tensor(values, "feat_q").clone().requires_grad_()
    head = linear(values["head_w"], values["head_b"])
    loss, parts = objective(batch_of(values, features, head))
    loss.backward()
    # The released code reports KL divergences, smaller by log(K + 1) each.
    released = float(values["total_tll"]) - 2 * float(values["kl_offset"])
    assert loss.item() == pytest.approx(released, rel=1e-12)
    assert parts["cross_entropy"].item() == pytest.approx(float(values["ce"]), rel=1e-12)
    assert parts["categorical_contrast"].item() == pytest.approx(float(values["clr_paper"]), rel=1e-12)
    expected = float(values["cce_paper_queue_after"])
    assert parts["classifier_contrast"].item() == pytest.approx(expected, rel=1e-12)
    for name in ("feature_queue", "projection_queue"):
        after = queue(values, f"queue_{name[0].replace('f', 'h').replace('p', 'z')}_after")
        np.testing.assert_allclose(getattr(objective, name), after, rtol=0, atol=1e-14)
    assert objective.position.tolist() == values["queue_ptr_after"].tolist()


def test_the_head_learns_from_cross_entropy_alone(values: Any, objective: BiTuning) -> None:
    head, alone = (linear(values["head_w"], values["head_b"]) for _ in range(2))
    features = tensor(values, "feat_q")
    objective(batch_of(values, features, head))[0].backward()
    functional.cross_entropy(alone(features), tensor(values, "labels")).backward()
    np.testing.assert_allclose(head.weight.grad, alone.weight.grad, rtol=1e-12)
    assert objective.projection.weight.grad is not None
    assert all(p.grad is None and not p.requires_grad for p in objective.key_projection.parameters())


@given(
    some.lists(some.integers(0, 2), min_size=1, max_size=15),
    some.integers(1, 4),
    some.lists(some.integers(0, 3), min_size=3, max_size=3),
)
def test_keys_replace_the_oldest_of_their_class(labels: list[int], size: int, start: list[int]) -> None:
    """One by one; a batch with more of a class than the queue holds too."""
    made = BiTuning(nn.Identity(), nn.Linear(2, 2), 2, 3, SETTINGS | {"queue": size})
    made.position.copy_(torch.tensor(start) % size)
    features, projections = torch.randn(len(labels), 3), torch.randn(len(labels), 2)
    expected, position = made.feature_queue.clone(), made.position.tolist()
    expected_projections = made.projection_queue.clone()
    for row, label in enumerate(labels):
        expected[label, position[label]] = features[row]
        expected_projections[label, position[label]] = projections[row]
        position[label] = (position[label] + 1) % size
    made.enqueue(features, projections, torch.tensor(labels))
    assert torch.equal(made.feature_queue, expected)
    assert torch.equal(made.projection_queue, expected_projections)
    assert made.position.tolist() == position


@pytest.fixture
def small() -> tuple[BiTuning, SimpleNamespace]:
    """The objective for a small network with batch normalisation, and the network."""
    with seeded(0, "learner"):
        encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        backbone = SimpleNamespace(encoder=encoder, head=nn.Linear(16, 3))
        made = build(SETTINGS, SimpleNamespace(width=16, class_names=list("abc"), backbone=backbone))  # type: ignore[arg-type]
    assert isinstance(made, BiTuning)
    return made, backbone


def test_queues_start_with_random_keys_of_unit_length(small: tuple[BiTuning, SimpleNamespace]) -> None:
    made, _ = small
    assert made.feature_queue.shape == (3, 4, 17)
    assert made.projection_queue.shape == (3, 4, 6)
    for kept in (made.feature_queue, made.projection_queue):
        np.testing.assert_allclose(kept.norm(dim=2), 1, rtol=1e-6)
        assert kept.flatten(0, 1).unique(dim=0).shape[0] == 12
    # A resumed run needs them, and the key encoder with its running statistics.
    assert {"feature_queue", "projection_queue", "position"} < set(made.state_dict())
    assert "key_encoder.1.running_mean" in made.state_dict()
    assert made.views == 2


def test_the_key_encoder_sees_the_second_view(small: tuple[BiTuning, SimpleNamespace]) -> None:
    made, backbone = small
    images, labels = torch.randn(2, 2, 3, 4, 4), torch.tensor([2, 0])
    features = backbone.encoder(images[0])
    outputs = TargetOutputs(
        images[0], labels, features, backbone.head(features), backbone, torch.empty(2, 0), (images[1],)
    )
    made(outputs)
    expected = functional.normalize(functional.pad(backbone.encoder(images[1]), (0, 1), value=1), dim=1)
    np.testing.assert_allclose(made.feature_queue[labels, 0], expected.detach(), rtol=1e-5, atol=1e-6)


def test_frozen_batch_normalisation_is_frozen_for_keys(small: tuple[BiTuning, SimpleNamespace]) -> None:
    made, backbone = small
    backbone.encoder[1].eval()
    images, labels = torch.randn(2, 3, 4, 4), torch.tensor([2, 0])
    features = backbone.encoder(images)
    logits = backbone.head(features)
    made(TargetOutputs(images, labels, features, logits, backbone, torch.empty(2, 0), (images,)))
    assert made.key_encoder[1].running_mean.tolist() == [0.0] * 4  # type: ignore[index]
    torch.testing.assert_close(made.feature_queue[labels, 0], extended(features).detach())


def test_keys_move_towards_what_is_trained(small: tuple[BiTuning, SimpleNamespace]) -> None:
    made, backbone = small
    before = [parameter.clone() for parameter in made.key_encoder.parameters()]
    before.append(made.key_projection.weight.clone())
    with torch.no_grad():
        for parameter in [*backbone.encoder.parameters(), made.projection.weight]:
            parameter.add_(torch.randn_like(parameter))
    made.after_step(backbone)
    trained = [*backbone.encoder.parameters(), made.projection.weight]
    found = [*made.key_encoder.parameters(), made.key_projection.weight]
    for old, new, moved in zip(before, trained, found, strict=True):
        torch.testing.assert_close(moved, 0.999 * old + 0.001 * new, rtol=1e-5, atol=1e-7)
        assert not torch.equal(moved, old)
