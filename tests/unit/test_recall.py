"""Recall of concepts: the counts, the table and the text, and what the figures draw."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, digest_of_file
from pipeline.recall.figures import coloured, draw, lengths, sweeps
from pipeline.recall.measure import Keys, Ranking, Recall, experiments_of, measure, rankings_of, write
from pipeline.recall.text import recall_text
from pipeline.tables import read_table, write_table

CONCEPTS = ["bird", "dog", "bird", None, "dog", "bird"]
UOT = {"method": "uot", "distance": "cosine", "epsilon_c": 0.01, "tau1": 1.0}


def ranking(
    chosen: Sequence[int],
    settings: dict[str, Any] = UOT,
    backbone: str = "small",
    selection: str = "uot",
    concepts: Sequence[str | None] = CONCEPTS,
) -> Ranking:
    """A ranking with the units of some ranks selected."""
    selected = np.zeros(len(concepts), bool)
    selected[list(chosen)] = True
    keys = Keys(backbone, "photos", "birds", selection)
    return Ranking(keys, settings, -np.arange(len(concepts), dtype=float), list(concepts), selected)


def test_recall_is_the_share_of_a_concept_that_is_selected() -> None:
    found = measure(ranking([0, 1, 2]), "bird")
    assert (found.units, found.selected, found.found, found.bound) == (3, 3, 2, 100)
    assert found.percent == pytest.approx(200 / 3)
    found = measure(ranking([4]), "dog")
    assert (found.units, found.found, found.percent, found.bound) == (2, 1, 50, 50)


def test_a_concept_that_no_unit_has_is_refused() -> None:
    with pytest.raises(
        PipelineError, match="no unit of photos has the concept 'brid'; found bird, dog; did you"
    ):
        measure(ranking([0]), "brid")
    with pytest.raises(PipelineError, match=r"the concept 'bird'; found none$"):
        measure(ranking([0], concepts=[None, None]), "bird")


@pytest.fixture
def written(tmp_path: Path, record: Provenance) -> Callable[..., tuple[Path, Path]]:
    """A function that writes the units of a source and a ranking of them."""

    def make(concepts: Sequence[str | None] | None = CONCEPTS) -> tuple[Path, Path]:
        units = tmp_path / "units.parquet"
        count = len(CONCEPTS)
        columns = {
            "unit_id": [10 * n for n in range(count)],
            "name": ["a"] * count,
            "images": [1] * count,
            "mean": np.ones((count, 2)),
        }
        extra = {} if concepts is None else {"concept": concepts}
        write_table("units", units, columns | extra, record)
        path = tmp_path / "small" / "photos" / "birds" / "uot.parquet"
        ranked = {
            "unit_id": [50, 10, 0, 20, 30, 40],
            "name": ["a"] * count,
            "score": -np.arange(count, dtype=float),
            "rank": range(1, count + 1),
            "selected": [True, True, False, False, False, False],
        }
        made = Provenance("test", UOT, "test=0", {"source": digest_of_file(units)}, {})
        write_table("selection", path, ranked, made)
        return path, units

    return make


def test_rankings_are_read_with_the_concepts_of_their_units(written: Callable[..., Any]) -> None:
    selection, units = written()
    (found,) = rankings_of([selection], [units]).values()
    assert found.keys == ("small", "photos", "birds", "uot")
    assert found.settings == UOT
    assert found.concepts == ["bird", "dog", "bird", "bird", None, "dog"]
    assert found.selected.tolist() == [True, True, False, False, False, False]


def test_units_of_other_rankings_are_refused(
    written: Callable[..., Any], tmp_path: Path, record: Provenance
) -> None:
    selection, units = written()
    other = tmp_path / "other.parquet"
    columns = {"unit_id": [0], "name": ["a"], "images": [1], "mean": np.ones((1, 2)), "concept": ["bird"]}
    write_table("units", other, columns, Provenance("other", {}, "test=0", {}, {}))
    with pytest.raises(PipelineError, match=r"uot\.parquet: the units that it ranks are not among --units"):
        rankings_of([selection], [other])
    selection, units = written(None)
    with pytest.raises(PipelineError, match=r"units\.parquet: its units have no concepts"):
        rankings_of([selection], [units])


def test_each_ranking_and_concept_is_a_row_once(tmp_path: Path, record: Provenance) -> None:
    one = ranking([0, 1])
    asked = {**one.keys._asdict(), "concepts": ["bird", "dog"]}
    settings = {"experiments": [{"name": name, "rankings": [asked]} for name in ("first", "second")]}
    experiments = experiments_of(settings, {one.keys: one})
    write(tmp_path / "recall.parquet", experiments, record)
    keys = {"backbone": "small", "source": "photos", "target": "birds", "selection": "uot"}
    assert read_table("recall", tmp_path / "recall.parquet").to_pylist() == [
        {**keys, "concept": "bird", "units": 3, "selected": 2, "found": 1, "recall": 100 / 3},
        {**keys, "concept": "dog", "units": 2, "selected": 2, "found": 1, "recall": 50.0},
    ]


def test_the_text_has_selections_in_rows_and_backbones_in_columns() -> None:
    recalls = [
        measure(ranking(chosen, backbone=backbone, selection=selection), "bird")
        for backbone, selection, chosen in [
            ("small", "uot", [0, 2]),
            ("small", "nearest", [0, 1]),
            ("large", "uot", [3, 4]),
        ]
    ]
    assert recall_text([("Which finds birds?", recalls)]) == (
        "Which finds birds?\n"
        "==================\n"
        "\n"
        "birds from photos: recall of the 3 units of bird, in %\n"
        "------------------------------------------------------\n"
        "selection  selected  at most  small  large\n"
        "uot               2    66.67  66.67   0.00\n"
        "nearest           2    66.67  33.33\n"
    )


def of_epsilon(epsilon_c: float, chosen: Sequence[int], **changes: Any) -> Recall:
    settings = UOT | {"epsilon_c": epsilon_c} | changes
    name = f"uot_{epsilon_c}_{len(changes)}"
    return measure(ranking(chosen, settings, selection=name), "bird")


def test_a_sweep_is_of_selections_that_differ_in_epsilon_c_only() -> None:
    recalls = [
        of_epsilon(1.0, [1]),
        of_epsilon(0.01, [0, 2, 5]),
        of_epsilon(0.1, [0]),
        of_epsilon(0.1, [1], distance="l2"),
        measure(ranking([0], {"method": "nearest", "distance": "cosine"}), "bird"),
    ]
    (line,) = sweeps(recalls)
    assert line.label == "small, cosine"
    assert line.epsilon_c.tolist() == [0.01, 0.1, 1.0]
    np.testing.assert_allclose(line.percent, [100, 100 / 3, 0])
    others = [of_epsilon(epsilon_c, [0], tau1=2.0) for epsilon_c in (1.0, 0.1)]
    labels = [line.label for line in sweeps([*recalls, *others])]
    assert labels == ["small, cosine (uot_0.01_0)", "small, cosine (uot_0.1_1)"]


def test_bars_are_mass_or_distance() -> None:
    np.testing.assert_allclose(lengths(ranking([0, 2])), [1, np.exp(-2)])
    far = Ranking(ranking([0]).keys, UOT, np.array([5000.0, 4999.0]), ["a", "b"], np.array([True, True]))
    np.testing.assert_allclose(lengths(far), [1, np.exp(-1)])
    nearest = {"method": "nearest", "distance": "l2"}
    np.testing.assert_allclose(lengths(ranking([1, 2], nearest)), [1, 2])


def test_wanted_concepts_come_first_then_the_most_common() -> None:
    concepts = ["a", "c", "b", "b", None, "c", "d"]
    assert list(coloured(concepts, ["d"])) == ["d", "b", "c", "a"]
    many = coloured([f"concept {n}" for n in range(20)], [])
    assert len(many) == len(set(many.values())) == 7


def test_figures_are_drawn_alike_each_time_and_only_of_similarities(tmp_path: Path) -> None:
    rankings = [
        ranking([0, 1, 2, 3]),
        ranking([0, 1], {"method": "random", "seed": 0}, selection="random"),
        ranking([0], {"method": "label"}, selection="label"),
    ]
    recalls = [measure(one, "bird") for one in rankings]
    for folder in ("first", "again"):
        draw(tmp_path / folder, [("one", recalls)])
    drawn = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.svg"))
    assert drawn == [Path("small/photos/birds/uot.svg")]
    first, again = (tmp_path / folder / drawn[0] for folder in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()
    for text in ("bird: 2 of 3", "dog: 1 of 2", "further concepts: 1", "uot: photos for birds, by small"):
        assert text in first.read_text()
    draw(tmp_path / "sweep", [("one", [of_epsilon(1.0, [0]), of_epsilon(0.1, [0])])])
    sweep = (tmp_path / "sweep" / "epsilon_c.svg").read_text()
    assert "bird classes of photos for birds" in sweep
    assert "small, cosine" in sweep


def test_a_concept_may_have_any_letters(tmp_path: Path) -> None:
    names = ["$x^2$", "_hidden", "<b> & é", None]
    one = ranking([0, 1, 2], concepts=names)
    draw(tmp_path, [("one", [measure(one, "$x^2$")])])
    text = (tmp_path / "small" / "photos" / "birds" / "uot.svg").read_text()
    for shown in ("$x^2$: 1 of 1", "_hidden: 1 of 1", "&lt;b&gt; &amp; é: 1 of 1"):
        assert shown in text
