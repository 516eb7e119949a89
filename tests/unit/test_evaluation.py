"""Metrics of a run, and the comparison of runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from pipeline.comparison.compare import compare
from pipeline.comparison.differences import paired_difference
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import evaluate
from pipeline.provenance import Provenance
from pipeline.tables import read_table, write_table

RUN = {"backbone": "small", "target": "birds", "selection": "uot", "recipe": "plain", "seed": 3}


@pytest.fixture
def metrics(tmp_path: Path, record: Provenance) -> Callable[..., dict[tuple[str, str], float]]:
    """A function that gives the metrics of predictions by split and metric."""

    def run(labels: Any, probabilities: Any, split: list[str] | None = None) -> dict[tuple[str, str], float]:
        return metrics_of(tmp_path, record, labels, probabilities, split)

    return run


def metrics_of(
    folder: Path, record: Provenance, labels: Any, probabilities: Any, split: list[str] | None = None
) -> dict[tuple[str, str], float]:
    probabilities = np.asarray(probabilities, np.float32)
    columns = {
        "sample_id": [str(row) for row in range(len(labels))],
        "split": split or ["test"] * len(labels),
        "label": list(labels),
        "prediction": probabilities.argmax(1).tolist() if len(labels) else [],
        "probabilities": probabilities,
    }
    write_table("predictions", folder / "predictions.parquet", columns, record)
    evaluate(folder / "predictions.parquet", folder / "metrics.parquet", {"run": RUN}, record)
    rows = read_table("metrics", folder / "metrics.parquet").to_pylist()
    assert all({key: row[key] for key in RUN} == RUN for row in rows)
    return {(row["split"], row["metric"]): row["value"] for row in rows}


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


def test_metrics_of_each_part(metrics: Callable[..., Any]) -> None:
    split = ["validation", "test", "validation", "test", "test"]
    found = metrics([0, 1, 1, 1, 0], [[0.9, 0.1]] * 3 + [[0.2, 0.8]] * 2, split)
    assert found["validation", "top1"] == 0.5
    assert found["test", "top1"] == pytest.approx(1 / 3)
    assert (found["validation", "images"], found["test", "images"]) == (2, 3)


def test_certain_and_wrong_is_not_infinite(metrics: Callable[..., Any]) -> None:
    found = metrics([0], [[0.0, 1.0]])
    assert found["test", "negative_log_likelihood"] == pytest.approx(-np.log(np.finfo(np.float32).tiny))


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=50), seed=st.integers(0, 99))
@settings(max_examples=25)
@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:A single label was found")
def test_metrics_equal_scikit_learn(
    labels: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory, record: Provenance
) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (len(labels), 5))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = metrics_of(tmp_path_factory.mktemp("metrics"), record, labels, probabilities)
    predictions = probabilities.astype(np.float32).argmax(1)
    assert found["test", "top1"] == pytest.approx(accuracy_score(labels, predictions))
    assert found["test", "mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, predictions))
    expected = log_loss(labels, probabilities, labels=range(5))
    assert found["test", "negative_log_likelihood"] == pytest.approx(expected, rel=1e-4)


def test_nothing_to_evaluate(metrics: Callable[..., Any]) -> None:
    with pytest.raises(PipelineError, match=r"predictions\.parquet: no validation or test image to evaluate"):
        metrics([], np.empty((0, 3)))


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
        rows: list[dict[str, Any]], *baselines: str, **main_metric: str
    ) -> tuple[list[dict[str, Any]], str]:
        every, table, text = (tmp_path / name for name in ("all.parquet", "table.parquet", "table.txt"))
        paths = write_metrics(tmp_path, record, rows)
        compare(paths, every, table, text, main_metric or {"birds": "top1"}, record, baselines)
        joined = read_table("metrics", every).to_pylist()
        assert [row["value"] for row in joined] == [row["value"] for row in rows]
        return read_table("comparison", table).to_pylist(), text.read_text(encoding="utf-8")

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
