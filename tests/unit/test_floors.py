"""Floors: classifiers of frozen features and interpolated weights, against libraries and loops."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from pipeline.backbones.backbone import Backbone, Description, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.errors import PipelineError
from pipeline.floors.data import read_data
from pipeline.floors.interpolation.interpolate import Ends, interpolate, mixed
from pipeline.floors.linear_probe.fit import ABSENT, fit, linear_probe
from pipeline.floors.neighbours.classify import TEMPERATURE, neighbours, votes_by_count
from pipeline.provenance import Provenance
from pipeline.tables import feature_matrix, read_table, write_table

pytestmark = pytest.mark.usefixtures("torch_as_before")

CLASSES = 3
PARTS = {"fit_on": ["train"], "predict": ["validation", "test"], "metric": "top1"}


@pytest.fixture
def given(tmp_path: Path, make_dataset: Callable[..., Any], record: Provenance) -> Callable[..., Any]:
    """A function that makes a target whose features of each class lie around a point of their own."""

    def make(noise: float = 0.7, **values: Any) -> tuple[Any, Path, np.ndarray]:
        target = make_dataset(tmp_path / "target", classes=CLASSES, **values)
        random = np.random.default_rng(5)
        means = random.normal(size=(CLASSES, 6))
        features = means[target.labels] + random.normal(0, noise, (len(target.ids), 6))
        features = features.astype(np.float32)
        path = tmp_path / "features.parquet"
        columns = {"sample_id": target.ids, "split": target.split.tolist(), "feature": features}
        write_table("features", path, {**columns, "label": target.labels.astype(np.int32)}, record)
        return target, path, features

    return make


def choices_of(folder: Path) -> dict[tuple[float, str], float]:
    rows = read_table("choices", folder / "choices.parquet").to_pylist()
    return {(row["value"], row["split"]): row["score"] for row in rows}


def chosen_of(folder: Path) -> float:
    rows = read_table("choices", folder / "choices.parquet").to_pylist()
    (chosen,) = {row["value"] for row in rows if row["chosen"]}
    return float(chosen)


def predictions_of(folder: Path) -> tuple[list[str], list[str], np.ndarray]:
    table = read_table("predictions", folder / "predictions.parquet")
    probabilities = feature_matrix(table, "probabilities")
    assert table["prediction"].to_pylist() == probabilities.argmax(1).tolist()
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    return table["sample_id"].to_pylist(), table["split"].to_pylist(), probabilities


# Nearest neighbours


def test_votes_equal_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    features, queries = random.normal(size=(40, 5)), random.normal(size=(9, 5))
    labels = random.integers(0, 4, 40)
    found = votes_by_count(features.astype(np.float32), labels, queries.astype(np.float32), [1, 3, 40], 4)
    for count, votes in found.items():
        model = KNeighborsClassifier(
            count, metric="cosine", weights=lambda distances: np.exp(-distances / TEMPERATURE)
        )
        expected = model.fit(features, labels).predict_proba(queries)
        np.testing.assert_allclose(votes, expected, rtol=1e-3, atol=1e-9)


def test_votes_of_far_neighbours_do_not_vanish() -> None:
    """At a cosine of -1 all weights would be the same tiny number."""
    found = votes_by_count(np.array([[1.0, 0], [1.0, 0]]), np.array([1, 1]), np.array([[-1.0, 0]]), [2], 3)
    assert found[2].tolist() == [[0, 1, 0]]


def test_k_is_chosen_on_validation_and_the_rest_predicted(
    given: Callable[..., Any], tmp_path: Path, record: Provenance
) -> None:
    target, path, features = given()
    settings = {**PARTS, "neighbours": [24, 5, 1, 99]}
    neighbours(target.manifest, path, tmp_path, settings, record)
    train, validation = (np.flatnonzero(target.split == part) for part in ("train", "validation"))
    scores = {}
    for count in (24, 5, 1):  # 99 is more than there are, and becomes 24
        weights: Any = lambda distances: np.exp(-distances / TEMPERATURE)  # noqa: E731
        model = KNeighborsClassifier(count, metric="cosine", weights=weights)
        model.fit(features[train], target.labels[train])
        scores[count, "validation"] = model.score(features[validation], target.labels[validation])
    assert choices_of(tmp_path) == pytest.approx(scores)
    assert len({*scores.values()}) > 1
    chosen = chosen_of(tmp_path)
    assert scores[int(chosen), "validation"] == max(scores.values())
    ids, splits, found = predictions_of(tmp_path)
    held_out = np.flatnonzero(target.split != "train")
    assert ids == [target.ids[row] for row in held_out]
    assert splits == target.split[held_out].tolist()
    model = KNeighborsClassifier(int(chosen), metric="cosine", weights=weights)
    model.fit(features[train], target.labels[train])
    np.testing.assert_allclose(found, model.predict_proba(features[held_out]), rtol=1e-3, atol=1e-6)


# The linear probe


def test_the_probe_is_scikit_learns_on_features_of_unit_size(
    given: Callable[..., Any], tmp_path: Path, record: Provenance
) -> None:
    target, path, features = given()
    settings = {**PARTS, "regularisation": [1e-4, 1.0], "metric": "mean_per_class"}
    linear_probe(target.manifest, path, tmp_path, settings, record)
    train = np.flatnonzero(target.split == "train")
    assert {key[0] for key in choices_of(tmp_path)} == {1e-4, 1.0}
    scale = np.sqrt((features[train].astype(float) ** 2).sum(1).mean())
    model = LogisticRegression(C=chosen_of(tmp_path), tol=1e-8, max_iter=10_000)
    model.fit(features[train] / scale, target.labels[train])
    _, _, found = predictions_of(tmp_path)
    held_out = np.flatnonzero(target.split != "train")
    np.testing.assert_allclose(found, model.predict_proba(features[held_out] / scale), atol=2e-3)
    head = load_file(tmp_path / "head.safetensors")
    logits = features[held_out] @ head["weight"].T + head["bias"]
    exponentials = np.exp(logits)
    np.testing.assert_allclose(found, exponentials / exponentials.sum(1, keepdims=True), rtol=1e-4)


def test_the_scale_of_features_changes_no_probe() -> None:
    random = np.random.default_rng(1)
    features, labels = random.normal(size=(30, 4)), np.arange(30) % 3
    weights, biases = fit(features, labels, 10.0, 3)
    small, same = fit(features / 1000, labels, 10.0, 3)
    np.testing.assert_allclose(small / 1000, weights, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(same, biases, atol=1e-5)


@pytest.mark.parametrize("present", [[0, 2, 3], [1, 3]])
def test_a_class_without_training_images_is_all_but_impossible(present: list[int]) -> None:
    random = np.random.default_rng(1)
    labels = np.array(present)[np.arange(30) % len(present)]
    weights, biases = fit(random.normal(size=(30, 4)), labels, 10.0, 5)
    absent = [label for label in range(5) if label not in present]
    assert weights.shape == (5, 4)
    assert not weights[absent].any()
    assert weights[present].any(axis=1).all()
    assert biases[absent].tolist() == pytest.approx([biases[present].min() - ABSENT] * len(absent))


# What they are fitted on


def test_without_validation_images_every_fifth_of_a_class_is_left_out_to_choose_by(
    given: Callable[..., Any],
) -> None:
    target, path, _ = given(parts=(11, 0, 2))
    data = read_data(target.manifest, path, PARTS)
    assert data.judged_part == "train"
    train = np.flatnonzero(target.split == "train")
    for label in range(CLASSES):
        of_class = train[target.labels[train] == label]
        assert data.judged[target.labels[data.judged] == label].tolist() == of_class[[4, 9]].tolist()
    assert sorted([*data.trial, *data.judged]) == train.tolist()
    assert data.fitted.tolist() == train.tolist()
    assert data.predicted.tolist() == np.flatnonzero(target.split == "test").tolist()


@pytest.mark.parametrize(("images", "left"), [(2, [1]), (4, [3])])
def test_of_fewer_images_the_last_is_left_out(
    given: Callable[..., Any], images: int, left: list[int]
) -> None:
    target, path, _ = given(parts=(images, 0, 2))
    data = read_data(target.manifest, path, PARTS)
    train = np.flatnonzero(target.split == "train")
    of_class = train[target.labels[train] == 0]
    assert data.judged[target.labels[data.judged] == 0].tolist() == of_class[left].tolist()


def test_choices_are_by_validation_also_where_it_is_fitted_on_in_the_end(given: Callable[..., Any]) -> None:
    target, path, _ = given()
    parts = {"fit_on": ["train", "validation"], "predict": ["test"]}
    data = read_data(target.manifest, path, {**PARTS, **parts})
    assert data.judged.tolist() == np.flatnonzero(target.split == "validation").tolist()
    assert data.trial.tolist() == np.flatnonzero(target.split == "train").tolist()
    assert data.fitted.tolist() == np.flatnonzero(target.split != "test").tolist()
    assert data.predicted.tolist() == np.flatnonzero(target.split == "test").tolist()


def test_features_that_do_not_fit_are_refused(
    given: Callable[..., Any], tmp_path: Path, record: Provenance, make_dataset: Callable[..., Any]
) -> None:
    target, path, features = given()
    with pytest.raises(PipelineError, match="no holdout image to evaluate floors on"):
        read_data(target.manifest, path, {**PARTS, "predict": ["holdout"]})
    other = make_dataset(tmp_path / "other", classes=2, parts=(9, 3, 3))
    with pytest.raises(PipelineError, match=r"features\.parquet: not of the images of .*manifest\.parquet"):
        read_data(other.manifest, path, PARTS)
    single = make_dataset(tmp_path / "single", classes=1, parts=(8, 3, 31))
    with pytest.raises(PipelineError, match="training images of fewer than two classes"):
        read_data(single.manifest, path, PARTS)
    features[3, 2] = np.inf
    columns = {"sample_id": target.ids, "split": target.split.tolist(), "feature": features}
    write_table("features", path, {**columns, "label": target.labels.astype(np.int32)}, record)
    with pytest.raises(PipelineError, match="the features of 1 images are not finite"):
        read_data(target.manifest, path, PARTS)


# Weight interpolation


@pytest.fixture
def ends(tmp_path: Path, record: Provenance) -> Ends:
    """A backbone of six classes, a probe for three, and a model of the same form with other weights."""
    preprocessing = {"resize": 10, "crop": 10, "mean": [0.5] * 3, "std": [0.25] * 3}
    architecture = {"name": "small_resnet", "widths": [4, 6], "blocks": 1, "stem_stride": 1}
    names = [f"class {label}" for label in range(CLASSES)]
    backbone = moved(build_backbone(Description(architecture, preprocessing, None, list("abcdef")), 1), 0.1)
    model = moved(build_backbone(Description(architecture, preprocessing, None, names), 2), 0.2)
    found = Ends(*(tmp_path / name for name in ("backbone.safetensors", "head.safetensors", "m.safetensors")))
    save_backbone(found.weights, backbone, record)
    save_backbone(found.model, model, record)
    random = np.random.default_rng(0)
    head = {"weight": random.normal(size=(CLASSES, 6)), "bias": random.normal(size=CLASSES)}
    save_file({name: value.astype(np.float32) for name, value in head.items()}, found.head)
    return found


def moved(backbone: Backbone, by: float) -> Backbone:
    """A backbone whose batch normalisation has seen something."""
    for name, value in backbone.state_dict().items():
        if name.endswith("running_mean"):
            value += by
        elif name.endswith("running_var"):
            value *= 1 + by
        elif name.endswith("num_batches_tracked"):
            value += int(10 * by)
    return backbone


def settings_of(*alphas: float, predict: tuple[str, ...] = ("validation", "test")) -> dict[str, Any]:
    return {"interpolation": list(alphas), "predict": list(predict), "metric": "top1", "threads": 1}


def logits_of(model: Backbone, target: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By hand, in evaluation mode."""
    model.eval()
    assert model.head is not None
    pixels = torch.from_numpy(target.pixels[rows]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        features = model((pixels - 0.5) / 0.25)
        return model.head(features).numpy(), features.numpy()


def telling(ends: Ends, target: Any, record: Provenance) -> None:
    """Give both ends a head that tells some of the classes apart."""
    train = np.flatnonzero(target.split == "train")
    model, backbone = load_backbone(ends.model), load_backbone(ends.weights)
    heads = [
        fit(logits_of(end, target, train)[1], target.labels[train], 3.0, CLASSES) for end in (backbone, model)
    ]
    save_file(dict(zip(("weight", "bias"), heads[0], strict=True)), ends.head)
    assert model.head is not None
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(heads[1][0]))
        model.head.bias.copy_(torch.from_numpy(heads[1][1]))
    save_backbone(ends.model, model, record)


