"""Selection: the ranking of the source's units, and what it refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, read_provenance
from pipeline.selection import distances as distances_module
from pipeline.selection import greedy_ot, nearest, transport, uot
from pipeline.selection.distances import Distances, blocks
from pipeline.selection.select import select
from pipeline.selection.transport import solve
from pipeline.selection.units import Units, read_units
from pipeline.tables import read_table, read_table_metadata, table_writer, write_table

BEST = {"order": "best", "skip": 0}
UOT = {
    "method": "uot",
    "distance": "cosine",
    "masses": "unit",
    "epsilon": 1.0,
    "tau1": 1.0,
    "tau2": 100.0,
    "epsilon_c": 0.01,
    "tolerance": 1e-10,
    "iterations": 100_000,
}
RANDOM = {"method": "random", "seed": 0}
NEAREST = {"method": "nearest", "distance": "cosine"}
GREEDY = {"method": "greedy_ot", "distance": "l2"}
METHODS = {"uot": UOT, "random": RANDOM, "nearest": NEAREST, "greedy_ot": GREEDY}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def write_units(path: Path, means: Any, record: Provenance, **columns: Any) -> Path:
    """A units table with numbers of its own."""
    count = len(means)
    table = {
        "unit_id": [10 * number for number in range(count)],
        "name": [f"unit {number}" for number in range(count)],
        "images": [5] * count,
        "mean": np.asarray(means, np.float32),
    }
    write_table("units", path, table | columns, record)
    return path


def of_means(means: np.ndarray, images: Any = None) -> Units:
    """Units with these means, of one image each by default."""
    count = len(means)
    images = np.ones(count, np.int64) if images is None else np.asarray(images)
    names = pa.chunked_array([[f"unit {number}" for number in range(count)]])
    return Units(Path("units.parquet"), np.arange(count, dtype=np.int32), names, images, means)


@pytest.fixture
def selected(tmp_path: Path, record: Provenance) -> Callable[..., list[dict[str, Any]]]:
    """A function that selects and gives the table's rows; `source_columns` change the source's."""

    def run(
        source: Any, target: Any, source_columns: Any = None, target_columns: Any = None, **values: Any
    ) -> list[dict[str, Any]]:
        output = tmp_path / "selection.parquet"
        units = [
            write_units(tmp_path / f"{name}.parquet", means, record, **(columns or {}))
            for name, means, columns in (("s", source, source_columns), ("t", target, target_columns))
        ]
        select(units[0], units[1], output, BEST | {"count": 2} | values, record)
        assert read_provenance(output) == record
        return read_table("selection", output).to_pylist()

    return run


# Ranking


@pytest.mark.parametrize("method", [UOT, NEAREST, GREEDY | {"distance": "cosine"}])
def test_nearest_units_come_first(selected: Callable[..., Any], method: dict[str, Any]) -> None:
    """Directions at 0, 90, 30 and 60 degrees from the target's only class."""
    angles = np.radians([0, 90, 30, 60])
    source = np.stack([np.cos(angles), np.sin(angles)], 1) * [[3], [1], [0.5], [2]]
    rows = selected(source, [[2.0, 0.0]], count=3, **method)
    assert [row["name"] for row in rows] == ["unit 0", "unit 2", "unit 3", "unit 1"]
    assert [row["unit_id"] for row in rows] == [0, 20, 30, 10]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert [row["selected"] for row in rows] == [True, True, True, False]
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_local_and_mean_distance_by_hand(selected: Callable[..., Any]) -> None:
    """One unit beside one of two classes, one unit between them."""
    source, target = [[0.0, 1.0], [3.0, 0.0]], [[0.0, 0.0], [6.0, 0.0]]
    rows = selected(source, target, **NEAREST | {"distance": "l2"})
    assert [(row["name"], row["score"]) for row in rows] == [("unit 0", -1), ("unit 1", -3)]
    rows = selected(source, target, **GREEDY)
    assert [row["name"] for row in rows] == ["unit 1", "unit 0"]
    assert [row["score"] for row in rows] == pytest.approx([-3, -(1 + 37**0.5) / 2], rel=1e-15)


