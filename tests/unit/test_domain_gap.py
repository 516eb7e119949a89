"""The domain gap: against exact values where every batch can be listed, and on real gradients."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn

from pipeline.analysis.domain_gap.estimate import Estimate, estimate, inner_products
from pipeline.analysis.domain_gap.gradients import (
    fitted_head,
    some_of_each,
    source_gradients,
    target_gradients,
)
from pipeline.analysis.gap_and_accuracy.summarise import summarise
from pipeline.backbones.backbone import Backbone, Description, build_backbone
from pipeline.errors import PipelineError
from pipeline.finetuning.reused import Reused
from pipeline.provenance import Provenance
from pipeline.tables import Samples, read_samples, write_table

DESCRIPTION = Description(
    architecture={"name": "small_resnet", "widths": [4, 6], "blocks": 1, "stem_stride": 1},
    preprocessing={"resize": 10, "crop": 10, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    class_names=["a", "b", "c"],
)
CPU = torch.device("cpu")


class Toy:
    """Linear regression with loss (x·w - y)² / 2 at one w: a gradient is (x·w - y) x for each example.

    Three target and two source examples, all equally likely, so that every sample can be listed.
    """

    def __init__(self) -> None:
        random = np.random.default_rng(5)
        w = random.normal(size=4)
        self.target, self.source = (
            (x @ w - y)[:, None] * x
            for x, y in ((random.normal(size=(n, 4)), random.normal(size=n)) for n in (3, 2))
        )

    def exact(self, batch_size: int) -> tuple[float, float, float]:
        """delta^2, Delta^2 and the variance of a batch, with all batches of the source listed."""
        batches = every_sample(self.source, batch_size).mean(1)
        target, source = self.target.mean(0), self.source.mean(0)
        return (
            float(((target - batches) ** 2).sum(1).mean()),
            float(((target - source) ** 2).sum()),
            float(((batches - source) ** 2).sum(1).mean()),
        )


def every_sample(values: np.ndarray, size: int) -> np.ndarray:
    """All ordered samples with replacement, (len(values) ** size, size, width)."""
    return np.array([values[list(picked)] for picked in product(range(len(values)), repeat=size)])


@pytest.fixture(scope="module")
def every_estimate() -> list[Estimate]:
    """From every three target batches of one example and three source batches of two of the toy."""
    toy = Toy()
    batches = every_sample(toy.source, 2).mean(1)
    return [
        estimate(target, source)
        for target in every_sample(toy.target, 3)
        for source in every_sample(batches, 3)
    ]


def test_unbiased_over_every_sample_that_can_come(every_estimate: list[Estimate]) -> None:
    toy, batch_size, found = Toy(), 2, every_estimate
    source_batches = every_sample(toy.source, batch_size).mean(1)
    assert len(found) == 27 * 64
    means = np.mean([[one.gap, one.difference, one.variance] for one in found], 0)
    np.testing.assert_allclose(means, toy.exact(batch_size), rtol=1e-12)
    norms = np.mean([[one.target_norm, one.source_norm] for one in found], 0)
    expected = [(toy.target.mean(0) ** 2).sum(), (toy.source.mean(0) ** 2).sum()]
    np.testing.assert_allclose(norms, expected, rtol=1e-12)
    # The plain way, of means that share their noise, is biased on the same samples.
    plain = np.mean(
        [
            ((target.mean(0) - source.mean(0)) ** 2).sum()
            for target in every_sample(toy.target, 3)
            for source in every_sample(source_batches, 3)
        ]
    )
    assert plain > 1.2 * toy.exact(batch_size)[1]


def test_standard_errors_are_not_too_small(every_estimate: list[Estimate]) -> None:
    found = every_estimate
    for name in ("gap", "difference", "variance"):
        true = np.var([getattr(one, name) for one in found])
        told = np.mean([getattr(one, f"{name}_error") ** 2 for one in found])
        assert true < told < 4 * true, name


def test_variance_falls_with_the_size_of_a_batch() -> None:
    toy = Toy()
    single = toy.exact(1)[2]
    assert toy.exact(4)[2] == pytest.approx(single / 4)
    random, size = np.random.default_rng(0), 16
    source = toy.source[random.integers(0, 2, (200, size))].mean(1)
    target = toy.target[random.integers(0, 3, (40, 500))].mean(1)
    found = estimate(target, source)
    assert found.variance == pytest.approx(single / size, abs=4 * found.variance_error)
    assert found.variance_error < 0.2 * found.variance
    assert found.gap == pytest.approx(found.difference + found.variance)


@hypothesis_settings(max_examples=8)
@given(seed=st.integers(0, 10_000), shift=st.sampled_from([0.0, 0.3, 3.0]))
def test_difference_is_unbiased_over_seeds(seed: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    runs = [
        estimate(random.normal(size=(5, 6)), shift + 2 * random.normal(size=(7, 6))).difference
        for _ in range(100)
    ]
    error = np.std(runs, ddof=1) / np.sqrt(len(runs))
    assert abs(np.mean(runs) - 6 * shift**2) < 5 * error


@hypothesis_settings(max_examples=30)
@given(seed=st.integers(0, 10_000), batches=st.tuples(st.integers(3, 8), st.integers(3, 8)))
def test_order_of_batches_and_of_parameters_changes_nothing(seed: int, batches: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    target, source = (random.normal(size=(count, 9)) for count in batches)
    parameters = random.permutation(9)
    moved = [random.permutation(side)[:, parameters] for side in (target, source)]
    np.testing.assert_allclose(estimate(*moved), estimate(target, source), rtol=1e-9, atol=1e-12)


def test_products_are_added_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.analysis.domain_gap.estimate.COLUMNS", 7)
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(n, 50)).astype(np.float32) for n in (3, 4))
    expected = first.astype(np.float64) @ second.astype(np.float64).T
    np.testing.assert_allclose(inner_products(first, second), expected, rtol=1e-13, atol=1e-13)


def test_too_few_batches_and_gradients_that_are_not_finite() -> None:
    good = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(PipelineError, match="gradients of 2 source batches; expected 3 or more"):
        estimate(good, good[:2])
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(PipelineError, match="gradient of target batch 1 is not finite"):
        estimate(bad, good)


@pytest.fixture
def target(tmp_path: Path, make_dataset: Callable[..., Any]) -> Any:
    """Three classes, 8 test images each."""
    return make_dataset(tmp_path, parts=(8, 0, 8), seed=1)


@pytest.fixture
def settings(training: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    reuse = {"name": "labelled", "share": 1.0, "draw": 0}
    return {"batches": 4, "batch_size": 6, "head_images": 100, "augmentation": training()["augmentation"]} | {
        "reuse": reuse
    }


def whole_gradient(backbone: Backbone, head: nn.Module, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the mean cross-entropy over all images at once, by backward(), float64."""
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    backbone.eval()
    backbone.zero_grad()
    nn.functional.cross_entropy(head(backbone.encoder(images)), torch.from_numpy(labels)).backward()
    return np.concatenate(
        [parameter.grad.flatten().double().numpy() for parameter in backbone.encoder.parameters()]
    )


