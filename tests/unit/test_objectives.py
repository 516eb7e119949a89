"""Co-Tuning: relationships of classes against reference values and scipy, and what is refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import nn

from pipeline.errors import PipelineError
from pipeline.objectives import Start, TargetOutputs
from pipeline.objectives.co_tuning import CoTuning, build
from pipeline.objectives.relationship import calibrated, calibration, direct, probabilities, regression

SETTINGS = {"weight": 2.3, "relationship": "direct", "logit_scale": 1.0, "regularisation": [10.0, 1.0]}


@pytest.fixture(scope="module")
def values(shared_data: Path) -> Any:
    return np.load(shared_data / "reference_values" / "co_tuning.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def parts(values: Any) -> tuple[np.ndarray, ...]:
    """Probabilities and labels of both parts, calibrated as the released code does."""
    scale = float(values["imagenet_logit_scale"])
    return (
        probabilities(values["train_logits"], scale),
        values["train_labels"],
        probabilities(values["val_logits"], scale),
        values["val_labels"],
    )


def test_direct_relationship(values: Any, parts: tuple[np.ndarray, ...]) -> None:
    found = direct(probabilities(values["train_logits"], 1.0), values["train_labels"])
    np.testing.assert_allclose(found, values["direct_relationship"], rtol=0, atol=1e-14)
    # The released code scales the logits and pools both parts.
    train, labels, validation, validation_labels = parts
    pooled = direct(np.concatenate([train, validation]), np.concatenate([labels, validation_labels]))
    np.testing.assert_allclose(pooled, values["direct_relationship_scaled_trainval"], rtol=0, atol=1e-14)


def test_calibrated_relationship_at_c_10(values: Any, parts: tuple[np.ndarray, ...]) -> None:
    train, labels, validation, validation_labels = parts
    weights = regression(train, labels, 10.0)
    np.testing.assert_allclose(weights, values["fixedC10_coef"], rtol=0, atol=1e-4)
    scale = calibration(validation @ weights.T, validation_labels)
    assert scale == pytest.approx(float(values["fixedC10_scale"]), abs=1e-6)
    found = calibrated(train, labels, validation, validation_labels, [10.0])
    np.testing.assert_allclose(found, values["fixedC10_relationship"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=1e-14)


def test_c_is_the_first_that_is_best_on_validation(
    values: Any, parts: tuple[np.ndarray, ...], caplog: pytest.LogCaptureFixture
) -> None:
    train, labels, validation, validation_labels = parts
    accuracies = [
        ((validation @ regression(train, labels, strength).T).argmax(1) == validation_labels).mean()
        for strength in values["lr_C_grid"]
    ]
    np.testing.assert_allclose(accuracies, values["lr_val_accuracy"], rtol=0, atol=1e-12)
    with caplog.at_level(logging.INFO, "pipeline"):
        found = calibrated(train, labels, validation, validation_labels, values["lr_C_grid"].tolist())
    assert float(values["lr_C_selected"]) == 1e4
    assert "C 10000, validation accuracy 0.7857" in caplog.text
    np.testing.assert_allclose(found, values["calibrated_relationship"], rtol=0, atol=5e-5)
    # 300 is worse, and 3,000 as good as 10,000 but earlier.
    first = calibrated(train, labels, validation, validation_labels, [300.0, 3000.0, 1e4])
    alone = calibrated(train, labels, validation, validation_labels, [3000.0])
    np.testing.assert_array_equal(first, alone)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [0.3, 20.0])
def test_regression_minimises_its_loss(classes: int, strength: float) -> None:
    """Two classes too, of which scikit-learn fits the difference alone."""
    random = np.random.default_rng(classes)
    source = softmax(2 * random.normal(size=(40, 5)), axis=1)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, 40 - classes)])

    def loss(flat: np.ndarray) -> float:
        weights = flat.reshape(classes, 5)
        fit = log_softmax(source @ weights.T, axis=1)[np.arange(40), labels]
        return float(-strength * fit.sum() + (weights**2).sum() / 2)

    expected = minimize(loss, np.zeros(classes * 5), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(
        regression(source, labels, strength), expected.x.reshape(classes, 5), rtol=0, atol=1e-4
    )


def test_regression_that_stops_early_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sklearn.linear_model import LogisticRegression

    made = LogisticRegression.__init__
    monkeypatch.setattr(
        LogisticRegression, "__init__", lambda self, **given: made(self, **(given | {"max_iter": 1}))
    )
    regression(softmax(np.random.default_rng(0).normal(size=(30, 4)), axis=1), np.arange(30) % 3, 1e4)
    assert "the regression with C 10000 stopped before its tolerance" in caplog.text


def test_loss_and_gradient(values: Any) -> None:
    """The head passes its features on, so that they are the source's logits."""
    head = nn.Linear(7, 7)
    with torch.no_grad():
        head.weight.copy_(torch.eye(7))
        head.bias.zero_()
    relationship = values["direct_relationship"]
    objective = CoTuning(head, float(values["trade_off"]), relationship, list("abcd"), list("stuvwxy"))
    features = torch.tensor(values["batch_source_logits"], dtype=torch.float32, requires_grad=True)
    logits = torch.tensor(values["batch_target_logits"], dtype=torch.float32)
    labels = torch.from_numpy(values["batch_labels"])
    outputs = TargetOutputs(torch.empty(8, 0), labels, features, logits, None, torch.empty(8, 0))
    loss, shown = objective(outputs)
    assert loss.item() == pytest.approx(float(values["total"]), rel=1e-6)
    assert shown["cross_entropy"].item() == pytest.approx(float(values["target_ce"]), rel=1e-6)
    assert shown["co_tuning"].item() == pytest.approx(float(values["cotuning_loss"]), rel=1e-6)
    loss.backward()
    assert features.grad is not None
    expected = float(values["trade_off"]) * values["cotuning_grad_source_logits"]
    np.testing.assert_allclose(features.grad.numpy(), expected, rtol=1e-4, atol=1e-7)
    # The source head is trained, and at the backbone's learning rate.
    assert head.weight.grad is not None
    assert head.weight.grad.abs().max() > 0
    assert objective.pretrained == (head,)


