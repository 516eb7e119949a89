"""Metrics of a run, and the comparison of runs."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)

from pipeline.comparison.compare import Outputs as ComparisonOutputs
from pipeline.comparison.compare import compare
from pipeline.comparison.differences import paired_difference
from pipeline.errors import PipelineError
from pipeline.evaluation import feature_space
from pipeline.evaluation.catalogue import METRICS
from pipeline.evaluation.classification import calibration_error
from pipeline.evaluation.feature_space import spreads
from pipeline.evaluation.metrics import Outputs, evaluate
from pipeline.provenance import Provenance, code_digest
from pipeline.s_dbw import s_dbw, s_dbw_of_tong
from pipeline.tables import read_table, write_table

RUN = {"backbone": "small", "target": "birds", "selection": "uot", "recipe": "plain", "seed": 3}
NAMES = ["cat", "dog", "owl", "hen", "bus", "jar", "cup", "pin"]
Found = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation wrote: metrics by split and name, and the rows of the other tables."""

    metrics: Found
    per_class: list[dict[str, Any]]
    confusion: list[dict[str, Any]]


@pytest.fixture
def evaluated(tmp_path: Path, record: Provenance) -> Callable[..., Evaluated]:
    """A function that evaluates predictions."""
    return partial(evaluate_all, tmp_path, record)


@pytest.fixture
def metrics(evaluated: Callable[..., Evaluated]) -> Callable[..., Found]:
    """A function that gives the metrics of predictions that only need those, by split and metric."""
    return lambda *given: {key: value for key, value in evaluated(*given).metrics.items() if key[1] in PLAIN}


PLAIN = ("top1", "top5", "mean_per_class", "negative_log_likelihood", "images")


def evaluate_all(
    folder: Path,
    record: Provenance,
    labels: Any,
    probabilities: Any,
    split: list[str] | None = None,
    features: Any = None,
    others: int = 0,
) -> Evaluated:
    """Evaluate predictions whose features stand in reverse order, after some of other images."""
    probabilities = np.asarray(probabilities, np.float32)
    ids, split = [str(row) for row in range(len(labels))], split or ["test"] * len(labels)
    columns = {
        "sample_id": ids,
        "split": split,
        "label": list(labels),
        "prediction": probabilities.argmax(1).tolist() if len(labels) else [],
        "probabilities": probabilities,
    }
    write_table("predictions", folder / "predictions.parquet", columns, record)
    vectors = np.random.default_rng(0).random((len(labels), 3)) if features is None else np.asarray(features)
    columns = {
        "sample_id": [f"other {row}" for row in range(others)] + ids[::-1],
        "split": ["train"] * others + split[::-1],
        "label": [0] * others + list(labels)[::-1],
        "feature": np.concatenate([np.full((others, vectors.shape[1]), 1e6), vectors[::-1]]),
    }
    write_table("features", folder / "features.parquet", columns, record)
    manifest: dict[str, list[Any]] = {
        name: [] for name in ("sample_id", "image", "split", "label", "class_name", "width", "height")
    }
    extra = {"class_names": json.dumps(NAMES)}
    write_table("manifest", folder / "manifest.parquet", manifest, record, extra)
    inputs = [folder / f"{name}.parquet" for name in ("predictions", "features", "manifest")]
    outputs = Outputs(*(folder / f"{name}.parquet" for name in Outputs._fields))
    evaluate(*inputs, outputs, {"run": RUN}, record)
    rows = {name: read_table(name, folder / f"{name}.parquet").to_pylist() for name in Outputs._fields}
    assert all({key: row[key] for key in RUN} == RUN for row in rows["metrics"])
    found = {(row["split"], row["metric"]): row["value"] for row in rows["metrics"]}
    assert np.isfinite(list(found.values())).all()
    return Evaluated(found, rows["per_class"], rows["confusion"])