def test_greedy_ot_is_the_earth_movers_distance_of_a_unit_alone() -> None:
    import ot

    random = np.random.default_rng(0)
    source, target = of_means(random.normal(size=(6, 4))), of_means(random.normal(size=(5, 4)))
    cost = cdist(source.means, target.means)
    found = greedy_ot.score(source, target, GREEDY).values
    expected = [-ot.emd2([1.0], np.full(5, 0.2), row[None]) for row in cost]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_every_target_class_is_covered(selected: Callable[..., Any]) -> None:
    """A large tau2 wants mass for each target class: the only unit near the second one is taken."""
    near = [[1, 0.01 * number] for number in range(1, 6)]
    source, target = [*near, [0.5, 1]], [[1.0, 0.0], [0.0, 1.0]]
    assert selected(source, target, count=1, **UOT)[0]["name"] == "unit 5"
    assert selected(source, target, count=1, **NEAREST)[0]["name"] == "unit 0"


def test_order_and_skip_mark_any_part_of_the_ranking(selected: Callable[..., Any]) -> None:
    """Ten units, further and further away: unit n has rank n + 1."""
    source = [[1.0, number] for number in range(10)]

    def names(**values: Any) -> list[str]:
        rows = selected(source, [[1.0, 0.0]], **NEAREST, **values)
        assert [row["rank"] for row in rows] == list(range(1, 11))
        assert [row["name"] for row in rows] == [f"unit {number}" for number in range(10)]
        return [row["name"] for row in rows if row["selected"]]

    assert names(count=2) == ["unit 0", "unit 1"]
    assert names(count=2, skip=3) == ["unit 3", "unit 4"]
    assert names(count=2, order="worst") == ["unit 8", "unit 9"]
    assert names(count=2, order="worst", skip=3) == ["unit 5", "unit 6"]
    deciles = [name for skip in range(10) for name in names(count=1, skip=skip)]
    assert deciles == names(count=10) == names(count=10, order="worst")


@each_method
def test_count_and_skip_above_the_units(selected: Callable[..., Any], method: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match=r"s\.parquet: has 3 units, count is 4$"):
        selected(np.eye(3), np.eye(3), count=4, **method)
    with pytest.raises(PipelineError, match=r"s\.parquet: has 3 units, count is 2 after skip 2$"):
        selected(np.eye(3), np.eye(3), count=2, skip=2, **method)
    assert all(row["selected"] for row in selected(np.eye(3), np.eye(3), count=3, **method))


@pytest.mark.parametrize("method", [UOT, UOT | {"masses": "images"}, NEAREST, GREEDY])
def test_identical_units_rank_by_their_id(selected: Callable[..., Any], method: dict[str, Any]) -> None:
    """Copies of three units in any order: equal to the last bit, whatever their place in the matrix."""
    random = np.random.default_rng(0)
    three, target = random.normal(size=(3, 37)), random.normal(size=(13, 37))
    kind = random.integers(0, 3, 61)
    ids = random.permutation(61).astype(np.int32)
    rows = selected(three[kind], target, {"unit_id": ids}, **method)
    found = [(row["score"], row["unit_id"]) for row in rows]
    assert len({score for score, _ in found}) == 3
    assert found == sorted(found, key=lambda pair: (-pair[0], pair[1]))
    kind_of = dict(zip(ids.tolist(), kind.tolist(), strict=True))
    assert all(len({kind_of[unit] for score, unit in found if score == value}) == 1 for value, _ in found)


def test_random_selection_is_drawn_by_seed(selected: Callable[..., Any]) -> None:
    def order(seed: int, width: int = 2) -> list[str]:
        means = np.ones((30, width))
        rows = selected(means, [[1.0] * width], method="random", seed=seed, count=7)
        assert sum(row["selected"] for row in rows) == 7
        assert all(0 <= row["score"] < 1 for row in rows)
        return [row["name"] for row in rows]

    assert order(0) == order(0) == order(0, width=5)
    assert order(0) != order(1)
    assert sorted(order(2)) == sorted(f"unit {number}" for number in range(30))


def test_random_selection_is_uniform() -> None:
    """Over many seeds each unit is among the first three of ten about equally often."""
    from scipy import stats

    from pipeline.selection.random import score

    units = of_means(np.ones((10, 1)))
    first = [np.argsort(-score(units, units, {"seed": seed}).values)[:3] for seed in range(1000)]
    assert stats.chisquare(np.bincount(np.concatenate(first))).pvalue > 1e-3


