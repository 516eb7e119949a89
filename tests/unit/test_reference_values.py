"""Losses and plans against numbers computed outside this project, and against Table 4 of the UOT paper."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from scipy.special import softmax
from torch import nn

from pipeline.engine.streams import Batch
from pipeline.finetuning.learner import FineTuning
from pipeline.initialisation.coin import Coin
from pipeline.objectives.contrastive import supervised_contrastive
from pipeline.objectives.cross_entropy import CrossEntropy
from pipeline.reuse import SourceOutputs
from pipeline.reuse.labelled import LabelledReuse
from pipeline.reuse.pseudo_labelled import PseudoLabelledReuse
from pipeline.selection import greedy_ot, nearest, uot
from pipeline.selection.distances import Distances
from pipeline.selection.transport import solve
from pipeline.selection.units import Units

SHAPES = ["s1", "s2", "s3"]  # balanced; imbalanced; four singleton classes
TEMPERATURES = {"t007": 0.07, "t030": 0.3}
UOT_PAPER = {
    "epsilon": 1.0,
    "tau1": 1.0,
    "tau2": 100.0,
    "masses": "unit",
    "tolerance": 1e-10,
    "iterations": 100_000,
}


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> Any:
    """A function that opens one file of reference values."""
    return lambda name: np.load(shared_data / "reference_values" / f"{name}.npz", allow_pickle=False)


def leaf(values: np.ndarray) -> torch.Tensor:
    """Values as a float64 tensor that collects its gradient."""
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def gradient(of: torch.Tensor) -> np.ndarray:
    """The gradient that a leaf has collected."""
    assert of.grad is not None
    return of.grad.numpy()


def one_batch(images: torch.Tensor, labels: np.ndarray) -> Batch:
    """A batch whose "images" are already features."""
    return Batch(images, torch.from_numpy(labels), np.arange(len(labels)), len(labels))


# COIN, Eq. 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_supervised_contrastive_loss_and_gradient(reference: Any, shape: str, temperature: str) -> None:
    values = reference("supcon")
    v, y = leaf(values[f"{shape}_v"]), torch.from_numpy(values[f"{shape}_y"])
    loss = supervised_contrastive(v, y, TEMPERATURES[temperature])
    loss.backward()
    expected = f"{shape}_{temperature}_paper_div_npos"
    assert loss.item() == pytest.approx(float(values[expected]), rel=1e-12)
    np.testing.assert_allclose(gradient(v), values[f"{expected}_grad_v"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", ["s1", "s2"])
def test_without_singletons_n_is_the_batch(reference: Any, shape: str) -> None:
    values = reference("supcon")
    loss = supervised_contrastive(leaf(values[f"{shape}_v"]), torch.from_numpy(values[f"{shape}_y"]), 0.3)
    assert loss.item() == pytest.approx(float(values[f"{shape}_t030_paper_div_n"]), rel=1e-12)


def test_singletons_do_not_dilute_the_loss(reference: Any) -> None:
    values = reference("supcon")
    loss = supervised_contrastive(leaf(values["s3_v"]), torch.from_numpy(values["s3_y"]), 0.07)
    assert int(values["s3_n_anchors_with_positive"]) == 8
    # Over 12 images or over the 8 that have a positive: the reading here is the second.
    assert loss.item() * 8 / 12 == pytest.approx(float(values["s3_t007_paper_div_n"]), rel=1e-12)
    # The released code counts every image as its own positive.
    assert loss.item() != pytest.approx(float(values["s3_t007_coin_code"]), rel=0.1)


def test_a_batch_of_singletons_gives_zero_and_no_gradient() -> None:
    v = leaf(np.eye(4))
    loss = supervised_contrastive(v, torch.arange(4), 0.3)
    loss.backward()
    assert loss.item() == 0
    assert not gradient(v).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_coin_stage_normalises_projections(reference: Any, shape: str) -> None:
    values = reference("supcon")
    x = torch.tensor(values[f"{shape}_x"], dtype=torch.float32, requires_grad=True)
    stage = Coin(nn.Identity(), nn.Identity(), 0.3)  # type: ignore[arg-type]
    loss, parts = stage.loss({"target": one_batch(x, values[f"{shape}_y"])})
    loss.backward()
    assert not parts
    assert loss.item() == pytest.approx(float(values[f"{shape}_t030_paper_div_npos"]), rel=1e-5)
    np.testing.assert_allclose(
        gradient(x), values[f"{shape}_t030_paper_div_npos_grad_x"], rtol=1e-3, atol=1e-6
    )


def test_contrastive_logits_stay_exact_under_autocast(reference: Any) -> None:
    values = reference("supcon")
    v, y = torch.tensor(values["s2_v"], dtype=torch.float32), torch.from_numpy(values["s2_y"])
    with torch.autocast("cpu", torch.bfloat16):
        loss = supervised_contrastive(v, y, 0.07)
    assert loss.item() == pytest.approx(float(values["s2_t007_paper_div_npos"]), rel=1e-5)


# UOT paper, Eq. 6


@pytest.mark.parametrize("weight", [0.1, 0.3, 1.0])
def test_labelled_reuse_adds_lambda_times_the_source_loss(reference: Any, weight: float) -> None:
    values = reference("reuse_losses")
    target, source = values["target_logits"], values["pre_logits"]
    # One backbone for both: the heads cut their own columns out of its features.
    width = target.shape[1] + source.shape[1]
    features = np.zeros((len(target) + len(source), width), np.float32)
    features[: len(target), : target.shape[1]] = target
    features[len(target) :, target.shape[1] :] = source
    backbone = Columns(0, target.shape[1])
    reuse = LabelledReuse(Cut(target.shape[1], width), weight)  # type: ignore[arg-type]
    learner = FineTuning(backbone, CrossEntropy(0.0), reuse)  # type: ignore[arg-type]
    images = torch.from_numpy(features)[:, :, None, None].requires_grad_()
    batches = {
        "target": one_batch(images[: len(target)], values["target_labels"]),
        "source": one_batch(images[len(target) :], values["pre_labels"]),
    }
    loss, parts = learner.loss(batches)
    assert loss.item() == pytest.approx(float(values[f"eq6_lambda{weight}"]), rel=1e-6)
    assert parts["objective"].item() == pytest.approx(float(values["f_target"]), rel=1e-6)
    assert parts["reuse"].item() == pytest.approx(weight * float(values["h_labelled"]), rel=1e-6)
    top1 = (target.argmax(1) == values["target_labels"]).mean()
    assert parts["top1"].item() == pytest.approx(top1)
    # Of a mean cross-entropy: (softmax - one-hot) / n, on each head's own logits.
    loss.backward()
    assert images.grad is not None
    found = images.grad[:, :, 0, 0].numpy()
    expected = np.zeros_like(found)
    expected[: len(target), : target.shape[1]] = cross_entropy_gradient(target, values["target_labels"])
    of_source = weight * cross_entropy_gradient(source, values["pre_labels"])
    expected[len(target) :, target.shape[1] :] = of_source
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("weight", [0.1, 0.3, 1.0])
def test_pseudo_labelled_reuse_adds_lambda_times_the_soft_loss(reference: Any, weight: float) -> None:
    """One head for both; each view's "images" are its logits already."""
    values = reference("reuse_losses")
    names = ("target_logits", "weak_logits", "strong_logits")
    target, weak, strong = (
        torch.tensor(values[name], dtype=torch.float32)[:, :, None, None].requires_grad_() for name in names
    )
    learner = FineTuning(Columns(0, 5), CrossEntropy(0.0), PseudoLabelledReuse(weight))  # type: ignore[arg-type]
    unlabelled = np.full(len(weak), -1)
    batches = {
        "target": one_batch(target, values["target_labels"]),
        "source": Batch(weak, torch.from_numpy(unlabelled), np.arange(len(weak)), len(weak), (strong,)),
    }
    loss, parts = learner.loss(batches)
    assert loss.item() == pytest.approx(float(values[f"eq7_lambda{weight}"]), rel=1e-6)
    assert parts["reuse"].item() == pytest.approx(weight * float(values["h_unlabelled"]), rel=1e-6)
    loss.backward()
    assert strong.grad is not None
    expected = weight * values["h_unlabelled_grad_strong"]
    np.testing.assert_allclose(strong.grad[:, :, 0, 0].numpy(), expected, rtol=1e-4, atol=1e-7)
    assert not values["h_unlabelled_grad_weak"].any()
    assert weak.grad is not None
    assert not weak.grad.any()


