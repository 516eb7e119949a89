"""Core-tuning and its parts against numbers computed outside this project, and against loops."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as some
from scipy.stats import beta as beta_distribution
from scipy.stats import chisquare, kstest
from torch import nn

from pipeline.objectives import TargetOutputs
from pipeline.objectives.contrastive import contrastive
from pipeline.objectives.core_tuning import CoreTuning, build
from pipeline.objectives.mixup import (
    beta,
    hardest,
    mixed_negatives,
    mixed_pairs,
    mixed_positives,
    random_negatives,
    shuffled_pairs,
)
from pipeline.objectives.pairs import pairs

FEATURES = ["gauss", "relu", "single"]  # signed; as after a ReLU; with singleton classes
READINGS = {
    "per_anchor": "v1_peranchor",
    "per_anchor_as_printed": "v1b_peranchor_zminus_in_P",
    "pooled": "v2_pooled_original_anchors",
    "pooled_positive_anchors": "v3_pooled_orig_and_plus_anchors",
    "pooled_soft_labels": "v4_pooled_all_softlabel_equality",
    "pooled_hard_labels": "v5_pooled_all_hardlabel",
}
SETTINGS = {
    **{"weight": 1.0, "alpha": 1.0, "positive_threshold": 0.8, "negative_threshold": 0.8},
    **{"temperature": 0.07, "projection": 6, "depth": 2, "hidden": None, "pairs": "per_anchor"},
    **{"focal_gradient": "flow", "contrast": "focal", "mixup": "hard"},
}


@pytest.fixture(scope="module")
def mixup(shared_data: Path) -> Any:
    return np.load(shared_data / "reference_values" / "mixup_hard.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def core(shared_data: Path) -> Any:
    return np.load(shared_data / "reference_values" / "core_objective.npz", allow_pickle=False)


def leaf(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def linear(weight: np.ndarray, bias: np.ndarray | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        if bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))
    return layer


def projector_of(core: Any) -> nn.Sequential:
    first, second = (linear(core[f"proj_w{n}"], core[f"proj_b{n}"]) for n in (1, 2))
    return nn.Sequential(first, nn.ReLU(), second)


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[labels]


# Mixup-hard (section 4.2)


@pytest.mark.parametrize("kind", FEATURES)
def test_hardest_positive_and_negative(mixup: Any, kind: str) -> None:
    labels = torch.from_numpy(mixup[f"{kind}_y"])
    positives, negatives = hardest(torch.from_numpy(mixup[f"{kind}_z"]), labels)
    np.testing.assert_array_equal(positives, mixup[f"{kind}_paper_hp_index"])
    np.testing.assert_array_equal(negatives, mixup[f"{kind}_paper_hn_index"])


@pytest.mark.parametrize("kind", FEATURES)
def test_mixed_features_and_labels(mixup: Any, kind: str) -> None:
    z, y = torch.from_numpy(mixup[f"{kind}_z"]), torch.from_numpy(mixup[f"{kind}_y"])
    for clipped, expected in (("lam_pos", "z_plus"), ("lam_pos_raw", "z_plus_noclip")):
        found = mixed_positives(z, y, torch.from_numpy(mixup[f"{kind}_{clipped}"]))
        np.testing.assert_allclose(found, mixup[f"{kind}_paper_{expected}"], rtol=0, atol=1e-14)
    partners, share = (torch.from_numpy(mixup[f"{kind}_{name}"]) for name in ("neg_index", "lam_neg"))
    mixed = mixed_negatives(z, y, partners, share)
    np.testing.assert_allclose(mixed.features, mixup[f"{kind}_paper_z_minus"], rtol=0, atol=1e-14)
    classes = mixup[f"{kind}_paper_y_minus"].shape[1]
    share = mixed.share[:, None].numpy()
    label = (1 - share) * one_hot(mixed.first.numpy(), classes) + share * one_hot(
        mixed.second.numpy(), classes
    )
    np.testing.assert_allclose(label, mixup[f"{kind}_paper_y_minus"], rtol=0, atol=1e-15)
    assert mixed.exists.all()


def test_a_batch_of_one_class_has_no_negatives() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    labels = torch.zeros(3, dtype=torch.long)
    positives, negatives = hardest(z, labels)
    assert positives.tolist() == [1, 0, 0]
    assert negatives.tolist() == positives.tolist()
    partners = random_negatives(labels, torch.tensor([0.0, 0.5, 0.99]), torch.rand(3))
    mixed = mixed_negatives(z, labels, partners, torch.full((3,), 0.8))
    assert not mixed.exists.any()
    assert mixed.cross_entropy(torch.randn(3, 4)).item() == 0


@given(
    some.lists(some.integers(0, 3), min_size=2, max_size=12),
    some.integers(0, 2**31),
    some.sampled_from([0.0, 0.3, 1 - 2**-24]),
)
def test_a_negative_is_the_nth_of_another_class_in_the_order(
    labels: list[int], seed: int, draw: float
) -> None:
    """By loops; the largest draw of float32 too."""
    generator = np.random.default_rng(seed)
    chosen = np.where(generator.random(len(labels)) < 0.5, draw, generator.random(len(labels)))
    order = generator.permutation(len(labels)) / len(labels)
    found = random_negatives(
        torch.tensor(labels), torch.tensor(chosen, dtype=torch.float32), torch.tensor(order)
    ).tolist()
    for anchor, label in enumerate(labels):
        others = [j for j in np.argsort(order) if labels[j] != label]
        if others:
            share = float(np.float32(chosen[anchor]))
            assert found[anchor] == others[min(int(share * len(others)), len(others) - 1)]


def test_each_negative_is_equally_likely() -> None:
    labels = torch.tensor([0, 1, 1, 2, 0, 2])
    generator = torch.Generator().manual_seed(0)
    counts = np.zeros(6)
    for draws in torch.rand(4000, 2, 6, generator=generator):
        counts[random_negatives(labels, draws[0], draws[1])[0]] += 1
    assert counts[[0, 4]].tolist() == [0, 0]
    assert chisquare(counts[[1, 2, 3, 5]]).pvalue > 0.001


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_lambda_is_drawn_from_beta(alpha: float) -> None:
    draws = torch.rand(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = beta(draws, alpha)
    np.testing.assert_allclose(values, beta_distribution.ppf(draws.numpy(), alpha, alpha), atol=1e-9)
    assert kstest(values.numpy(), beta_distribution(alpha, alpha).cdf).pvalue > 0.001
    single = beta(draws.float(), alpha)
    assert single.dtype == torch.float32
    assert ((single >= 0) & (single <= 1)).all()


# The objective (sections 4.3 and 4.4)


@pytest.mark.parametrize("focal", [True, False], ids=["focal", "plain"])
@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_of_the_contrastive_loss(core: Any, reading: str, focal: bool) -> None:
    z, y = leaf(core["z"]), torch.from_numpy(core["y"])
    plus = mixed_positives(z, y, torch.from_numpy(core["lam_pos"]))
    minus = mixed_negatives(z, y, torch.from_numpy(core["neg_index"]), torch.from_numpy(core["lam_neg"]))
    projector = projector_of(core)
    v = functional.normalize(projector(torch.cat([z, plus, minus.features])), dim=1)
    np.testing.assert_allclose(v.detach(), core["v_all"], rtol=0, atol=1e-14)
    loss = contrastive(*pairs(reading, v, y, minus, float(core["tau"])), focal=focal)
    name = f"{READINGS[reading]}_con"
    if not focal:
        assert loss.item() == pytest.approx(float(core[f"{name}_unweighted"]), rel=1e-12)
        return
    assert loss.item() == pytest.approx(float(core[name]), rel=1e-12)
    loss.backward()
    for found, expected in ((z, "z"), (projector[0].weight, "proj_w1"), (projector[2].weight, "proj_w2")):
        assert found.grad is not None
        np.testing.assert_allclose(found.grad, core[f"{name}_grad_{expected}"], rtol=1e-9, atol=1e-12)


def draws_for(core: Any) -> torch.Tensor:
    """Draws that give the reference's lambdas and random negatives."""
    y, n = core["y"], len(core["y"])
    chosen = np.empty(n)
    for anchor, negative in enumerate(core["neg_index"]):
        others = np.flatnonzero(y != y[anchor])
        chosen[anchor] = (others.tolist().index(negative) + 0.5) / len(others)
    order = np.arange(n) / n
    return torch.from_numpy(np.stack([core["lam_pos_raw"], core["lam_neg_raw"], chosen, order], 1))