def test_metrics_by_hand(metrics: Callable[..., Any]) -> None:
    """Class 0: two of three right; class 1: none of one."""
    found = metrics([0, 0, 0, 1], [[0.5, 0.25, 0.25], [0.6, 0.2, 0.2], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
    assert found == {
        ("test", "top1"): 0.5,
        ("test", "mean_per_class"): pytest.approx(1 / 3),
        ("test", "negative_log_likelihood"): pytest.approx(
            -(np.log(0.5) + np.log(0.6) + 2 * np.log(0.2)) / 4, rel=1e-6
        ),
        ("test", "images"): 4.0,
    }


def test_the_catalogue_has_every_metric(evaluated: Callable[..., Evaluated]) -> None:
    found = evaluated(range(6), np.eye(6)[[0, 1, 2, 3, 4, 4]], None, np.eye(6))
    many = evaluated([0, 0, 1, 1], np.eye(2)[[0, 0, 1, 0]])
    assert {metric for _, metric in {*found.metrics, *many.metrics}} - {"images"} == METRICS.keys()


def test_metrics_of_each_part(metrics: Callable[..., Any]) -> None:
    split = ["validation", "test", "validation", "test", "test"]
    found = metrics([0, 1, 1, 1, 0], [[0.9, 0.1]] * 3 + [[0.2, 0.8]] * 2, split)
    assert found["validation", "top1"] == 0.5
    assert found["test", "top1"] == pytest.approx(1 / 3)
    assert (found["validation", "images"], found["test", "images"]) == (2, 3)


def test_certain_and_wrong_is_not_infinite(metrics: Callable[..., Any]) -> None:
    found = metrics([0], [[0.0, 1.0]])
    assert found["test", "negative_log_likelihood"] == pytest.approx(-np.log(np.finfo(np.float32).tiny))


@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=50), seed=st.integers(0, 99))
@settings(max_examples=25)
@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:A single label was found")
def test_metrics_equal_scikit_learn(
    labels: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory, record: Provenance
) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (len(labels), 7))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = evaluate_all(tmp_path_factory.mktemp("metrics"), record, labels, probabilities).metrics
    predictions = probabilities.astype(np.float32).argmax(1)
    assert found["test", "top1"] == pytest.approx(accuracy_score(labels, predictions))
    assert found["test", "mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, predictions))
    expected = log_loss(labels, probabilities, labels=range(7))
    assert found["test", "negative_log_likelihood"] == pytest.approx(expected, rel=1e-4)
    expected = top_k_accuracy_score(labels, probabilities.astype(np.float32), k=5, labels=range(7))
    assert found["test", "top5"] == pytest.approx(expected)


def test_top_five_needs_a_sixth_class_and_ranks_ties_as_predictions_do(metrics: Callable[..., Any]) -> None:
    assert ("test", "top5") not in metrics([0, 4], np.eye(5)[[0, 4]])
    # All but one are equally improbable: 0, 1, 2 and 3 come after 6, and 4 and 5 after those.
    assert metrics(range(7), np.eye(7)[[6] * 7])["test", "top5"] == pytest.approx(5 / 7)


def test_calibration_error_by_loops() -> None:
    random = np.random.default_rng(0)
    confidence = np.concatenate([random.random(500), [0.0, 1.0, 0.2, 0.4]]).astype(np.float32)
    hits = random.random(504) < confidence**2
    error = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [
            row
            for row, value in enumerate(confidence.tolist())
            if low < value <= high or (value == 0 and number == 0)
        ]
        if inside:
            apart = np.mean(hits[inside]) - np.mean(confidence[inside].astype(float))
            error += len(inside) / 504 * abs(apart)
    assert calibration_error(hits, confidence) == pytest.approx(error)
    assert calibration_error(np.array([True, False] * 3), np.full(6, 0.5)) == 0


# Features


def test_features_are_found_by_sample_and_measured_by_true_label(evaluated: Callable[..., Evaluated]) -> None:
    random = np.random.default_rng(1)
    labels = np.repeat([0, 2, 5], 12)
    features = (random.normal(size=(6, 4))[labels] + random.normal(0, 0.5, (36, 4))).astype(np.float32)
    found = evaluated(labels, random.random((36, 8)), None, features, 5).metrics
    of_2001, of_coin = s_dbw(features, labels), s_dbw_of_tong(features, labels)
    assert found["test", "s_dbw"] == pytest.approx(of_2001.value)
    assert found["test", "scat"] == pytest.approx(of_2001.scat)
    assert found["test", "dens_bw"] == pytest.approx(of_2001.dens_bw)
    assert found["test", "s_dbw_coin"] == pytest.approx(of_coin.value)
    assert (found["test", "intra_class_spread"], found["test", "inter_class_spread"]) == pytest.approx(
        spreads(features, labels)
    )


def test_spreads_by_loops_add_up_to_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_space, "ROWS", 7)
    random = np.random.default_rng(2)
    labels = np.array([3] * 5 + [0] * 20 + [7])
    features = random.normal(1, 1, (26, 3)) * random.uniform(0.1, 100, (26, 1))
    features[3] = 0
    unit = [row / np.linalg.norm(row) if row.any() else row for row in features]
    means = {
        label: np.mean([u for u, y in zip(unit, labels, strict=True) if y == label], 0) for label in labels
    }
    within = np.mean([((u - means[y]) ** 2).sum() for u, y in zip(unit, labels, strict=True)])
    between = np.mean([((means[y] - np.mean(unit, 0)) ** 2).sum() for y in labels])
    assert spreads(features, labels) == pytest.approx((within, between))
    assert within + between == pytest.approx(np.mean([((u - np.mean(unit, 0)) ** 2).sum() for u in unit]))


