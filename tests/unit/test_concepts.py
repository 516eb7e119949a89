"""Concepts of classes from a file, and selection by names and concepts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.selection.label import plain, score
from pipeline.selection.select import select
from pipeline.selection.units import Units
from pipeline.tables import read_table, write_table
from pipeline.units.concepts import concepts_of
from pipeline.units.summarise import summarise

NAMES = ["hummingbird", "sea-lion", "red wolf", "minivan", "Sea Lion"]
CONCEPTS = ["bird", "animal", "animal", None, "animal"]
LABEL: dict[str, Any] = {
    "method": "label",
    "concepts": None,
    "mapping": None,
    "count": None,
    "order": "best",
    "skip": 0,
}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# A file of concepts


def test_concepts_are_looked_up_by_name(tmp_path: Path) -> None:
    path = write(
        tmp_path / "concepts.csv", "class_name,concept\nowl,bird\ncar, vehicle\nowl,bird\nfox,animal\n"
    )
    assert concepts_of(path, ["car", "cart", "owl"]) == ["vehicle", None, "bird"]


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "column": ("class,concept\nowl,bird\n", "no column 'class_name'"),
        "twice": (
            "class_name,concept\nowl,bird\nowl,animal\n",
            "line 3: class 'owl' is 'bird' already",
        ),
        "empty": ("class_name,concept\nowl,\n", "line 2: found 'owl', ''; expected a class and its concept"),
        "others": (
            "class_name,concept\nfox,animal\n",
            r"none of the 1 classes is in it \(the classes are 'owl'; the file names 'fox'\)",
        ),
    }.values(),
)
def test_bad_files_of_concepts_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        concepts_of(write(tmp_path / "concepts.csv", text), ["owl"])


def test_units_by_class_carry_their_concepts(tmp_path: Path, record: Provenance) -> None:
    names = ["owl", "car"]
    common = {"sample_id": ["a", "b"], "split": ["train"] * 2, "label": [1, 0]}
    images = {"image": [{"bytes": b"", "path": None}] * 2, "width": [1, 1], "height": [1, 1]}
    manifest = {**common, **images, "class_name": ["car", "owl"]}
    write_table("manifest", tmp_path / "m.parquet", manifest, record, {"class_names": json.dumps(names)})
    write_table("features", tmp_path / "f.parquet", {**common, "feature": np.eye(2)}, record)
    concepts = write(tmp_path / "concepts.csv", "class_name,concept\nowl,bird\n")
    outputs = [tmp_path / "units.parquet", tmp_path / "membership.parquet"]
    summarise(tmp_path / "m.parquet", tmp_path / "f.parquet", *outputs, {"by": "class"}, record, concepts)
    units = read_table("units", outputs[0])
    assert units["name"].to_pylist() == names
    assert units["concept"].to_pylist() == ["bird", None]


def test_doodles_have_the_concepts_of_their_file(shared_data: Path) -> None:
    path = shared_data / "images" / "quickdraw_concepts.csv"
    assert concepts_of(path, ["bear", "aircraft carrier"]) == ["animal", "vehicle"]


# Selection by name


@given(st.text(), st.sampled_from(["upper", "lower", "title"]), st.sampled_from([" ", "_", "-", "\t"]))
def test_spelling_changes_no_name(name: str, case: str, joint: str) -> None:
    name = name.encode("ascii", "ignore").decode()  # other scripts have letters without a way back
    assert plain(joint.join(getattr(name, case)())) == plain(name)


def named(
    names: list[str], concepts: list[str | None] | None, classes: list[str], settings: dict[str, Any]
) -> list[float]:
    """The scores of units of these names for a target of these classes."""
    sides = [
        Units(Path(side), np.arange(len(of)), pa.chunked_array([of]), np.ones(len(of)), np.ones((len(of), 2)))
        for side, of in (("source", names), ("target", classes))
    ]
    scores = score(replace(sides[0], concepts=concepts), sides[1], settings)
    assert scores.found == sum(scores.values)
    return scores.values.tolist()


def test_units_named_as_a_class_are_found() -> None:
    found = named(NAMES, None, ["SEA_LION", "lynx", "Red-Wolf"], LABEL)
    assert found == [0, 1, 1, 0, 1]


def test_units_of_concepts_are_found() -> None:
    found = named(NAMES, CONCEPTS, ["any"], LABEL | {"concepts": ["bird"]})
    assert found == [1, 0, 0, 0, 0]
    found = named(NAMES, CONCEPTS, ["any"], LABEL | {"concepts": ["bird", "animal"]})
    assert found == [1, 1, 1, 0, 1]


def test_units_of_a_mapping_are_found(tmp_path: Path) -> None:
    text = "target,source\ncoyote,Red Wolf\ncoyote,hummingbird\nvan,no such class\n"
    settings = LABEL | {"mapping": str(write(tmp_path / "mapping.csv", text))}
    assert named(NAMES, None, ["Coyote"], settings) == [1, 0, 1, 0, 0]
    with pytest.raises(PipelineError, match=r"line 4: the source has no 'no such class'"):
        named(NAMES, None, ["van"], settings)
    with pytest.raises(
        PipelineError,
        match=r"lists no class of this target \(the target has 'x'; the file lists 'coyote', 'van'\)",
    ):
        named(NAMES, None, ["x"], settings)


def test_what_finds_nothing_says_what_there_is() -> None:
    with pytest.raises(
        PipelineError, match=r"no unit .* named as a class .*'hummingbird', 'sea-lion'.*; the target 'lynx'"
    ):
        named(NAMES, None, ["lynx"], LABEL)
    with pytest.raises(
        PipelineError, match=r"no unit .* concept 'brid'; found 'animal', 'bird'; did you mean 'bird'"
    ):
        named(NAMES, CONCEPTS, ["lynx"], LABEL | {"concepts": ["animal", "brid"]})
    with pytest.raises(PipelineError, match="units have no concepts"):
        named(NAMES, None, ["lynx"], LABEL | {"concepts": ["bird"]})


@pytest.fixture
def selected(tmp_path: Path, record: Provenance) -> Callable[..., list[dict[str, Any]]]:
    """A function that selects by name among `NAMES` for a target of one class."""
    means = np.zeros((len(NAMES), 2))  # no cosine, which names do not need
    columns = {"unit_id": range(5), "name": NAMES, "images": [1] * 5, "mean": means, "concept": CONCEPTS}
    write_table("units", tmp_path / "s.parquet", columns, record)
    target = {"unit_id": [0], "name": ["sea lion"], "images": [1], "mean": np.ones((1, 2))}
    write_table("units", tmp_path / "t.parquet", target, record)

    def run(**settings: Any) -> list[dict[str, Any]]:
        paths = [tmp_path / f"{name}.parquet" for name in ("s", "t", "selection")]
        select(*paths, LABEL | settings, record)
        return read_table("selection", paths[2]).to_pylist()

    return run


def test_what_is_found_ranks_first_and_all_of_it_is_selected(selected: Callable[..., Any]) -> None:
    rows = selected()
    assert [row["unit_id"] for row in rows] == [1, 4, 0, 2, 3]
    assert [row["selected"] for row in rows] == [True, True, False, False, False]
    assert [row["score"] for row in rows] == [1, 1, 0, 0, 0]
    rows = selected(concepts=["animal"], count=2)
    assert [row["unit_id"] for row in rows if row["selected"]] == [1, 2]
    assert [row["unit_id"] for row in rows] == [1, 2, 4, 0, 3]


def test_more_than_was_found_is_refused(selected: Callable[..., Any]) -> None:
    with pytest.raises(PipelineError, match="2 units are found by name, count is 3; leave count out"):
        selected(count=3)