def test_target_batches_are_parts_of_the_held_out_images(target: Any, settings: dict[str, Any]) -> None:
    backbone, samples = build_backbone(DESCRIPTION, 0), read_samples(target.manifest)
    rows = samples.rows("test")
    found = target_gradients(backbone, samples, target.pixels, rows, settings, 0, CPU)
    assert found.shape == (4, sum(parameter.numel() for parameter in backbone.encoder.parameters()))
    assert backbone.head is not None
    expected = whole_gradient(backbone, backbone.head, target.pixels[rows], target.labels[rows])
    np.testing.assert_allclose(found.mean(0), expected, atol=1e-6)
    # Images pass two at a time, and a batch is the same.
    few = target_gradients(backbone, samples, target.pixels, rows, {**settings, "batch_size": 2}, 0, CPU)
    np.testing.assert_allclose(few, found, atol=1e-6)
    with pytest.raises(PipelineError, match=r"24 images to measure .* 25 batches"):
        target_gradients(backbone, samples, target.pixels, rows, {**settings, "batches": 25}, 0, CPU)


def reused(samples: Samples, classes: list[int]) -> Reused:
    rows = np.flatnonzero(np.isin(samples.labels, classes))
    found, labels = np.unique(samples.labels[rows], return_inverse=True)
    return Reused(samples, rows, samples.labels[rows], labels, found)