def test_pseudo_labels_are_of_the_cross_entropy_form(reference: Any) -> None:
    """Kullback-Leibler's would be smaller by the pseudo-labels' entropy, with equal gradients."""
    values = reference("reuse_losses")
    views = leaf(values["weak_logits"]), leaf(values["strong_logits"])
    outputs = SourceOutputs(views, torch.full((10,), -1), nn.Identity())
    loss = PseudoLabelledReuse(1.0)(outputs).item()
    assert loss == pytest.approx(float(values["h_unlabelled"]), rel=1e-6)
    assert loss - float(values["pseudo_entropy"]) == pytest.approx(float(values["kl_form"]), rel=1e-6)


def cross_entropy_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the mean cross-entropy with respect to logits (n, classes)."""
    return (softmax(logits, axis=1) - np.eye(logits.shape[1])[labels]) / len(logits)


class Cut(nn.Module):
    """A head that takes some columns of the features for its logits."""

    def __init__(self, first: int, last: int):
        super().__init__()
        self.first, self.last = first, last

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, self.first : self.last]


class Columns(nn.Module):
    """A backbone whose features are its images' channels."""

    def __init__(self, first: int, last: int):
        super().__init__()
        self.head = Cut(first, last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, 0, 0]


# UOT paper, Eq. 5


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_costs(reference: Any, distance: str) -> None:
    values = reference("uot")
    found = Distances(values["pre_features_b"], values["target_features_a"], distance)[:]
    np.testing.assert_allclose(found, values[f"{distance}_cost"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("epsilon_c", ["1.0", "0.1", "0.01", "0.001"])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_transport_plan(reference: Any, distance: str, epsilon_c: str) -> None:
    """Every case, those where plain solvers underflow included."""
    values = reference("uot")
    case = f"{'cos' if distance == 'cosine' else 'l2'}_ec{epsilon_c}"
    cost = values[f"{distance}_cost"] / float(epsilon_c)
    plan = solve(cost, 1.0, 1.0, 100.0)
    np.testing.assert_allclose(plan.log_mass, values[f"{case}_log_P1"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(plan.log_rows(cost), values[f"{case}_log_P"], rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(plan.log_u, values[f"{case}_log_u"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(plan.log_v, values[f"{case}_log_v"], rtol=0, atol=1e-8)
    ranking = np.argsort(-plan.log_mass, kind="stable")
    np.testing.assert_array_equal(ranking, values[f"{case}_rank_desc"])


@pytest.mark.parametrize("epsilon_c", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_score_is_the_log_mass_of_the_paper_cost(reference: Any, distance: str, epsilon_c: float) -> None:
    values = reference("uot")
    settings = {**UOT_PAPER, "distance": distance, "epsilon_c": epsilon_c}
    case = f"{'cos' if distance == 'cosine' else 'l2'}_ec{epsilon_c}"
    found = uot.score(*both_sides(values), settings)
    np.testing.assert_allclose(found.values, values[f"{case}_log_P1"], rtol=0, atol=1e-8)
    carried = np.exp(values[f"{case}_log_P1"]).sum() / 6
    assert found.facts["target_mass_carried"] == pytest.approx(carried, rel=1e-8)
    assert ("warning" in found.facts) == (case in ("l2_ec0.01", "l2_ec0.001"))


def test_plan_satisfies_the_first_order_condition(reference: Any) -> None:
    """C + epsilon log P + tau1 log P1 + tau2 log PT1 = 0, with parameters that no stored case has."""
    cost = reference("uot")["cosine_cost"] / 0.05
    epsilon, tau1, tau2 = 0.5, 2.0, 30.0
    plan = solve(cost, epsilon, tau1, tau2)
    log_plan = plan.log_rows(cost)
    received = np.log(np.exp(log_plan).sum(0))
    residual = cost + epsilon * log_plan + tau1 * plan.log_mass[:, None] + tau2 * received[None, :]
    assert np.abs(residual).max() < 1e-7


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_greedy_optimal_transport(reference: Any, distance: str) -> None:
    values = reference("uot")
    case = f"greedy_{'cos' if distance == 'cosine' else 'l2'}"
    found = greedy_ot.score(*both_sides(values), {"distance": distance})
    np.testing.assert_allclose(found.values, -values[f"{case}_score"], rtol=1e-12)
    np.testing.assert_array_equal(np.argsort(-found.values), values[f"{case}_rank"])


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_nearest_is_the_smallest_cost(reference: Any, distance: str) -> None:
    values = reference("uot")
    found = nearest.score(*both_sides(values), {"distance": distance})
    np.testing.assert_allclose(found.values, -values[f"{distance}_cost"].min(1), rtol=1e-12)


@pytest.mark.parametrize(
    ("backbone", "method", "settings", "recall"),
    [
        ("resnet18_supervised", greedy_ot, {"distance": "l2"}, 86.44),
        ("resnet18_supervised", greedy_ot, {"distance": "cosine"}, 94.92),
        ("resnet18_supervised", uot, {**UOT_PAPER, "distance": "l2", "epsilon_c": 1.0}, 94.92),
        ("resnet18_supervised", uot, {**UOT_PAPER, "distance": "cosine", "epsilon_c": 0.01}, 98.31),
        ("resnet50_mocov2", greedy_ot, {"distance": "l2"}, 16.95),
        ("resnet50_mocov2", greedy_ot, {"distance": "cosine"}, 38.98),
        ("resnet50_mocov2", uot, {**UOT_PAPER, "distance": "l2", "epsilon_c": 1.0}, 16.95),
        ("resnet50_mocov2", uot, {**UOT_PAPER, "distance": "cosine", "epsilon_c": 0.01}, 93.22),
    ],
)
def test_recall_of_birds_in_table_4(
    shared_data: Path, backbone: str, method: Any, settings: dict[str, Any], recall: float
) -> None:
    """The share of ImageNet's 59 bird classes among the 100 selected for CUB, in percent: all eight."""
    source, concept = class_means(shared_data, "imagenet", backbone)
    target, _ = class_means(shared_data, "cub", backbone)
    selected = np.argsort(-method.score(source, target, settings).values, kind="stable")[:100]
    birds = np.array(concept) == "bird"
    assert birds.sum() == 59
    assert round(100 * birds[selected].sum() / 59, 2) == recall


def both_sides(values: Any) -> tuple[Units, Units]:
    """Source and target of the stored cases."""
    return of_means(values["pre_features_b"]), of_means(values["target_features_a"])


def of_means(means: np.ndarray) -> Units:
    """Units of one image each with these means."""
    names = pa.chunked_array([[f"unit {row}" for row in range(len(means))]])
    return Units(Path("units.parquet"), np.arange(len(means)), names, np.ones(len(means), np.int64), means)


def class_means(data: Path, dataset: str, backbone: str) -> tuple[Units, list[str]]:
    """Units of one published table, and their concepts where it has them."""
    table = parquet.read_table(data / "uot_class_means" / f"{dataset}.{backbone}.parquet")
    concept = table["concept"].to_pylist() if "concept" in table.column_names else []
    return of_means(np.stack(table["mean"].to_numpy())), concept