def test_without_an_index_the_reason_is_logged(
    evaluated: Callable[..., Evaluated], caplog: pytest.LogCaptureFixture
) -> None:
    split = ["test", "test", "validation"]
    found = evaluated([0, 1, 1], np.eye(8)[[0, 1, 1]], split, np.eye(3)).metrics
    assert ("test", "s_dbw") in found
    assert ("validation", "s_dbw") not in found
    assert found["validation", "intra_class_spread"] == 0
    assert "validation part: no S_Dbw, since there are fewer than two classes" in caplog.text


def test_pairs_of_classes_without_any_density_are_logged(
    evaluated: Callable[..., Evaluated], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    labels = np.repeat(np.arange(4), 9)
    features = np.random.default_rng(0).normal(size=(36, 64))
    found = evaluated(labels, np.eye(8)[labels], None, features).metrics
    assert found["test", "dens_bw"] == 0
    assert "of 6 pairs of classes 6 have no feature near either mean" in caplog.text


# Classes


def test_classes_by_hand(evaluated: Callable[..., Evaluated]) -> None:
    labels, said = [2, 2, 2, 2, 2, 0, 5, 5], [2, 0, 0, 1, 1, 0, 7, 5]
    split = ["test"] * 6 + ["validation"] * 2
    found = evaluated(labels, np.eye(8)[said], split)
    confused = {"confused_label": None, "confused_with": None, "confused_images": 0}
    owl = {"confused_label": 0, "confused_with": "cat", "confused_images": 2}
    jar = {"confused_label": 7, "confused_with": "pin", "confused_images": 1}
    assert found.per_class == [
        {"split": "test", "label": 0, "class_name": "cat", "images": 1, "accuracy": 1.0, **confused},
        {"split": "test", "label": 2, "class_name": "owl", "images": 5, "accuracy": 0.2, **owl},
        {"split": "validation", "label": 5, "class_name": "jar", "images": 2, "accuracy": 0.5, **jar},
    ]
    assert [tuple(row.values()) for row in found.confusion] == [
        ("test", 0, 0, 1),
        ("test", 2, 0, 2),
        ("test", 2, 1, 2),
        ("test", 2, 2, 1),
        ("validation", 5, 5, 1),
        ("validation", 5, 7, 1),
    ]


def test_confusion_equals_scikit_learn(evaluated: Callable[..., Evaluated]) -> None:
    random = np.random.default_rng(0)
    labels, said = random.integers(0, 8, (2, 200))
    found = evaluated(labels, np.eye(8)[said])
    dense = np.zeros((8, 8), int)
    for row in found.confusion:
        dense[row["label"], row["prediction"]] = row["images"]
    assert (dense == confusion_matrix(labels, said)).all()
    recall = recall_score(labels, said, average=None)
    assert [row["accuracy"] for row in found.per_class] == pytest.approx(recall)
    assert np.mean(recall) == pytest.approx(found.metrics["test", "mean_per_class"])


# Bad input


def test_nothing_to_evaluate(metrics: Callable[..., Any]) -> None:
    with pytest.raises(PipelineError, match=r"predictions\.parquet: no validation or test image to evaluate"):
        metrics([], np.empty((0, 3)))


def test_features_of_other_images_and_those_that_are_no_numbers(
    evaluated: Callable[..., Evaluated], tmp_path: Path, record: Provenance
) -> None:
    with pytest.raises(PipelineError, match=r"features\.parquet: the features of 1 images are not finite"):
        evaluated([0, 1], np.eye(8)[:2], None, [[1.0, 2.0], [np.nan, 0.0]])
    columns = {"sample_id": ["0"], "split": ["test"], "label": [0], "feature": np.ones((1, 2))}
    write_table("features", tmp_path / "features.parquet", columns, record)
    inputs = [tmp_path / f"{name}.parquet" for name in ("predictions", "features", "manifest")]
    outputs = Outputs(*(tmp_path / f"{name}.parquet" for name in Outputs._fields))
    with pytest.raises(PipelineError, match="1 predicted images have no feature here, sample '1' first"):
        evaluate(*inputs, outputs, {"run": RUN}, record)


def test_the_command_evaluates_within_its_code_and_without_torch(
    evaluated: Callable[..., Evaluated], tmp_path: Path
) -> None:
    found = evaluated([0, 1, 2], np.eye(8)[[0, 1, 1]])
    paths = [str(tmp_path / f"{name}.parquet") for name in ("predictions", "features", "manifest")]
    outputs = [str(tmp_path / "again" / f"{name}.parquet") for name in Outputs._fields]
    command = [sys.executable, "-X", "importtime", "-m", "pipeline.evaluation", *paths, *outputs]
    command += ["--settings", json.dumps({"run": RUN}), "--code", str(code_digest("pipeline.evaluation"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "pipeline.s_dbw" in imported
    assert not {"torch", "sklearn", "scipy"} & imported
    assert read_table("per_class", Path(outputs[1])).to_pylist() == found.per_class


# Comparison


def write_metrics(folder: Path, record: Provenance, rows: list[dict[str, Any]]) -> list[Path]:
    """One table a row, as runs write them."""
    paths = []
    for number, row in enumerate(rows):
        paths.append(folder / f"run{number}.parquet")
        columns = {
            name: [value] for name, value in ({**RUN, "split": "test", "metric": "top1"} | row).items()
        }
        write_table("metrics", paths[-1], columns, record)
    return paths


@pytest.fixture
def compared(tmp_path: Path, record: Provenance) -> Callable[..., tuple[list[dict[str, Any]], str]]:
    """A function that compares runs and gives the comparison's rows and text."""

    def run(
        rows: list[dict[str, Any]],
        *baselines: str,
        floors: Sequence[dict[str, Any]] = (),
        **main_metric: str,
    ) -> tuple[list[dict[str, Any]], str]:
        names = ("all.parquet", "floors.parquet", "table.parquet", "table.txt")
        outputs = ComparisonOutputs(*(tmp_path / name for name in names))
        paths = write_metrics(tmp_path / "runs", record, rows)
        beside = write_metrics(tmp_path / "floors", record, list(floors))
        compare(paths, beside, outputs, main_metric or {"birds": "top1"}, record, baselines)
        for path, wanted in ((outputs.metrics, rows), (outputs.floors, floors)):
            joined = read_table("metrics", path).to_pylist()
            assert [row["value"] for row in joined] == [row["value"] for row in wanted]
        return (
            read_table("comparison", outputs.comparison).to_pylist(),
            outputs.text.read_text(encoding="utf-8"),
        )

    return run


THREE_SEEDS = [
    {"seed": 0, "value": 0.55},
    {"seed": 1, "value": 0.60},
    {"seed": 2, "value": 0.65},
    {"seed": 0, "value": 0.80, "split": "validation"},
    {"seed": 1, "value": 0.90, "split": "validation"},
    {"seed": 2, "value": 0.85, "split": "validation"},
    {"seed": 0, "value": 2.0, "metric": "negative_log_likelihood"},
]


def test_comparison_over_seeds(compared: Callable[..., Any]) -> None:
    rows, text = compared([*THREE_SEEDS, {"seed": 0, "value": 0.40, "recipe": "reuse"}])
    found = {(row["recipe"], row["split"], row["metric"]): row for row in rows}
    plain = found["plain", "test", "top1"]
    assert (plain["mean"], plain["seeds"]) == (pytest.approx(0.6), 3)
    assert plain["standard_deviation"] == pytest.approx(0.05)  # of a sample: over n - 1
    assert found["plain", "validation", "top1"]["standard_deviation"] == pytest.approx(0.05)
    reuse = found["reuse", "test", "top1"]
    assert (reuse["mean"], reuse["standard_deviation"], reuse["seeds"]) == (0.4, None, 1)
    assert len(rows) == 4
    title, rule, header, *lines = text.splitlines()
    assert title == "birds by small: top1 in %, mean ± standard deviation over seeds"
    assert rule == "-" * len(title)
    assert header.split() == ["recipe", "selection", "validation", "test", "seeds"]
    assert [line.split() for line in lines] == [
        ["plain", "uot", "85.0", "±", "5.0", "60.0", "±", "5.0", "3"],
        ["reuse", "uot", "40.0", "1"],
    ]
    # Columns stand below each other.
    assert {
        line.index(number) + len(number) for line, number in zip(lines, ("60.0", "40.0"), strict=True)
    } == {header.index("test") + len("test") - len(" ± 5.0")}


def test_comparison_is_measured_against_a_baseline_seed_by_seed(compared: Callable[..., Any]) -> None:
    """The differences are 10, 5 and 15 points: their spread is 5, however far apart the seeds are."""
    reuse = [
        {"seed": seed, "value": value, "recipe": "reuse"} for seed, value in [(2, 0.8), (0, 0.65), (1, 0.65)]
    ]
    _, text = compared([*THREE_SEEDS, *reuse], "scratch", "plain", "reuse")
    title, _, header, *lines = text.splitlines()
    assert title == "birds by small: top1 in %, mean ± standard deviation over 3 seeds"
    assert header.split("  ")[-1].strip() == "test - plain"
    # The best comes first.
    assert [line.split() for line in lines] == [
        ["reuse", "uot", "70.0", "±", "8.7", "+10.0", "±", "5.0"],
        ["plain", "uot", "85.0", "±", "5.0", "60.0", "±", "5.0"],
    ]


def test_floors_stand_below_and_are_compared_with_nothing(compared: Callable[..., Any]) -> None:
    probe = {"recipe": "linear probe", "selection": "none", "seed": 0}
    floors = [
        {**probe, "value": 0.5},
        {**probe, "recipe": "k-nearest neighbours", "value": 0.7},
        {**probe, "recipe": "k-nearest neighbours", "value": 0.6, "split": "validation"},
        *({**probe, "recipe": "plain, interpolated", "seed": s, "value": 0.5 + s / 100} for s in range(3)),
        {**probe, "value": 0.99, "target": "pets"},
    ]
    more = [{"seed": seed, "value": 0.8, "recipe": "reuse"} for seed in range(3)]
    rows, text = compared([*THREE_SEEDS, *more], "plain", floors=floors, pets="top1", birds="top1")
    assert {row["recipe"] for row in rows} == {"plain", "reuse"}
    assert [re.split("  +", line) for line in text.splitlines()[3:]] == [
        ["reuse", "uot", "80.0 ± 0.0", "+20.0 ± 5.0"],
        ["plain", "uot", "85.0 ± 5.0", "60.0 ± 5.0"],
        ["floor: k-nearest neighbours", "60.0", "70.0"],
        ["floor: plain, interpolated", "51.0 ± 1.0"],
        ["floor: linear probe", "50.0"],
    ]


def test_comparison_by_one_seed_shows_no_spread(compared: Callable[..., Any]) -> None:
    _, text = compared([{"value": 0.5}, {"value": 0.625, "recipe": "reuse"}], "plain")
    assert text.splitlines() == [
        "birds by small: top1 in %, one seed",
        "-" * 37,
        "recipe  selection  test  test - plain",
        "reuse   uot        62.5         +12.5",
        "plain   uot        50.0",
    ]


def test_comparison_shows_the_metric_of_each_target(compared: Callable[..., Any]) -> None:
    both = [
        {"target": target, "metric": metric, "value": value}
        for target in ("birds", "pets")
        for metric, value in (("top1", 0.25), ("mean_per_class", 0.75))
    ]
    _, text = compared(both, birds="top1", pets="mean_per_class")
    birds, pets = text.split("\n\n")
    assert birds.splitlines()[0] == "birds by small: top1 in %, one seed"
    assert birds.splitlines()[3].split() == ["plain", "uot", "25.0"]
    assert pets.splitlines()[0] == "pets by small: mean_per_class in %, one seed"
    assert pets.splitlines()[3].split() == ["plain", "uot", "75.0"]


def test_comparison_table_keeps_the_order_of_runs_and_the_text_ranks(compared: Callable[..., Any]) -> None:
    values = {"scratch": 0.1, "plain": 0.3, "coin": 0.2, "a": 0.3}
    rows, text = compared([{"recipe": name, "value": value} for name, value in values.items()])
    assert [row["recipe"] for row in rows] == list(values)
    assert [line.split()[0] for line in text.splitlines()[3:]] == ["plain", "a", "coin", "scratch"]


# Differences


@given(
    pairs=st.dictionaries(
        st.integers(0, 20), st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8
    )
)
@settings(max_examples=50)
def test_interval_equals_the_paired_t_test(pairs: dict[int, tuple[float, float]]) -> None:
    first, second = ({seed: pair[side] for seed, pair in pairs.items()} for side in (0, 1))
    found = paired_difference(first, second)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(list(first.values())) - np.mean(list(second.values())))
    interval = found.interval()
    if found.standard_deviation == 0:
        assert interval == (found.mean, found.mean)
        return
    seeds = sorted(pairs)
    test = stats.ttest_rel([first[seed] for seed in seeds], [second[seed] for seed in seeds])
    assert interval == pytest.approx(tuple(test.confidence_interval(0.95)), rel=1e-6, abs=1e-9)


def test_difference_takes_shared_seeds_only() -> None:
    found = paired_difference({0: 0.5, 1: 0.75, 7: 0.1}, {1: 0.5, 3: 0.9, 0: 0.5})
    assert found is not None
    assert found.values == (0.0, 0.25)
    single = paired_difference({0: 0.5}, {0: 0.25})
    assert single is not None
    assert (single.mean, single.standard_deviation, single.interval()) == (0.25, None, None)
    assert paired_difference({0: 0.5}, {1: 0.5}) is None