def test_source_batches_are_drawn_from_the_selected_classes(target: Any, settings: dict[str, Any]) -> None:
    backbone, samples = build_backbone(DESCRIPTION, 0), read_samples(target.manifest)
    selected = reused(samples, [0, 2])
    many = {**settings, "batches": 100}
    found = source_gradients(backbone, selected, target.pixels, many, 0, CPU)
    head = fitted_head(backbone, target.pixels, selected.rows, selected.labels, CPU)
    expected = whole_gradient(backbone, head, target.pixels[selected.rows], selected.labels)
    errors = found.std(0, ddof=1) / np.sqrt(len(found))
    standardised = ((found.mean(0) - expected) / np.maximum(errors, 1e-7))[errors > 1e-7]
    assert np.abs(standardised).max() < 5
    assert len(np.unique(found.round(6), axis=0)) > 90
    again = source_gradients(backbone, selected, target.pixels, many, 0, CPU)
    np.testing.assert_array_equal(again, found)
    with pytest.raises(PipelineError, match="of one class"):
        source_gradients(backbone, reused(samples, [1]), target.pixels, settings, 0, CPU)


def test_heads_are_fitted_on_some_images_of_each_class() -> None:
    labels = np.array([0, 1, 0, 2, 0, 1, 0, 1])
    some = some_of_each(labels, 2, 0)
    assert labels[some].tolist() == labels[np.sort(some)].tolist()
    assert np.bincount(labels[some]).tolist() == [2, 2, 1]
    assert {tuple(some_of_each(labels, 2, seed)) for seed in range(20)} != {tuple(some)}
    assert some_of_each(labels, 4, 0).tolist() == list(range(8))


def test_pseudo_labels_are_of_the_target_head(target: Any, settings: dict[str, Any]) -> None:
    backbone, samples = build_backbone(DESCRIPTION, 0), read_samples(target.manifest)
    reuse = {"name": "pseudo_labelled", "share": 1.0, "draw": 0, "operations": 1, "magnitude": 9}
    selected = reused(samples, [0, 2])
    found = source_gradients(backbone, selected, target.pixels, {**settings, "reuse": reuse}, 0, CPU)
    assert np.abs(found).max() > 0
    # A head that says the same of every image has nothing to teach.
    assert backbone.head is not None
    with torch.no_grad():
        backbone.head.weight.zero_()
    none = source_gradients(backbone, selected, target.pixels, {**settings, "reuse": reuse}, 0, CPU)
    np.testing.assert_array_equal(none, np.zeros_like(none))


@pytest.mark.parametrize("classes", [[0, 2], [0, 1, 2]])
def test_heads_predict_what_scikit_learn_does(target: Any, classes: list[int]) -> None:
    backbone, samples = build_backbone(DESCRIPTION, 0), read_samples(target.manifest)
    selected = reused(samples, classes)
    head = fitted_head(backbone, target.pixels, selected.rows, selected.labels, CPU)
    images = (torch.from_numpy(target.pixels[selected.rows]).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        features = backbone.eval()(images)
        found = head(features).softmax(1).numpy()
    model = LogisticRegression(max_iter=1_000).fit(features.double().numpy(), selected.labels)
    np.testing.assert_allclose(found, model.predict_proba(features.double().numpy()), atol=1e-3)


def test_summary_over_seeds(tmp_path: Path, record: Provenance) -> None:
    run = {"backbone": "small", "target": "birds", "recipe": "reuse", "selection": "uot"}
    gaps, metrics = [], []
    for seed, (gap, accuracy) in enumerate([(1.0, 0.5), (3.0, 0.7)]):
        errors = {"gap_error": 9.0, "difference_error": 9.0}
        gaps.append(
            {**run, "seed": seed, "epoch": 2, "measured": "uot", "gap": gap, "difference": 1.0} | errors
        )
        gaps.append({**gaps[-1], "recipe": "plain", "selection": "none"})
        values = {**run, "seed": seed, "split": "test", "metric": "top1", "value": accuracy}
        metrics.append(tmp_path / f"{seed}.parquet")
        write_table("metrics", metrics[-1], {key: [value] for key, value in values.items()}, record)
    reuse, plain = summarise(gaps, metrics, {"birds": "top1"})
    expected = {"gap": 2.0, "gap_error": 1.0, "difference_error": 0.0, "accuracy": 0.6, "accuracy_error": 0.1}
    assert {key: reuse[key] for key in expected} == pytest.approx(expected)
    assert (plain["seeds"], plain["accuracy"], plain["accuracy_error"]) == (2, None, None)
    (single,) = summarise(gaps[:1], metrics, {"birds": "top1"})
    assert (single["gap_error"], single["accuracy_error"]) == (9.0, None)
    with pytest.raises(PipelineError, match=r"reuse/1: its test metric"):
        summarise(gaps, metrics[:1], {"birds": "top1"})