# Reading units


@pytest.mark.parametrize("vectors", [1, 3, 100])
def test_units_of_several_row_groups(
    tmp_path: Path, record: Provenance, monkeypatch: pytest.MonkeyPatch, vectors: int
) -> None:
    """Of 4, 1 and 5 rows, in parts of any size; with and without concepts."""
    monkeypatch.setattr("pipeline.tables.io.VECTORS", vectors)
    monkeypatch.setattr("pipeline.selection.units.ROWS", vectors)
    means = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    path = tmp_path / "units.parquet"
    for concepts in (None, ["bird", None] * 5):
        columns = {
            "unit_id": np.arange(10, dtype=np.int32),
            "name": [f"unit {number}" for number in range(10)],
            "images": np.arange(1, 11),
            "mean": means,
        } | ({"concept": concepts} if concepts else {})
        with table_writer("units", path, record) as write:
            for first, last in ((0, 4), (4, 5), (5, 10)):
                write({name: column[first:last] for name, column in columns.items()})
        found = read_units(path)
        assert found.ids.tolist() == list(range(10))
        assert found.names.to_pylist() == columns["name"]
        assert found.images.tolist() == list(range(1, 11))
        assert found.concepts == concepts
        np.testing.assert_array_equal(found.means, means)
        assert found.means.dtype == np.float32
    means[7, 1] = np.nan
    with pytest.raises(
        PipelineError, match=r"1 of 10 units with a mean that is not fin(.|\n)*unit 70, 'unit 7'$"
    ):
        read_units(write_units(path, means, record))


def test_files_that_are_no_units_are_named(tmp_path: Path, record: Provenance) -> None:
    path = write_units(tmp_path / "whole.parquet", np.random.default_rng(0).normal(size=(500, 40)), record)
    content = path.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:-100])
    # The footer is whole, the first page of the means is not.
    (tmp_path / "spoilt.parquet").write_bytes(content[:6000] + bytes(40_000) + content[46_000:])
    for name, message in (
        ("none", "no such units table"),
        ("cut", "not a readable Parquet file"),
        ("spoilt", "cannot be read, perhaps truncated"),
    ):
        with pytest.raises(PipelineError, match=rf"{name}\.parquet: {message}"):
            read_units(tmp_path / f"{name}.parquet")


# Masses and facts


def test_masses_of_units_of_equal_size_are_those_of_the_paper(selected: Callable[..., Any]) -> None:
    random = np.random.default_rng(0)
    source, target = random.normal(size=(7, 4)), random.normal(size=(3, 4))
    plain = selected(source, target, **UOT)
    assert selected(source, target, **UOT | {"masses": "images"}) == plain
    sizes = {"images": [1, 2, 3, 4, 5, 6, 7]}
    assert selected(source, target, sizes, **UOT) == plain
    assert selected(source, target, sizes, **UOT | {"masses": "images"}) != plain


def test_a_unit_of_twice_the_images_is_worth_two_units() -> None:
    """Splitting a unit into equal halves halves what it sends and changes nothing else."""
    random = np.random.default_rng(1)
    means, target = random.normal(size=(5, 4)), of_means(random.normal(size=(3, 4)), [4, 1, 1])
    settings = UOT | {"masses": "images", "epsilon_c": 0.3}
    whole = of_means(means, [8, 2, 2, 2, 6])
    split = of_means(means[[0, 0, 1, 2, 3, 4]], [4, 4, 2, 2, 2, 6])

    def sent(units: Units) -> np.ndarray:
        # In images rather than in units, so that both have the same total.
        masses = (units.images.astype(float), uot.masses(target))
        cost = Distances(units.means, target.means, "cosine", 0.3)
        # The entropy is the one part of Eq. 5 that knows of the number of units: next to none of it.
        return np.exp(solve(cost, 1e-3, 1.0, 100.0, masses=masses).log_mass)

    np.testing.assert_allclose(np.add.reduceat(sent(split), [0, 2, 3, 4, 5]), sent(whole), rtol=2e-3)
    assert uot.masses(whole).tolist() == [2, 0.5, 0.5, 0.5, 1.5]
    halves = uot.score(split, target, settings).values
    assert halves[0] == halves[1]