def by_hand(ends: Ends, alpha: float) -> Backbone:
    """The mixture, number by number."""
    model, backbone = load_backbone(ends.model), load_backbone(ends.weights).state_dict()
    head = {f"head.{name}": torch.from_numpy(value) for name, value in load_file(ends.head).items()}
    state = model.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            other = head[name] if name in head else backbone[name]
            value.copy_((1 - alpha) * other + alpha * value)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("alphas", [(0.25, 0.5, 0.75), (0.9, 0.1)])
def test_the_mixture_that_is_best_on_validation_is_predicted_by(
    ends: Ends,
    tmp_path: Path,
    make_dataset: Callable[..., Any],
    record: Provenance,
    alphas: tuple[float, ...],
) -> None:
    target = make_dataset(tmp_path / "target", classes=CLASSES, parts=(4, 20, 20))
    telling(ends, target, record)
    interpolate(*target.paths, ends, tmp_path / "floor", settings_of(*alphas), record)
    rows = {part: np.flatnonzero(target.split == part) for part in ("validation", "test")}
    scores = {
        (alpha, part): float(
            (logits_of(by_hand(ends, alpha), target, some)[0].argmax(1) == target.labels[some]).mean()
        )
        for alpha in (0.0, *alphas, 1.0)
        for part, some in rows.items()
    }
    assert choices_of(tmp_path / "floor") == pytest.approx(scores)
    assert len({scores[alpha, "validation"] for alpha in (0.0, *alphas, 1.0)}) > 2
    best = max(alphas, key=lambda alpha: scores[alpha, "validation"])
    assert chosen_of(tmp_path / "floor") == best
    held_out = np.flatnonzero(target.split != "train")
    logits, features = logits_of(by_hand(ends, best), target, held_out)
    ids, _, found = predictions_of(tmp_path / "floor")
    assert ids == [target.ids[row] for row in held_out]
    np.testing.assert_allclose(found, torch.softmax(torch.from_numpy(logits), 1), atol=1e-5)
    table = read_table("features", tmp_path / "floor" / "features.parquet")
    np.testing.assert_allclose(feature_matrix(table), features, rtol=1e-3, atol=1e-5)


