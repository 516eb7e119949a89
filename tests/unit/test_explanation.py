"""The explanation of a selection: its plan, its margin, its stability."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pipeline.errors import PipelineError
from pipeline.explanation.explain import Explained, explain
from pipeline.explanation.stability import selected_shares
from pipeline.provenance import Provenance, digest_of_file, read_provenance
from pipeline.selection.select import select
from pipeline.selection.transport import solve
from pipeline.selection.units import read_units
from pipeline.tables import read_table, write_table

UOT = {
    "method": "uot",
    "distance": "cosine",
    "masses": "unit",
    "epsilon": 1.0,
    "tau1": 1.0,
    "tau2": 100.0,
    "epsilon_c": 0.1,
    "tolerance": 1e-10,
    "iterations": 100_000,
}
NEAREST = {"method": "nearest", "distance": "l2"}
RANDOM = {"method": "random", "seed": 0}
SETTINGS = {"draws": 30, "seed": 0}


@pytest.fixture
def made(tmp_path: Path, record: Provenance) -> Callable[..., SimpleNamespace]:
    """A function that writes what an explanation reads and gives its paths and arrays."""

    def make(
        source: Any, features: Any, labels: Any, method: dict[str, Any], **values: Any
    ) -> SimpleNamespace:
        features, labels = np.asarray(features, np.float32), np.asarray(labels)
        count = len(labels)
        files = Explained(*(tmp_path / f"{name}.parquet" for name in ("chosen", "source", "target", "rows")))
        held_out = {"sample_id": ["held out"], "split": ["test"], "label": [0], "feature": features[:1]}
        rows = {
            "sample_id": [*(f"image {row}" for row in range(count)), *held_out["sample_id"]],
            "split": ["train"] * count + held_out["split"],
            "label": [*labels.tolist(), *held_out["label"]],
            "feature": np.concatenate([features, held_out["feature"]]),
        }
        write_table("features", files.features, rows, record)
        means = np.stack([features[labels == label].mean(0) for label in np.unique(labels)])
        sizes = np.bincount(labels)
        of_features = replace(record, inputs={"features": digest_of_file(files.features)})
        for path, matrix, images, made_of in (
            (files.source, np.asarray(source, np.float32), [5] * len(source), record),
            (files.target, means, sizes, of_features),
        ):
            columns = {
                "unit_id": list(range(len(matrix))),
                "name": [f"{path.stem} {row}" for row in range(len(matrix))],
                "images": images,
                "mean": matrix,
            }
            write_table("units", path, columns, made_of)
        settings = {"count": 2, "order": "best", "skip": 0} | method | values
        inputs = {side: digest_of_file(getattr(files, side)) for side in ("source", "target")}
        selection = replace(record, settings=settings, inputs=inputs)
        select(files.source, files.target, files.selection, settings, selection)
        return SimpleNamespace(files=files, means=means, source=np.asarray(source, np.float32))

    return make


def tables(folder: Path, *names: str) -> list[Any]:
    """Rows of the tables of an explanation."""
    return [read_table(name, folder / f"{name}.parquet").to_pylist() for name in names]


@pytest.fixture
def three(made: Callable[..., SimpleNamespace]) -> Callable[..., SimpleNamespace]:
    """A function that makes five units and a target of three classes at random."""
    random = np.random.default_rng(0)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0])
    features = random.normal(0, 0.3, (9, 4)) + np.eye(4)[labels]
    return lambda method, **values: made(random.normal(size=(5, 4)), features, labels, method, **values)


@pytest.mark.parametrize("method", [UOT, UOT | {"distance": "l2", "masses": "images"}])
def test_shares_are_those_of_the_plan(
    three: Callable[..., SimpleNamespace], tmp_path: Path, record: Provenance, method: dict[str, Any]
) -> None:
    """Of all units they are P, each class's column at a sum of 1."""
    found = three(method, count=5)
    explain(found.files, tmp_path, SETTINGS, record)
    (rows,) = tables(tmp_path, "plan")
    metric = "cosine" if method["distance"] == "cosine" else "euclidean"
    distance = cdist(found.source.astype(float), found.means.astype(float), metric)
    masses = None if method["masses"] == "unit" else (np.ones(5), np.array([4, 3, 2]) / 3)
    plan = np.exp(solve(distance / 0.1, masses=masses).log_rows(distance / 0.1))
    assert len(rows) == 15
    for row in rows:
        place = row["unit_id"], row["target_unit_id"]
        assert row["name"] == f"source {place[0]}"
        assert row["target_name"] == f"target {place[1]}"
        assert row["distance"] == pytest.approx(distance[place], rel=1e-6)
        assert row["share"] == pytest.approx((plan / plan.sum(0))[place], rel=1e-6)
    assert sum(row["share"] for row in rows) == pytest.approx(3, rel=1e-8)


