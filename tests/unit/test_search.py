"""Ranking the trials of a search, in full and by successive halving."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.search import Halving, Rung, Search
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.search.choose import choose
from pipeline.tables import read_table, write_table

TRIALS = [{"trial": name, "values": {"rate": number}} for number, name in enumerate("abcdef")]
FULL = {"metric": "top1", "trials": TRIALS, "keep": 1, "rung": None, "share": 1.0}


@pytest.fixture
def predicted(tmp_path: Path, record: Provenance) -> Callable[..., Path]:
    """A function that writes predictions of ten images, so many of them right."""

    def write(name: str, right: int, images: int = 10) -> Path:
        columns = {
            "sample_id": [str(image) for image in range(images)],
            "split": ["validation"] * images,
            "label": [0] * images,
            "prediction": [int(image >= right) for image in range(images)],
            "probabilities": np.full((images, 2), 0.5, np.float32),
        }
        write_table("predictions", tmp_path / f"{name}.parquet", columns, record)
        return tmp_path / f"{name}.parquet"

    return write


@pytest.fixture
def ranked(
    tmp_path: Path, record: Provenance, predicted: Callable[..., Path]
) -> Callable[..., list[dict[str, Any]]]:
    """A function that ranks trials by how many of ten images each has right."""

    def rank(output: str, right: list[int], before: str = "", **changes: Any) -> list[dict[str, Any]]:
        paths = [predicted(f"{output}{number}", count) for number, count in enumerate(right)]
        earlier = tmp_path / before if before else None
        choose(paths, tmp_path / output, FULL | changes, record, earlier)
        return read_table("search", tmp_path / output).to_pylist()

    return rank


def test_the_best_is_chosen_and_of_equals_the_first(ranked: Callable[..., list[dict[str, Any]]]) -> None:
    rows = ranked("search.parquet", [3, 9, 1, 9, 0, 5])
    assert [row["trial"] for row in rows] == ["b", "d", "f", "a", "c", "e"]
    assert [row["value"] for row in rows] == [0.9, 0.9, 0.5, 0.3, 0.1, 0.0]
    assert [row["chosen"] for row in rows] == [True] + 5 * [False]
    assert {(row["rung"], row["share"], row["images"]) for row in rows} == {(None, 1.0, 10)}


def test_rungs_halve_and_the_last_table_holds_all(ranked: Callable[..., list[dict[str, Any]]]) -> None:
    first = ranked("rung0.parquet", [3, 9, 1, 8, 0, 5], keep=3, rung=0, share=0.25)
    assert [row["trial"] for row in first if row["chosen"]] == ["b", "d", "f"]
    # Of b, d and f in the order of the grid; d is now the best, and b worse than what stopped before.
    rows = ranked("search.parquet", [2, 7, 4], before="rung0.parquet", rung=1, share=0.5)
    assert [(row["trial"], row["value"], row["rung"], row["share"]) for row in rows] == [
        ("d", 0.7, 1, 0.5),
        ("f", 0.4, 1, 0.5),
        ("b", 0.2, 1, 0.5),
        ("a", 0.3, 0, 0.25),
        ("c", 0.1, 0, 0.25),
        ("e", 0.0, 0, 0.25),
    ]
    assert [row["chosen"] for row in rows] == [True] + 5 * [False]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_trials_that_cannot_be_compared(
    tmp_path: Path, record: Provenance, predicted: Callable[..., Path]
) -> None:
    paths = [predicted(name, 5) for name in "abcdef"]
    with pytest.raises(PipelineError, match="found predictions of 5 trials; expected 6"):
        choose(paths[:5], tmp_path / "search.parquet", FULL, record)
    with pytest.raises(PipelineError, match=r"g\.parquet: of other images than .*a\.parquet"):
        choose([*paths[:5], predicted("g", 5, images=9)], tmp_path / "search.parquet", FULL, record)
    with pytest.raises(PipelineError, match=r"a\.parquet: no validation image to judge a trial by"):
        choose([predicted("a", 0, images=0), *paths[1:]], tmp_path / "search.parquet", FULL, record)


@pytest.mark.parametrize(
    ("trials", "factor", "first", "expected"),
    [
        (9, 3, 1 / 9, [(9, 1 / 9), (3, 1 / 3)]),
        (36, 3, 0.1, [(36, 0.1), (12, 0.3), (4, 0.9)]),
        (36, 2, 0.3, [(36, 0.3), (18, 0.6), (9, 1.0)]),
        (1, 2, 0.5, [(1, 0.5)]),
    ],
)
def test_rungs_go_on_until_one_is_left_or_the_budget_is_used_up(
    trials: int, factor: int, first: float, expected: list[tuple[int, float]]
) -> None:
    rungs = Halving(factor=factor, first=first).rungs(trials)
    assert [rung.trials for rung in rungs] == [count for count, _ in expected]
    assert [rung.share for rung in rungs] == pytest.approx([share for _, share in expected])


def test_a_search_without_halving_has_no_rungs() -> None:
    grid = {"grid": {"threads": [1, 2], "batch_size": [8, 16]}}
    assert Search(**grid).rungs() == []
    assert Search(**grid, halving={"first": 0.5, "factor": 2}).rungs() == [Rung(4, 0.5), Rung(2, 1.0)]
