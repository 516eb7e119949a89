"""Class means made elsewhere: what becomes of them, and what is refused in which words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from pipeline.class_means.read import read
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, read_provenance
from pipeline.tables import feature_matrix, read_table

MEANS = [[3.0, 4.0], [1.0, 2.0], [5.0, 6.0]]
GOOD: dict[str, Any] = {
    "class_index": pa.array([2, 0, 7], pa.int32()),
    "images": pa.array([3, 1, 2], pa.int32()),
    "mean": pa.array(MEANS, pa.list_(pa.float32(), 2)),
}


@pytest.fixture
def made(tmp_path: Path, record: Provenance) -> Callable[..., pa.Table]:
    """A function that writes a file of class means with some columns changed, and reads its units."""

    def make(classes: int | None = None, **changes: Any) -> pa.Table:
        columns = {name: column for name, column in (GOOD | changes).items() if column is not None}
        parquet.write_table(pa.table(columns), tmp_path / "means.parquet")
        read(tmp_path / "means.parquet", tmp_path / "units.parquet", {"classes": classes}, record)
        assert read_provenance(tmp_path / "units.parquet") == record
        return read_table("units", tmp_path / "units.parquet")

    return make


def test_means_become_units_in_the_order_of_their_index(made: Callable[..., pa.Table]) -> None:
    units = made(
        classes=3, name=["two", "zero", "seven"], concept=["bird", None, "dog"], wnid=["a", "b", "c"]
    )
    assert units["unit_id"].to_pylist() == [0, 2, 7]
    assert units["name"].to_pylist() == ["zero", "two", "seven"]
    assert units["images"].to_pylist() == [1, 3, 2]
    assert units["concept"].to_pylist() == [None, "bird", "dog"]
    assert feature_matrix(units, "mean").tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float64(), 2)], ids=str
)
def test_lists_of_any_kind_are_means(made: Callable[..., pa.Table], kind: pa.DataType) -> None:
    units = made(mean=pa.array(MEANS, kind), class_index=pa.array([2, 0, 7], pa.int64()))
    assert feature_matrix(units, "mean").tolist() == [[1, 2], [3, 4], [5, 6]]
    assert units["name"].to_pylist() == ["class 0", "class 2", "class 7"]
    assert "concept" not in units.column_names


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "column missing": (
        {"images": None},
        r"no class means \(found class_index, mean; expected class_index, images, mean\):\n"
        r"  column 'images' is missing",
    ),
    "column of another type": (
        {"mean": pa.array(["a", "b", "c"])},
        "column 'mean' is string, expected lists of floating-point numbers",
    ),
    "concept of another type": ({"concept": pa.array([1, 2, 3])}, "column 'concept' is int64, expected text"),
    "empty value": (
        {"images": pa.array([3, None, 2], pa.int32())},
        "column 'images' has 1 empty values",
    ),
    "no rows": ({name: column[:0] for name, column in GOOD.items()}, "no rows"),
    "class twice": ({"class_index": pa.array([2, 7, 7])}, "class_index 7 comes 2 times"),
    "class below 0": ({"class_index": pa.array([2, -1, 7])}, "class_index -1 is below 0"),
    "class without images": ({"images": pa.array([3, 0, 2])}, "class_index 0 is a mean of 0 images"),
    "other number of classes": ({"classes": 4}, "found 3 classes, the config says 4"),
    "mean of another length": (
        {"mean": pa.array([[3.0, 4.0], [1.0], [5.0, 6.0]])},
        "the mean of class_index 0 has 1 numbers, most have 2",
    ),
    "means without numbers": ({"mean": pa.array([[], [], []], pa.list_(pa.float32()))}, "no numbers"),
    "not a number": (
        {"mean": pa.array([[3.0, np.nan], [1.0, 2.0], [5.0, np.inf]])},
        "the mean is not finite of class_index 2, 7$",
    ),
    "number missing": (
        {"mean": pa.array([[3.0, 4.0], [1.0, None], [5.0, 6.0]])},
        "not finite of class_index 0$",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_means_are_refused(
    made: Callable[..., pa.Table], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError, match=message) as refusal:
        made(**changes)
    assert str(refusal.value).startswith(f"{tmp_path / 'means.parquet'}: ")
    assert not (tmp_path / "units.parquet").exists()


def test_files_that_are_no_parquet_are_named(tmp_path: Path, record: Provenance) -> None:
    (tmp_path / "text.parquet").write_text("class_index,images,mean")
    for name, message in (("text", "not a readable Parquet file"), ("none", "no such file of class means")):
        with pytest.raises(PipelineError, match=rf"{name}\.parquet: {message}"):
            read(tmp_path / f"{name}.parquet", tmp_path / "units.parquet", {}, record)


def test_the_authors_means_are_read_as_they_are(
    tmp_path: Path, record: Provenance, shared_data: Path
) -> None:
    path = shared_data / "uot_class_means" / "imagenet.resnet50_mocov2.parquet"
    read(path, tmp_path / "units.parquet", {"classes": 1000}, record)
    units, means = read_table("units", tmp_path / "units.parquet"), parquet.read_table(path)
    for ours, theirs in (("unit_id", "class_index"), ("name", "name"), ("concept", "concept")):
        assert units[ours].to_pylist() == means[theirs].to_pylist()
    assert units["mean"].combine_chunks().equals(means["mean"].combine_chunks())
    assert units["concept"].to_pylist().count("bird") == 59