@pytest.mark.parametrize("method", [NEAREST, RANDOM])
def test_other_methods_have_distances_alone(
    three: Callable[..., SimpleNamespace], tmp_path: Path, record: Provenance, method: dict[str, Any]
) -> None:
    found = three(method)
    explain(found.files, tmp_path, SETTINGS, record)
    (rows,) = tables(tmp_path, "plan")
    chosen = [row["unit_id"] for row in read_table("selection", found.files.selection).to_pylist()][:2]
    assert [row["unit_id"] for row in rows] == [chosen[0]] * 3 + [chosen[1]] * 3
    assert [row["rank"] for row in rows] == [1] * 3 + [2] * 3
    metric = "euclidean" if method is NEAREST else "cosine"
    expected = cdist(found.source[chosen].astype(float), found.means.astype(float), metric)
    np.testing.assert_allclose([row["distance"] for row in rows], expected.ravel(), rtol=1e-6)
    assert {row["share"] for row in rows} == {None}


def test_margin_at_each_end_of_the_selected_ranks(
    made: Callable[..., SimpleNamespace], tmp_path: Path, record: Provenance
) -> None:
    """Units at 1, 2, 4, 8 and 9 from the target's only class."""

    def margins(**values: Any) -> list[tuple[int, int, int, float]]:
        source = [[distance, 0.0] for distance in (4, 1, 9, 2, 8)]
        found = made(source, [[0.0, 0.0]], [0], NEAREST, **values)
        explain(found.files, tmp_path, SETTINGS, record)
        keys = ("rank", "unit_id", "next_unit_id", "margin")
        return [tuple(row[key] for key in keys) for row in tables(tmp_path, "margin")[0]]

    assert margins(count=3) == [(3, 0, 4, 0.5)]
    assert margins(count=1, skip=1) == [(1, 1, 3, 1 / 8), (2, 3, 0, 2 / 8)]
    assert margins(count=1, order="worst") == [(4, 4, 2, 1 / 8)]
    assert margins(count=5) == []


def test_margin_of_equal_scores_is_zero(
    made: Callable[..., SimpleNamespace], tmp_path: Path, record: Provenance
) -> None:
    found = made(np.ones((4, 2)), [[1.0, 2.0]], [0], NEAREST)
    explain(found.files, tmp_path, SETTINGS, record)
    assert [row["margin"] for row in tables(tmp_path, "margin")[0]] == [0]


def test_stability_is_the_chance_of_being_selected(
    made: Callable[..., SimpleNamespace], tmp_path: Path, record: Provenance
) -> None:
    """One class, four images at 0 and one at 10; units at 0 and 3.

    The second is nearer where the mean is above 1.5, so that at least one of five draws is the last
    image: 1 - (4/5)^5.
    """
    found = made([[0.0], [3.0], [100.0]], [[0.0]] * 4 + [[10.0]], [0] * 5, NEAREST, count=1)
    draws = 2000
    explain(found.files, tmp_path, {"draws": draws, "seed": 0}, record)
    (rows,) = tables(tmp_path, "stability")
    stability = {row["unit_id"]: row["stability"] for row in rows}
    chance = 1 - 0.8**5
    assert stability[1] == pytest.approx(chance, abs=4 * (chance * (1 - chance) / draws) ** 0.5)
    assert stability[0] + stability[1] == pytest.approx(1)
    assert stability[2] == 0
    ranking = read_table("selection", found.files.selection).to_pylist()
    assert [row["unit_id"] for row in rows] == [row["unit_id"] for row in ranking]
    assert [row["selected"] for row in rows] == [True, False, False]