def batch_of(z: torch.Tensor, labels: np.ndarray, head: nn.Module, draws: torch.Tensor) -> TargetOutputs:
    return TargetOutputs(
        images=torch.empty(len(labels), 0),
        labels=torch.from_numpy(labels),
        features=z,
        logits=head(z),
        backbone=SimpleNamespace(head=head),
        draws=draws,
    )


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("eta", [0.1, 1.0, 10.0])
def test_total_and_gradients_from_draws(core: Any, reading: str, eta: float) -> None:
    settings = SETTINGS | {"weight": eta, "pairs": reading, "temperature": float(core["tau"])}
    objective = CoreTuning(settings, projector_of(core))
    assert objective.draws == 4
    z, head = leaf(core["z"]), linear(core["classifier_w"])
    loss, parts = objective(batch_of(z, core["y"], head, draws_for(core)))
    loss.backward()
    name = READINGS[reading]
    assert loss.item() == pytest.approx(float(core[f"{name}_total_eta{eta}"]), rel=1e-12)
    assert parts["cross_entropy"].item() == pytest.approx(float(core["ce_originals"]), rel=1e-12)
    assert parts["mixed_cross_entropy"].item() == pytest.approx(float(core["ce_minus"]), rel=1e-12)
    assert z.grad is not None
    expected = core["ce_m_grad_z"] + eta * core[f"{name}_con_grad_z"]
    np.testing.assert_allclose(z.grad, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(head.weight.grad, core["ce_m_grad_classifier_w"], rtol=1e-9, atol=1e-12)


def test_released_code_differs_as_the_docs_say(core: Any, mixup: Any) -> None:
    """Numbers that docs/methods.md quotes."""
    for name, quoted in (("ce", "0.235 instead of 0.339"), ("con", "0.0145 instead of 0.0902")):
        cut, whole = (
            np.linalg.norm(core[f"code_{name}_grad_z{end}"]) for end in ("", "_if_originals_attached")
        )
        assert quoted == f"{cut:.3g} instead of {whole:.3g}"
    assert (core["code_con"].round(3), core["v1_peranchor_con"].round(3)) == (0.347, 6.596)
    wrong = [(mixup[f"{kind}_code_hp_index"] != mixup[f"{kind}_paper_hp_index"]).sum() for kind in FEATURES]
    assert wrong == [11, 16, 9]


def test_detached_weights_change_the_gradient_alone(core: Any) -> None:
    results = []
    for flow in ("flow", "detach"):
        z = leaf(core["z"])
        objective = CoreTuning(SETTINGS | {"focal_gradient": flow}, projector_of(core))
        loss, _ = objective(batch_of(z, core["y"], linear(core["classifier_w"]), draws_for(core)))
        loss.backward()
        assert z.grad is not None
        results.append((loss.item(), z.grad.numpy()))
    assert results[0][0] == results[1][0]
    assert np.abs(results[0][1] - results[1][1]).max() > 1e-4


# The rows of Table 2


def test_table_2_row_4_is_plain_contrast_with_hard_mixup(core: Any) -> None:
    objective = CoreTuning(SETTINGS | {"contrast": "plain"}, projector_of(core))
    _, parts = objective(batch_of(leaf(core["z"]), core["y"], linear(core["classifier_w"]), draws_for(core)))
    assert parts["contrastive"].item() == pytest.approx(float(core["v1_peranchor_con_unweighted"]), rel=1e-12)


def test_table_2_row_3_is_manifold_mixup(core: Any) -> None:
    """Cross-entropy of soft labels, by loops."""
    objective = build(SETTINGS | {"contrast": "none", "mixup": "manifold"}, SimpleNamespace(width=8))  # type: ignore[arg-type]
    assert (objective.draws, objective.heads, objective.projector) == (2, (), None)
    draws = torch.rand(12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z, head = leaf(core["z"]), linear(core["classifier_w"])
    loss, parts = objective(batch_of(z, core["y"], head, draws))
    order = draws[:, 1].argsort().tolist()
    expected = 0.0
    for place, anchor in enumerate(order):
        partner, share = order[(place + 1) % 12], draws[anchor, 0].item()
        logits = ((1 - share) * core["z"][anchor] + share * core["z"][partner]) @ core["classifier_w"].T
        log_p = logits - np.log(np.exp(logits).sum())
        for image, part in ((anchor, 1 - share), (partner, share)):
            expected -= part * log_p[core["y"][image]] / 12
    assert parts["mixed_cross_entropy"].item() == pytest.approx(expected, rel=1e-12)
    assert loss.item() == pytest.approx(float(core["ce_originals"]) + expected, rel=1e-12)


def test_nobody_is_its_own_partner_in_manifold_mixup() -> None:
    partners = shuffled_pairs(torch.rand(20, generator=torch.Generator().manual_seed(3)))
    assert sorted(partners.tolist()) == list(range(20))
    assert (partners != torch.arange(20)).all()
    mixed = mixed_pairs(torch.ones(20, 2), torch.zeros(20, dtype=torch.long), partners, torch.rand(20))
    assert mixed.exists.all()


@pytest.mark.parametrize("contrast", ["focal", "plain"])
def test_without_hard_pairs_images_alone_are_contrasted(core: Any, shared_data: Path, contrast: str) -> None:
    name = {"focal": "focal_supcon", "plain": "supcon"}[contrast]
    values = np.load(shared_data / "reference_values" / f"{name}.npz", allow_pickle=False)
    objective = CoreTuning(SETTINGS | {"contrast": contrast, "mixup": "none"}, nn.Identity())
    assert objective.draws == 0
    x, y = leaf(values["s2_x"]), values["s2_y"]
    loss, parts = objective(batch_of(x, y, nn.Linear(32, 5).double(), torch.empty(24, 0)))
    assert parts["contrastive"].item() == pytest.approx(float(values["s2_t007_paper_div_npos"]), rel=1e-12)
    assert loss.item() == pytest.approx(parts["cross_entropy"].item() + parts["contrastive"].item())


def test_without_contrast_and_mixup_it_is_cross_entropy() -> None:
    objective = build(SETTINGS | {"contrast": "none", "mixup": "none"}, SimpleNamespace(width=4))  # type: ignore[arg-type]
    z, head, labels = torch.randn(6, 4), nn.Linear(4, 3), np.array([0, 2, 1, 1, 0, 2])
    loss, parts = objective(batch_of(z, labels, head, torch.empty(6, 0)))
    assert torch.equal(loss, functional.cross_entropy(head(z), torch.from_numpy(labels)))
    assert list(parts) == ["cross_entropy"]
    assert not list(objective.parameters())


def test_the_projector_is_of_the_settings() -> None:
    objective = build(SETTINGS | {"depth": 3, "hidden": 5}, SimpleNamespace(width=4))  # type: ignore[arg-type]
    shapes = [tuple(p.shape) for p in objective.parameters() if p.ndim == 2]
    assert shapes == [(5, 4), (5, 5), (6, 5)]
    assert objective.heads == (objective.projector,)
    by_default = build(SETTINGS, SimpleNamespace(width=4))  # type: ignore[arg-type]
    assert [tuple(p.shape) for p in by_default.parameters() if p.ndim == 2] == [(4, 4), (6, 4)]