def test_a_selection_says_how_it_was_come_by(
    selected: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def facts() -> dict[str, Any]:
        return json.loads(read_table_metadata(tmp_path / "selection.parquet").get("facts", "{}"))

    with caplog.at_level("INFO"):
        selected(np.eye(3), np.eye(3), **UOT)
    assert facts()["iterations"] == solve(np.where(np.eye(3), 0.0, 100.0)).iterations
    assert 0.9 < facts()["target_mass_carried"] < 1.1
    assert f"converged in {facts()['iterations']} iterations" in caplog.text
    assert 0 <= facts()["accuracy"] <= UOT["tolerance"]
    assert "warning" not in facts()
    selected(np.eye(3), np.eye(3), **NEAREST)
    assert facts() == {}


def test_a_plan_of_almost_no_mass_advises_against_reuse(
    selected: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = selected([[1.0, 0.0], [1.1, 0.0]], [[1e4, 0.0]], **UOT | {"distance": "l2", "epsilon_c": 1.0})
    assert [row["name"] for row in rows] == ["unit 1", "unit 0"]
    facts = json.loads(read_table_metadata(tmp_path / "selection.parquet")["facts"])
    assert facts["target_mass_carried"] < 1e-20
    assert "reusing any is not advised" in facts["warning"]
    assert facts["warning"].endswith(
        "or epsilon_c 1 is too small for distances of this scale (the median target class is at a cost of "
        "1e+04 from its nearest unit, and epsilon is 1)"
    )
    assert "t.parquet: the plan carries" in caplog.text


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_a_plan_of_almost_no_mass_says_how_far_the_nearest_units_are(
    selected: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """The same units at another epsilon_c: nearest distances 1, 3 and 8, the units of them in any block."""
    monkeypatch.setattr(distances_module, "BLOCK", 3 * rows)
    source, target = [[0.0, 0], [40, 0], [19, 0]], [[1.0, 0], [43, 0], [27, 0]]
    method = UOT | {"distance": "l2", "epsilon": 0.5}

    def warning(epsilon_c: float) -> str:
        selected(source, target, **method | {"epsilon_c": epsilon_c})
        facts = json.loads(read_table_metadata(tmp_path / "selection.parquet")["facts"])
        return str(facts.get("warning", ""))

    assert warning(1.0) == ""
    assert "epsilon_c 0.001 is too small" in warning(1e-3)
    assert "is at a cost of 3e+03 from its nearest unit, and epsilon is 0.5)" in warning(1e-3)


def test_a_plan_less_exact_than_asked_for_says_how_exact(
    selected: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Costs of 1e9: their own rounding is far above the tolerance."""
    random = np.random.default_rng(0)
    source, target = random.normal(size=(20, 5)), random.normal(size=(4, 5))

    def accuracy(epsilon_c: float) -> tuple[float, list[str]]:
        caplog.clear()
        selected(source, target, **UOT | {"epsilon_c": epsilon_c})
        facts = json.loads(read_table_metadata(tmp_path / "selection.parquet")["facts"])
        lines = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
        return facts["accuracy"], [line for line in lines if "accuracy" in line]

    reached, warned = accuracy(1e-9)
    assert 1e-7 < reached < 1e-4
    assert len(warned) == 1
    assert f"t.parquet: UOT reached an accuracy of {reached:.2g} in log P1" in warned[0]
    assert "the tolerance asked for is 1e-10" in warned[0]
    reached, warned = accuracy(1e-3)
    assert reached <= 1e-10
    assert warned == []


# Bad input


@each_method
def test_units_of_other_widths(selected: Callable[..., Any], method: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match=r"means of 3 numbers, .*t\.parquet of 2; were they made by diff"):
        selected(np.eye(3), np.eye(2), **method)


@each_method
def test_units_of_other_backbones(tmp_path: Path, record: Provenance, method: dict[str, Any]) -> None:
    source, target = (
        write_units(tmp_path / f"{side}.parquet", np.eye(3), replace(record, inputs={"backbone": digest}))
        for side, digest in (("s", "a" * 16), ("t", "b" * 16))
    )
    output = tmp_path / "selection.parquet"
    with pytest.raises(PipelineError, match=r"s\.parquet and .*t\.parquet: made by different backbones"):
        select(source, target, output, BEST | method | {"count": 1}, record)
    assert not output.exists()
    select(source, source, output, BEST | method | {"count": 1}, record)
    assert output.exists()


@pytest.mark.parametrize("known", [(True, False), (False, True), (True, True), (False, False)], ids=str)
def test_units_of_which_only_one_side_names_its_backbone(
    tmp_path: Path, record: Provenance, caplog: pytest.LogCaptureFixture, known: tuple[bool, bool]
) -> None:
    """Tables made elsewhere have no record of it: taken, but not without a word."""
    named = replace(record, inputs={"backbone": "a" * 16})
    source, target = (
        write_units(tmp_path / f"{side}.parquet", np.eye(3), named if knows else record)
        for side, knows in zip("st", known, strict=True)
    )
    select(source, target, tmp_path / "selection.parquet", BEST | NEAREST | {"count": 1}, record)
    warned = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    if known[0] == known[1]:
        assert warned == []
        return
    names, lacks = (source, target) if known[0] else (target, source)
    assert warned == [
        f"{names} names the backbone and layer that made it, {lacks} names none: only the width of their "
        "means, 3 numbers, could be compared"
    ]


@pytest.mark.parametrize("method", [UOT, NEAREST, GREEDY | {"distance": "cosine"}])
def test_mean_of_zero_has_no_cosine(selected: Callable[..., Any], method: dict[str, Any]) -> None:
    with pytest.raises(
        PipelineError, match=r"s\.parquet: 1 of 2 units with a mean of zero(.|\n)*unit 10, 'uni"
    ):
        selected([[1, 0], [0, 0]], [[1, 1]], **method)
    with pytest.raises(
        PipelineError, match=r"t\.parquet: 1 of 3 units with a mean of zero(.|\n)*unit 20, 'uni"
    ):
        selected(np.eye(2), [[1, 1], [1, 0], [0, 0]], **method)
    rows = selected([[1, 0], [0, 0]], [[1, 1]], **method | {"distance": "l2"})
    assert np.isfinite([row["score"] for row in rows]).all()


@each_method
def test_unsound_units_are_named(selected: Callable[..., Any], method: dict[str, Any]) -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(
            PipelineError,
            match=r"s\.parquet: 1 of 2 units with a mean that is not fin(.|\n)*unit 10, 'unit 1'",
        ):
            selected([[1, 0], [value, 0]], [[1, 1]], **method)
    with pytest.raises(PipelineError, match=r"t\.parquet: 1 of 2 units with no images:\n  unit 0, 'unit 0'$"):
        selected(np.eye(2), np.eye(2), None, {"images": [0, 2]}, **method)
    with pytest.raises(
        PipelineError, match=r"s\.parquet: 1 of 2 units with a unit_id that an earlier unit has"
    ):
        selected(np.eye(2), np.eye(2), {"unit_id": [4, 4]}, **method)
    with pytest.raises(PipelineError, match=r"t\.parquet: this units table has no units"):
        selected(np.eye(2), np.empty((0, 2)), **method)
    with pytest.raises(PipelineError, match=r"12 of 14 units with no images(.|\n)*\.\.\. and 2 more$"):
        selected(np.eye(14), np.eye(14), {"images": [1, 1] + 12 * [0]}, **method)


def test_not_converged(selected: Callable[..., Any]) -> None:
    with pytest.raises(
        PipelineError, match=r"did not converge in 2 iterations \(change .*, tolerance 1e-10\)"
    ):
        selected(np.eye(3) + 0.1, np.eye(3), **UOT | {"iterations": 2})


def test_cost_that_overflows(selected: Callable[..., Any]) -> None:
    with pytest.raises(PipelineError, match="cost is not finite; are epsilon and epsilon_c too small"):
        selected(np.eye(3), np.eye(3), **UOT | {"epsilon": 1e-200, "epsilon_c": 1e-200})


def run(tmp_path: Path, record: Provenance, values: Any, *options: str) -> subprocess.CompletedProcess[str]:
    """The command on two small units tables."""
    for name in "st":
        write_units(tmp_path / f"{name}.parquet", np.eye(120, 3) + 1, record)
    paths = [str(tmp_path / f"{name}.parquet") for name in ("s", "t", "selection")]
    command = [sys.executable, "-m", "pipeline.selection", *paths, "--settings", json.dumps(values)]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def test_the_command_completes_its_settings(tmp_path: Path, record: Provenance) -> None:
    done = run(tmp_path, record, {"method": "uot", "epsilon_c": 0.5})
    assert done.returncode == 0, done.stderr
    assert "UOT: converged in" in done.stderr
    made = read_provenance(tmp_path / "selection.parquet")
    assert made is not None
    assert made.settings == {**BEST, **UOT, "epsilon_c": 0.5, "count": 100}
    assert sum(read_table("selection", tmp_path / "selection.parquet")["selected"].to_pylist()) == 100


def test_the_command_refuses_settings_by_name(tmp_path: Path, record: Provenance) -> None:
    wrong = {"method": "uot", "tau1": -1, "tau2": 0, "epsilon": float("nan"), "order": "wrst"}
    done = run(tmp_path, record, wrong)
    assert done.returncode == 1
    for line in (
        "error: --settings has 4 problems:",
        "  tau1: found -1; expected a number above 0",
        "  tau2: found 0; expected a number above 0",
        "  epsilon: found nan; expected a finite number",
        "  order: found 'wrst'; allowed: best, worst; did you mean 'worst'?",
    ):
        assert line in done.stderr.splitlines(), done.stderr
    for values, message in (
        ({}, "method: missing; this key is required"),
        ({"method": "uto"}, "method: found 'uto'; allowed: random, label, nearest, greedy_ot, uot"),
        ({"method": "uot", "tau": 1}, "tau: unknown key; allowed: "),
        ({"method": "uot", "units": {"by": "class"}}, "units: not a setting of this command"),
    ):
        done = run(tmp_path, record, values)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "selection.parquet").exists()


# Distances


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 20)),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0, 1, 100]),
    rows=st.integers(1, 20),
)
@settings(max_examples=60)
def test_distances_are_those_of_scipy(shape: tuple[int, int, int], seed: int, offset: int, rows: int) -> None:
    """In blocks of any size, far from the origin, and with pairs that are near or equal."""
    random = np.random.default_rng(seed)
    source = random.normal(offset, 1, (shape[0], shape[2]))
    target = random.normal(offset, 1, (shape[1], shape[2]))
    target[0] = source[0] * (1 + random.choice([0, 1e-9, 1e-4]))
    for distance, metric in (("l2", "euclidean"), ("cosine", "cosine")):
        lazy = Distances(source, target, distance, 2.0)
        assert lazy.shape == shape[:2]
        found = np.concatenate([lazy[first : first + rows] for first in range(0, shape[0], rows)])
        expected = cdist(source, target, metric) / 2
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=5e-15 * (1 + offset))


def test_distances_by_hand() -> None:
    found = Distances(np.array([[3.0, 4.0], [-2.0, 0.0]]), np.array([[1.0, 0.0]]), "cosine")[:]
    np.testing.assert_allclose(found, [[1 - 0.6], [2.0]])
    found = Distances(np.array([[3.0, 4.0], [-2.0, 0.0]]), np.array([[0.0, 0.0]]), "l2")[:]
    np.testing.assert_allclose(found, [[5.0], [2.0]])


def test_directions_of_tiny_and_huge_means() -> None:
    """Squares of these under- and overflow in float32, and of the first in float64 as well."""
    source = np.array([[1e-200, 0.0], [1e38, 1e38]])
    found = Distances(source, np.array([[1.0, 0.0]]), "cosine")[:]
    np.testing.assert_allclose(found, [[0.0], [1 - 0.5**0.5]], atol=1e-15)


@given(st.integers(1, 5000), st.integers(1, 3000))
def test_blocks_are_all_rows_once(count: int, width: int) -> None:
    found = list(blocks((count, width)))
    assert [row for rows in found for row in range(count)[rows]] == list(range(count))
    assert all((rows.stop - rows.start) * width <= max(distances_module.BLOCK, width) for rows in found)


# The solver

COSTS = st.tuples(
    st.integers(1, 6), st.integers(1, 5), st.integers(0, 1000), st.sampled_from([3, 200, 1e4])
).map(lambda shape: np.random.default_rng(shape[2]).uniform(0, shape[3], shape[:2]))


@given(
    cost=COSTS,
    tau1=st.floats(0.1, 10),
    tau2=st.floats(0.1, 100),
    epsilon=st.floats(0.2, 5),
    masses=st.sampled_from([None, 1e-3, 10.0]),
)
@settings(max_examples=80)
def test_plans_satisfy_the_first_order_condition(
    cost: np.ndarray, tau1: float, tau2: float, epsilon: float, masses: float | None
) -> None:
    """The gradient of Eq. 5 is zero at the plan, for any cost, weights and masses."""
    sides = [np.ones(length) for length in cost.shape]
    if masses is not None:
        sides = [np.random.default_rng(0).uniform(masses, 2 * masses, length) for length in cost.shape]
    plan = solve(cost, epsilon, tau1, tau2, 1e-12, masses=None if masses is None else (sides[0], sides[1]))
    log_plan = plan.log_rows(cost)
    sent = plan.log_mass - np.log(sides[0])
    received = logsumexp(log_plan, axis=0) - np.log(sides[1])
    gradient = cost + epsilon * log_plan + tau1 * sent[:, None] + tau2 * received[None, :]
    assert np.abs(gradient).max() < 1e-9 * max(1, tau1, tau2) * (1 + cost.max())
    np.testing.assert_allclose(plan.log_mass, logsumexp(log_plan, axis=1), rtol=1e-11, atol=1e-10)
    assert plan.mass == pytest.approx(np.exp(logsumexp(log_plan)), rel=1e-8)


@given(cost=COSTS, data=st.data())
@settings(max_examples=25)
def test_order_of_units_and_classes_changes_no_score(cost: np.ndarray, data: st.DataObject) -> None:
    rows = data.draw(st.permutations(range(cost.shape[0])))
    columns = data.draw(st.permutations(range(cost.shape[1])))
    found = solve(cost[rows][:, columns]).log_mass
    np.testing.assert_allclose(found, solve(cost).log_mass[rows], rtol=1e-11, atol=1e-9)


@given(cost=COSTS, factor=st.floats(0.01, 100))
@settings(max_examples=25)
def test_scaling_cost_and_weights_alike_changes_no_score(cost: np.ndarray, factor: float) -> None:
    """Eq. 5 times a number has the same plan."""
    found = solve(factor * cost, factor * 0.7, factor * 2.0, factor * 30.0).log_mass
    np.testing.assert_allclose(found, solve(cost, 0.7, 2.0, 30.0).log_mass, rtol=1e-10, atol=1e-9)


@given(cost=COSTS, twin=st.integers(0, 5))
@settings(max_examples=25)
def test_identical_units_send_the_same(cost: np.ndarray, twin: int) -> None:
    sent = solve(np.vstack([cost, cost[twin % len(cost)]])).log_mass
    np.testing.assert_allclose(sent[-1], sent[twin % len(cost)], rtol=1e-12, atol=1e-12)


@given(cost=COSTS)
@settings(max_examples=25)
def test_error_at_convergence_is_within_the_tolerance(cost: np.ndarray) -> None:
    exact = solve(cost, 0.5, 3.0, 50.0, 1e-14).log_mass
    for tolerance in (1e-2, 1e-5):
        found = solve(cost, 0.5, 3.0, 50.0, tolerance)
        assert np.abs(found.log_mass - exact).max() <= tolerance
        assert found.iterations < solve(cost, 0.5, 3.0, 50.0, tolerance / 100).iterations


@pytest.mark.parametrize(("epsilon", "tau1", "tau2"), [(1.0, 1.0, 100.0), (1.0, 1.0, 0.05), (0.1, 5.0, 0.01)])
def test_the_kernel_and_the_log_domain_agree(
    monkeypatch: pytest.MonkeyPatch, epsilon: float, tau1: float, tau2: float
) -> None:
    """Blocks of one row, cost computed again, and costs so wide that products would underflow."""
    random = np.random.default_rng(0)
    cost = random.uniform(0, 5, (7, 4)) + np.array([0.0, 2000.0, 50.0, 9000.0])
    in_logarithms: list[int] = []
    original = transport._Kernel._columns_of_logarithms
    monkeypatch.setattr(
        transport._Kernel,
        "_columns_of_logarithms",
        lambda self, log_u: in_logarithms.append(1) or original(self, log_u),
    )
    found = solve(cost, epsilon, tau1, tau2, 1e-13)
    assert in_logarithms
    monkeypatch.setattr(distances_module, "BLOCK", 4)
    monkeypatch.setattr(transport, "HELD", 0)
    monkeypatch.setattr(transport, "SMALLEST", np.inf)  # never a product for the columns
    np.testing.assert_allclose(solve(cost, epsilon, tau1, tau2, 1e-13).log_mass, found.log_mass, rtol=1e-12)
    np.testing.assert_allclose(plain(cost, epsilon, tau1, tau2), found.log_mass, rtol=1e-11)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 100.0), (0.3, 5.0, 0.5)], ids=str)
@pytest.mark.parametrize("factor", [1.0, 1e6, 1e11])
def test_the_accuracy_bounds_the_error(factor: float, weights: tuple[float, float, float]) -> None:
    """Against the same steps with three more digits, at costs where rounding is above any tolerance, too."""
    if np.finfo(np.longdouble).eps > 1e-18:
        pytest.skip("this machine's long double is no more exact than its double")
    cost = np.random.default_rng(0).uniform(0.2, 1, (12, 5)) * factor
    plan = solve(cost, *weights)
    error = np.abs(plan.log_mass - plain(cost.astype(np.longdouble), *weights)).max()
    assert 0 < error <= plan.accuracy
    assert plan.accuracy <= max(1e-10, 1e-14 * cost.max() / weights[0])


def plain(cost: np.ndarray, epsilon: float, tau1: float, tau2: float) -> np.ndarray:
    """log P1 by as many steps as may be, with scipy's sums of exponentials and nothing else."""
    kernel, log_v = -cost / epsilon, np.zeros(cost.shape[1])
    for _ in range(5000):
        log_u = -tau1 / (tau1 + epsilon) * logsumexp(kernel + log_v, axis=1)
        log_v = -tau2 / (tau2 + epsilon) * logsumexp(kernel + log_u[:, None], axis=0)
    return logsumexp(log_u[:, None] + kernel + log_v, axis=1)


@pytest.mark.parametrize(("epsilon", "tau1", "tau2"), [(1.0, 1.0, 100.0), (0.5, 2.0, 50.0)])
@pytest.mark.parametrize("unit", [True, False])
def test_the_plan_is_that_of_pot_where_pot_is_stable(
    epsilon: float, tau1: float, tau2: float, unit: bool
) -> None:
    import ot

    random = np.random.default_rng(0)
    cost = random.uniform(0, 3, (12, 5))
    a, b = (np.ones(12), np.ones(5)) if unit else (random.uniform(0.2, 3, 12), random.uniform(0.2, 3, 5))
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        a, b, cost, epsilon, (tau1, tau2), reg_type="entropy", numItermax=10_000, stopThr=1e-12
    )
    ours = np.exp(solve(cost, epsilon, tau1, tau2, masses=None if unit else (a, b)).log_rows(cost))
    np.testing.assert_allclose(ours / ours.sum(), theirs / theirs.sum(), rtol=1e-7)


@pytest.mark.parametrize("backbone", ["resnet18_supervised", "resnet50_mocov2"])
@pytest.mark.parametrize(("distance", "epsilon_c"), [("cosine", 0.01), ("l2", 1.0), ("cosine", 0.001)])
def test_real_means_meet_the_first_order_condition(
    shared_data: Path, backbone: str, distance: str, epsilon_c: float
) -> None:
    """ImageNet against SUN: 1000 x 397, and the ranking that float64 can tell apart."""
    source, target = (
        np.stack(
            parquet.read_table(shared_data / f"uot_class_means/{name}.{backbone}.parquet")["mean"].to_numpy()
        )
        for name in ("imagenet", "sun")
    )
    cost = Distances(source, target, distance, epsilon_c)
    plan = solve(cost)
    log_plan = plan.log_rows(cost[:])
    received = logsumexp(log_plan, axis=0)
    assert np.abs(cost[:] + log_plan + plan.log_mass[:, None] + 100 * received).max() < 1e-8
    nearest_class = nearest.score(of_means(source), of_means(target), {"distance": distance}).values
    metric = "euclidean" if distance == "l2" else "cosine"
    expected = -cdist(source.astype(float), target.astype(float), metric).min(axis=1)
    np.testing.assert_allclose(nearest_class, expected, rtol=1e-11)
