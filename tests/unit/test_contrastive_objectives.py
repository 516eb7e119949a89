"""The contrastive losses against numbers computed outside this project, and what holds for any batch."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from pipeline.objectives import Objective, TargetOutputs, bi_tuning, core_tuning, scl
from pipeline.objectives.contrastive import supervised_contrastive
from pipeline.objectives.pairs import ANCHORS

SHAPES = ["s1", "s2", "s3"]  # balanced; imbalanced; four singleton classes
TEMPERATURES = {"t007": 0.07, "t030": 0.3}


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> Any:
    """A function that opens one file of reference values."""
    return lambda name: np.load(shared_data / "reference_values" / f"{name}.npz", allow_pickle=False)


@pytest.mark.parametrize("detached", [False, True], ids=["flow", "detach"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_focal_loss_and_gradient(reference: Any, shape: str, temperature: str, detached: bool) -> None:
    """Core-tuning, section 4.3."""
    values = reference("focal_supcon")
    v = torch.tensor(values[f"{shape}_v"], requires_grad=True)
    y = torch.from_numpy(values[f"{shape}_y"])
    loss = supervised_contrastive(v, y, TEMPERATURES[temperature], focal=True, detached=detached)
    loss.backward()
    name = f"{shape}_{temperature}_paper_div_npos"
    assert loss.item() == pytest.approx(float(values[name]), rel=1e-12)
    assert v.grad is not None
    expected = values[f"{name}_grad_v{'_detached_weight' if detached else ''}"]
    np.testing.assert_allclose(v.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_scl_adds_lambda_times_the_contrastive_loss(reference: Any, shape: str, temperature: str) -> None:
    values = reference("supcon")
    x = torch.tensor(values[f"{shape}_x"], requires_grad=True)
    y = torch.from_numpy(values[f"{shape}_y"])
    objective = scl.SupervisedContrastiveLearning(nn.Identity(), 0.1, TEMPERATURES[temperature])
    logits = torch.randn(len(y), int(y.max()) + 1, dtype=torch.float64)
    loss, parts = objective(TargetOutputs(torch.empty(len(y), 0), y, x, logits, None, torch.empty(len(y), 0)))
    name = f"{shape}_{temperature}_paper_div_npos"
    assert parts["contrastive"].item() == pytest.approx(float(values[name]), rel=1e-12)
    assert parts["cross_entropy"].item() == pytest.approx(functional.cross_entropy(logits, y).item())
    assert loss.item() == pytest.approx(parts["cross_entropy"].item() + 0.1 * float(values[name]), rel=1e-12)
    loss.backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, 0.1 * values[f"{name}_grad_x"], rtol=1e-9, atol=1e-12)


# What holds for any batch

CORE = {
    **{"weight": 1.0, "alpha": 1.0, "positive_threshold": 0.8, "negative_threshold": 0.8},
    **{"temperature": 0.07, "projection": 5, "depth": 2, "hidden": None, "pairs": "per_anchor"},
    **{"focal_gradient": "flow", "contrast": "focal", "mixup": "hard"},
}
BI = {"weight": 1.0, "temperature": 0.07, "momentum": 0.999, "queue": 3, "projection": 5}
OBJECTIVES: dict[str, tuple[Any, dict[str, Any]]] = {
    "scl": (scl, {"weight": 0.1, "temperature": 0.3, "projection": 5, "hidden": None}),
    "bi_tuning": (bi_tuning, BI),
    "core_tuning alpha 0.1": (core_tuning, CORE | {"alpha": 0.1, "positive_threshold": 0.0}),
    **{
        f"core_tuning {reading}": (core_tuning, CORE | {"pairs": reading})
        for reading in ["per_anchor", "per_anchor_as_printed", *ANCHORS]
    },
    **{
        f"core_tuning {contrast} {mixup}": (core_tuning, CORE | {"contrast": contrast, "mixup": mixup})
        for contrast, mixup in product(["focal", "plain", "none"], ["hard", "manifold", "none"])
    },
}
BATCHES = {
    "several classes": [0, 1, 1, 2, 0, 2, 2],
    "singleton classes": [3, 0, 2, 1],
    "some singletons": [0, 0, 1, 2, 2, 3],
    "one class": [1, 1, 1],
    "two images": [0, 2],
    "two images of a class": [2, 2],
}


@pytest.fixture
def run() -> Callable[..., tuple[torch.Tensor, list[torch.Tensor]]]:
    """A function that gives the loss of a batch, and gradients of images, head and objective."""

    def go(
        name: str, labels: list[int], order: list[int] | None = None, dtype: torch.dtype = torch.float64
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        torch.manual_seed(0)
        n, order = len(labels), order or list(range(len(labels)))
        head, encoder = nn.Linear(6, 4).double(), nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
        module, settings = OBJECTIVES[name]
        backbone = SimpleNamespace(head=head, encoder=encoder)
        start = SimpleNamespace(width=6, class_names=list("abcd"), backbone=backbone)
        objective: Objective = module.build(settings, start).double()
        features = torch.randn(n, 6, dtype=torch.float64).relu().to(dtype)[order].requires_grad_()
        draws, view = torch.rand(n, objective.draws)[order], torch.randn(n, 3, 2, 2).double()[order]
        if dtype != torch.float64:
            head, objective = head.float(), objective.float()
            backbone.head, view = head, view.float()
        chosen = torch.tensor(labels)[order]
        logits = head(features.to(head.weight)).to(dtype)
        outputs = TargetOutputs(view, chosen, features, logits, backbone, draws, (view,))
        loss, parts = objective(outputs)
        loss.backward()
        assert all(part.ndim == 0 and torch.isfinite(part) for part in parts.values())
        assert features.grad is not None
        gradients = [features.grad, head.weight.grad]
        gradients += [p.grad for p in objective.parameters() if p.requires_grad]
        return loss, [g for g in gradients if g is not None]

    return go


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_any_batch_gives_finite_numbers(
    run: Callable[..., Any], name: str, labels: list[int], dtype: torch.dtype
) -> None:
    loss, gradients = run(name, labels, dtype=dtype)
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_order_of_a_batch_is_no_matter(run: Callable[..., Any], name: str, labels: list[int]) -> None:
    """So a batch that several processes share has the loss that it has in one."""
    order = np.random.default_rng(1).permutation(len(labels)).tolist()
    loss, (of_features, *_) = run(name, labels)
    permuted, (of_permuted, *_) = run(name, labels, order)
    assert permuted.item() == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(of_permuted, of_features[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_autocast_gives_nearly_the_same_loss(name: str) -> None:
    """Products of the losses stay in float32; those of layers do not."""
    torch.manual_seed(0)
    module, settings = OBJECTIVES[name]
    backbone = SimpleNamespace(head=nn.Linear(6, 4), encoder=nn.Sequential(nn.Flatten(), nn.Linear(12, 6)))
    start = SimpleNamespace(width=6, class_names=list("abcd"), backbone=backbone)
    objective = module.build(settings, start)
    state = {key: value.clone() for key, value in objective.state_dict().items()}
    features, labels = torch.randn(8, 6), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    view, draws = torch.randn(8, 3, 2, 2), torch.rand(8, objective.draws)
    losses = []
    for enabled in (False, True):
        objective.load_state_dict(state)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = TargetOutputs(view, labels, features, backbone.head(features), backbone, draws, (view,))
            losses.append(objective(outputs)[0])
    assert losses[1].dtype == torch.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.02)