def test_without_validation_the_middle_is_taken(
    ends: Ends, tmp_path: Path, make_dataset: Callable[..., Any], record: Provenance
) -> None:
    target = make_dataset(tmp_path / "target", classes=CLASSES, parts=(4, 0, 6))
    interpolate(*target.paths, ends, tmp_path / "floor", settings_of(0.1, 0.4, 0.7), record)
    assert chosen_of(tmp_path / "floor") == 0.4
    assert {part for _, part in choices_of(tmp_path / "floor")} == {"test"}


def test_the_ends_are_the_models_themselves(ends: Ends) -> None:
    model = load_backbone(ends.model).state_dict()
    start = {name: value + 1 if value.is_floating_point() else value + 7 for name, value in model.items()}
    for alpha, end in ((0.0, start), (1.0, model)):
        found = mixed(start, model, alpha)
        assert found.keys() == model.keys()
        for name, value in found.items():
            expected = end if value.is_floating_point() else model
            assert torch.equal(value, expected[name]), name
    assert any(name.endswith("running_var") for name in model)
    assert any(not value.is_floating_point() for value in model.values())


def test_what_does_not_fit_is_named(
    ends: Ends, tmp_path: Path, make_dataset: Callable[..., Any], record: Provenance
) -> None:
    target = make_dataset(tmp_path / "target", classes=CLASSES)
    save_file({"weight": np.zeros((2, 6), np.float32), "bias": np.zeros(2, np.float32)}, ends.head)
    with pytest.raises(PipelineError, match=r"head\.safetensors: not of the form of .*m\.safetensors"):
        interpolate(*target.paths, ends, tmp_path / "floor", settings_of(0.5), record)


def test_records_name_what_was_mixed(
    ends: Ends, tmp_path: Path, make_dataset: Callable[..., Any], record: Provenance
) -> None:
    target = make_dataset(tmp_path / "target", classes=CLASSES)
    interpolate(*target.paths, ends, tmp_path / "floor", settings_of(0.5), record)
    for name in ("choices", "predictions", "features"):
        metadata = read_table(name, tmp_path / "floor" / f"{name}.parquet").schema.metadata
        assert json.loads(metadata[b"graftune"])["settings"] == {"made": "here"}