@pytest.fixture
def start() -> Callable[..., Start]:
    """A function that makes a start of three target and five source classes."""

    def make(labels: list[int], validation: int = 6, head: bool = True) -> Start:
        def source_logits(part: str) -> tuple[np.ndarray, np.ndarray]:
            chosen = np.array(labels if part == "train" else [0, 1, 2] * (validation // 3), np.int64)
            drawn = np.random.default_rng(len(chosen)).normal(size=(len(chosen), 5))
            return drawn.astype(np.float32), chosen

        return Start(
            width=4,
            class_names=["cat", "dog", "emu"],
            source_head=nn.Linear(4, 5) if head else None,
            source_class_names=list("vwxyz"),
            source_logits=source_logits,
            pretrained=None,
            backbone=None,
            training=lambda count: iter(()),
        )

    return make


def test_relationship_is_kept_as_a_table(start: Callable[..., Start]) -> None:
    objective = build(SETTINGS | {"logit_scale": 0.5}, start([0, 1, 2, 2, 1, 0]))
    columns, extra = objective.tables()["relationship"]
    assert columns["class_name"] == ["cat", "dog", "emu"]
    assert columns["label"].tolist() == [0, 1, 2]
    assert json.loads(extra["class_names"]) == list("vwxyz")
    logits, labels = start([0, 1, 2, 2, 1, 0]).source_logits("train")
    expected = [softmax(logits[labels == label] / 2, axis=1).mean(0) for label in range(3)]
    np.testing.assert_allclose(np.stack(columns["probabilities"].to_numpy(False)), expected, rtol=1e-5)


def test_what_co_tuning_refuses(start: Callable[..., Start]) -> None:
    with pytest.raises(PipelineError, match="trains the head of pre-training, and this backbone has none"):
        build(SETTINGS, start([0, 1, 2], head=False))
    with pytest.raises(PipelineError, match="co_tuning: no training image of class 'dog', 'emu'"):
        build(SETTINGS, start([0, 0]))
    calibrating = SETTINGS | {"relationship": "calibrated"}
    with pytest.raises(PipelineError, match=r"needs a validation part.*take relationship: direct"):
        build(calibrating, start([0, 1, 2], validation=0))
    assert build(calibrating, start([0, 1, 2, 0, 1, 2])).relationship.shape == (3, 5)