@pytest.mark.parametrize("part", [{"order": "worst"}, {"skip": 1}, {}])
def test_what_does_not_vary_is_stable(
    made: Callable[..., SimpleNamespace], tmp_path: Path, record: Provenance, part: dict[str, Any]
) -> None:
    """Classes of equal images have the same means in each draw; classes interleaved and of any size."""
    labels = np.array([1, 0, 2, 1, 1, 0, 2, 2, 2])
    random = np.random.default_rng(0)
    found = made(random.normal(size=(6, 3)), random.normal(size=(3, 3))[labels], labels, UOT, **part)
    explain(found.files, tmp_path, SETTINGS, record)
    (rows,) = tables(tmp_path, "stability")
    assert [row["stability"] for row in rows] == [float(row["selected"]) for row in rows]


def test_draws_depend_on_seed_and_number_alone(
    three: Callable[..., SimpleNamespace], tmp_path: Path, record: Provenance
) -> None:
    found = three(UOT)

    def stability(**values: Any) -> list[float]:
        explain(found.files, tmp_path, SETTINGS | values, record)
        return [row["stability"] for row in tables(tmp_path, "stability")[0]]

    first = stability()
    assert any(0 < share < 1 for share in first)
    assert sum(first) == pytest.approx(2)
    assert stability() == first
    assert stability(seed=1) != first
    twice = np.array(stability(draws=60)) * 60 - np.array(first) * 30
    assert (twice == np.round(twice)).all()
    assert (twice >= 0).all()


def test_files_that_do_not_belong_together(
    three: Callable[..., SimpleNamespace], tmp_path: Path, record: Provenance
) -> None:
    files = three(UOT).files
    for name, made in (("source", "chosen"), ("target", "chosen"), ("features", "target")):
        other = tmp_path / f"other {name}.parquet"
        table = read_table("features" if name == "features" else "units", getattr(files, name))
        kind = "features" if name == "features" else "units"
        write_table(kind, other, table, replace(record, settings={"another": "one"}))
        with pytest.raises(PipelineError, match=rf"{made}\.parquet: not made of .*other {name}\.parquet"):
            explain(replace(files, **{name: other}), tmp_path / "out", SETTINGS, record)
    assert not (tmp_path / "out").exists()


def test_units_that_are_not_the_classes_of_the_features(
    three: Callable[..., SimpleNamespace],
) -> None:
    """Such as clusters: they have means, and none that drawn labels would make again."""
    files = three(UOT).files
    source, target = read_units(files.source), read_units(files.target)
    for other in (replace(target, images=target.images + 1), replace(target, ids=target.ids + 1)):
        with pytest.raises(
            PipelineError, match=r"rows\.parquet: 9 training images of 3 labels are not those"
        ):
            selected_shares(source, other, files.features, UOT | {"count": 2}, 3, 0)


def test_the_command(three: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    files = three(UOT).files
    paths = [files.selection, files.source, files.target, files.features, tmp_path / "out"]
    command = [sys.executable, "-m", "pipeline.explanation", *map(str, paths), "--settings"]
    wrong = subprocess.run([*command, '{"draws": 0}'], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "draws: found 0; expected at least 1" in wrong.stderr
    done = subprocess.run([*command, json.dumps({"seed": 3})], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = read_provenance(tmp_path / "out" / "stability.parquet")
    assert made is not None
    assert made.settings == {"draws": 20, "seed": 3}
    assert set(made.inputs) == {"selection", "source", "target", "features"}
