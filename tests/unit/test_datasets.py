"""From images as they come to a manifest: readers, labels, parts, checks."""

import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter

from pipeline.config.datasets import AnyDataset
from pipeline.datasets.content import dataset_digest
from pipeline.datasets.manifest import write_manifest
from pipeline.datasets.splits import cut_parts, named_parts
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, code_digest, covered_modules, read_provenance
from pipeline.tables import read_table, read_table_metadata
from pipeline.tables.schemas import IMAGE

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "images"
READERS = ("csv", "image_folder", "parquet", "published", "torchvision")


def entry(**values: Any) -> dict[str, Any]:
    """A dataset entry as the config resolves it."""
    return TypeAdapter(AnyDataset).validate_python(values).model_dump(mode="json")


def make(folder: Path, **values: Any) -> pa.Table:
    """The manifest of a dataset, made in this process."""
    resolved = entry(**values)
    reader = importlib.import_module(f"pipeline.datasets.{resolved['format']}")
    output = folder / "out" / "manifest.parquet"
    write_manifest(reader.read(resolved), output, resolved, Provenance("test", {}, "", {}), threads=2)
    assert [file.name for file in output.parent.iterdir()] == ["manifest.parquet"]
    return read_table("manifest", output)


def class_names(folder: Path) -> list[str]:
    return json.loads(read_table_metadata(folder / "out" / "manifest.parquet")["class_names"])


def picture(seed: int = 0, size: tuple[int, int] = (5, 4)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(seed: int = 0, size: tuple[int, int] = (5, 4), **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, "PNG", **options)
    return buffer.getvalue()


def put(root: Path, *names: str) -> None:
    """Write a picture of its own under every name."""
    for seed, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(seed))


def rows_of(table: pa.Table, *columns: str) -> list[tuple[Any, ...]]:
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


# Image folders


def test_a_folder_of_classes(tmp_path: Path):
    put(tmp_path / "my set ä", "dog/1.png", "cat/b 2.png", "cat/sub/1.PNG")
    (tmp_path / "my set ä" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "my set ä" / "cat" / "Thumbs.db").write_bytes(b"no image")
    (tmp_path / "my set ä" / "cat" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "my set ä" / ".cache").mkdir()
    (tmp_path / "my set ä" / "LICENSE").write_text("no image")
    root = tmp_path / "my set ä"
    table = make(tmp_path, format="image_folder", path=str(root), metric="mean_per_class")
    assert rows_of(table, "sample_id", "split", "label", "class_name", "width", "height") == [
        ("cat/b 2.png", "train", 0, "cat", 5, 4),
        ("cat/sub/1.PNG", "train", 0, "cat", 5, 4),
        ("dog/1.png", "train", 1, "dog", 5, 4),
    ]
    assert table["image"].to_pylist()[0] == {"bytes": None, "path": str(root / "cat/b 2.png")}
    assert class_names(tmp_path) == ["cat", "dog"]


def test_a_folder_of_parts(tmp_path: Path):
    put(tmp_path / "set", *(f"{part}/{name}/1.png" for part in ("Train", "val", "test") for name in "ab"))
    table = make(tmp_path, format="image_folder", path=str(tmp_path / "set"))
    assert rows_of(table, "sample_id", "split", "label") == [
        ("Train/a/1.png", "train", 0),
        ("Train/b/1.png", "train", 1),
        ("test/a/1.png", "test", 0),
        ("test/b/1.png", "test", 1),
        ("val/a/1.png", "validation", 0),
        ("val/b/1.png", "validation", 1),
    ]


def test_the_size_is_that_of_the_upright_image(tmp_path: Path):
    put(tmp_path / "set", "a/1.png", "b/1.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    (tmp_path / "set" / "a" / "1.png").write_bytes(png(0, (9, 3), exif=exif))
    table = make(tmp_path, format="image_folder", path=str(tmp_path / "set"))
    assert rows_of(table, "width", "height")[0] == (3, 9)


# Parquet


def image_column(count: int, named: bool = True) -> pa.Array:
    structs = [{"bytes": png(row), "path": f"{row:02}.png" if named else None} for row in range(count)]
    return pa.array(structs, IMAGE)


def save(path: Path, metadata: dict[str, str] | None = None, row_group: int = 3, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata(metadata)
    parquet.write_table(table, path, row_group_size=row_group)
    return path


def test_parquet_with_class_names_and_parts(tmp_path: Path):
    path = save(
        tmp_path / "set.parquet",
        image=image_column(6),
        label=pa.array([7, 3, 3, 7, 3, 7], pa.int16()),
        class_name=pa.array(["cat", "ant", "ant", "cat", "ant", "cat"]).dictionary_encode(),
        split=["training", "dev", "train", "test", "test", "train"],
        domain=["photo"] * 5 + [None],
    )
    table = make(tmp_path, format="parquet", path=str(path))
    assert rows_of(table, "sample_id", "split", "label", "class_name", "domain")[:2] == [
        ("00.png", "train", 1, "cat", "photo"),
        ("01.png", "validation", 0, "ant", "photo"),
    ]
    assert table["image"].to_pylist() == image_column(6).to_pylist()
    assert class_names(tmp_path) == ["ant", "cat"]


def hugging_face(names: list[str]) -> dict[str, str]:
    label = {"names": names, "_type": "ClassLabel"}
    return {"huggingface": json.dumps({"info": {"features": {"label": label}}})}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (hugging_face(["ant", "bee", "cat"]), ["ant", "cat"]),
        ({"class_names": '["ant", "bee", "cat"]'}, ["ant", "cat"]),
        (None, ["0", "2"]),
    ],
)
def test_class_names_come_from_the_metadata(metadata: dict[str, str], expected: list[str], tmp_path: Path):
    path = save(tmp_path / "set.parquet", metadata, image=image_column(3), label=[0, 2, 2])
    table = make(tmp_path, format="parquet", path=str(path))
    assert table["label"].to_pylist() == [0, 1, 1]
    assert class_names(tmp_path) == expected


def test_parquet_of_plain_binary_and_names_as_labels(tmp_path: Path):
    images = image_column(12).field("bytes")
    path = save(tmp_path / "set.parquet", picture=images, kind=["b", "a"] * 6)
    table = make(tmp_path, format="parquet", path=str(path), image="picture", label="kind")
    assert table["sample_id"].to_pylist() == [f"{row:02}" for row in range(12)]
    assert table["label"].to_pylist() == [1, 0] * 6
    assert table["image"].to_pylist()[5] == {"bytes": png(5), "path": None}


def test_rows_in_another_order_than_their_names(tmp_path: Path):
    order = np.random.default_rng(0).permutation(450)
    images = pa.array([{"bytes": png(int(row)), "path": f"{row:04}.png"} for row in order], IMAGE)
    for part in range(3):
        rows = slice(part * 150, part * 150 + 150)
        save(tmp_path / "set" / f"{part}.parquet", None, 70, image=images[rows], label=order[rows] % 2)
    table = make(tmp_path, format="parquet", path=str(tmp_path / "set"))
    assert table["sample_id"].to_pylist() == [f"{row:04}.png" for row in range(450)]
    assert table["label"].to_pylist() == [0, 1] * 225
    assert [image["bytes"] for image in table["image"].to_pylist()] == [png(row) for row in range(450)]


def test_files_named_by_part_as_hugging_face_does(tmp_path: Path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        save(tmp_path / "set" / f"{name}.parquet", image=image_column(2, named=False), label=[0, 1])
    table = make(tmp_path, format="parquet", path=str(tmp_path / "set"))
    assert table["split"].to_pylist() == ["test"] * 2 + ["train"] * 4
    assert table["sample_id"].to_pylist() == list("012345")


def test_where_makes_labels_dense_again(tmp_path: Path):
    path = save(
        tmp_path / "set.parquet",
        image=image_column(6),
        label=[0, 5, 2, 5, 9, 2],
        part=["source", "target", "target", "target", "source", "target"],
        year=[1, 1, 2, 2, 2, 1],
    )
    where = {"part": ["target"], "year": ["1", "2"]}
    table = make(tmp_path, format="parquet", path=str(path), where=where, classes=2)
    assert rows_of(table, "sample_id", "label", "class_name") == [
        ("01.png", 1, "5"),
        ("02.png", 0, "2"),
        ("03.png", 1, "5"),
        ("05.png", 0, "2"),
    ]
    assert [image["bytes"] for image in table["image"].to_pylist()] == [png(row) for row in (1, 2, 3, 5)]


def test_a_set_without_labels(tmp_path: Path):
    path = save(tmp_path / "set.parquet", image=image_column(4))
    table = make(tmp_path, format="parquet", path=str(path), label=None, split={"validation": 0.5, "test": 0})
    assert table["label"].null_count == table["class_name"].null_count == 4
    assert sorted(table["split"].to_pylist()) == ["train"] * 2 + ["validation"] * 2
    assert class_names(tmp_path) == []


# CSV


def write_csv(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv(encoding: str, tmp_path: Path):
    put(tmp_path / "images", "a ä.png", "sub/b.png", "c.png")
    text = 'path,label,split\n"a ä.png",dog,train\n\nsub/../sub/b.png,cat,train\nc.png,cat,val\n'
    path = write_csv(tmp_path / "lists" / "set.csv", text, encoding)
    table = make(tmp_path, format="csv", path=str(path), root=str(tmp_path / "images"))
    assert rows_of(table, "sample_id", "split", "label", "class_name") == [
        ("a ä.png", "train", 1, "dog"),
        ("c.png", "validation", 0, "cat"),
        ("sub/b.png", "train", 0, "cat"),
    ]
    assert table["image"].to_pylist()[2]["path"] == str(tmp_path / "images" / "sub" / "b.png")


@pytest.mark.parametrize(
    ("values", "expected"),
    [("10 9", ["9", "10"]), ("10 9a", ["10", "9a"]), ("007 7", ["007", "7"])],
)
def test_csv_labels_are_integers_where_all_are(values: str, expected: list[str], tmp_path: Path):
    put(tmp_path, "0.png", "1.png")
    lines = [f"{row}.png,{value}" for row, value in enumerate(values.split())]
    make(tmp_path, format="csv", path=str(write_csv(tmp_path / "set.csv", "\n".join(["path,label", *lines]))))
    assert class_names(tmp_path) == expected


def test_an_absolute_path_inside_the_root_is_fine(tmp_path: Path):
    put(tmp_path, "0.png", "1.png")
    text = f"path,label\n{tmp_path}/0.png,a\n1.png,b\n"
    table = make(tmp_path, format="csv", path=str(write_csv(tmp_path / "set.csv", text)))
    assert table["sample_id"].to_pylist() == ["0.png", "1.png"]


# torchvision


def write_mnist(root: Path) -> None:
    """A miniature of MNIST's own files: three images to train, two to test."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, labels in {"train": [7, 2, 7], "t10k": [2, 7]}.items():
        images = np.arange(len(labels) * 28 * 28, dtype=np.uint8).reshape(-1, 28, 28)
        header = b"\x00\x00\x08\x03" + np.array(images.shape, ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = b"\x00\x00\x08\x01" + np.array([len(labels)], ">i4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + np.array(labels, np.uint8).tobytes())


def test_torchvision(tmp_path: Path):
    write_mnist(tmp_path / "sets")
    table = make(tmp_path, format="torchvision", name="MNIST", root=str(tmp_path / "sets"), download=False)
    assert rows_of(table, "sample_id", "split", "label", "class_name", "width") == [
        ("test/0000000", "test", 0, "2 - two", 28),
        ("test/0000001", "test", 1, "7 - seven", 28),
        ("train/0000000", "train", 1, "7 - seven", 28),
        ("train/0000001", "train", 0, "2 - two", 28),
        ("train/0000002", "train", 1, "7 - seven", 28),
    ]
    first = Image.open(io.BytesIO(table["image"].to_pylist()[2]["bytes"]))
    assert np.array_equal(np.asarray(first).ravel(), np.arange(784, dtype=np.uint8))


def test_torchvision_has_every_named_set_with_a_download():
    reader = importlib.import_module("pipeline.datasets.torchvision")
    torchvision = pytest.importorskip("torchvision")
    for name, parts in reader.SETS.items():
        parameters = getattr(torchvision.datasets, name).__init__.__code__.co_varnames
        assert {"root", "download"}.union(*parts.values()) <= set(parameters), name
        assert "train" in parts
        assert set(parts) <= {"train", "validation", "test"}


def test_a_set_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(PipelineError) as error:
        make(tmp_path, format="torchvision", name="CIFAR10", root=str(tmp_path / "sets"))
    assert "CIFAR10 in" in str(error.value)
    assert "cannot be downloaded here (no route to host)" in str(error.value)
    assert "On a machine with access run: python -c" in str(error.value)
    assert not (tmp_path / "sets").exists()


# What is refused. Every case makes its files in a folder and gives the entry and parts of the message.


def folder_case(*names: str, **values: Any) -> Any:
    def prepare(folder: Path) -> dict[str, Any]:
        put(folder / "set", *names)
        return {"format": "image_folder", "path": str(folder / "set"), **values}

    return prepare


def folder_with(content: bytes, name: str = "cat/2.png") -> Any:
    def prepare(folder: Path) -> dict[str, Any]:
        put(folder / "set", "cat/1.png", "dog/1.png")
        (folder / "set" / name).write_bytes(content)
        return {"format": "image_folder", "path": str(folder / "set")}

    return prepare


def empty_class(folder: Path) -> dict[str, Any]:
    put(folder / "set", "cat/1.png", "dog/1.png")
    (folder / "set" / "emu").mkdir()
    return {"format": "image_folder", "path": str(folder / "set")}


def many_bad_images(folder: Path) -> dict[str, Any]:
    put(folder / "set", "cat/1.png", "dog/1.png")
    for number in range(150):
        (folder / "set" / "dog" / f"bad {number:03}.png").write_bytes(b"")
    return {"format": "image_folder", "path": str(folder / "set")}


def parquet_case(metadata: dict[str, str] | None = None, columns: Any = None, **values: Any) -> Any:
    def prepare(folder: Path) -> dict[str, Any]:
        path = save(folder / "set.parquet", metadata, **{"image": image_column(4), **(columns or {})})
        return {"format": "parquet", "path": str(path), **values}

    return prepare


def truncated_parquet(folder: Path) -> dict[str, Any]:
    path = save(folder / "set.parquet", image=image_column(4), label=[0, 1, 0, 1])
    path.write_bytes(path.read_bytes()[:-20])
    return {"format": "parquet", "path": str(path)}


def parquet_damaged_inside(folder: Path) -> dict[str, Any]:
    path = save(folder / "set.parquet", image=image_column(4), label=[0, 1, 0, 1])
    content = bytearray(path.read_bytes())
    place = content.index(b"IHDR")
    content[place - 40 : place] = b"\xff" * 40
    path.write_bytes(content)
    return {"format": "parquet", "path": str(path)}


def files_with_other_columns(folder: Path) -> dict[str, Any]:
    save(folder / "set" / "0.parquet", image=image_column(4), label=[0, 1, 0, 1])
    save(folder / "set" / "1.parquet", image=image_column(4), label=list("abab"))
    return {"format": "parquet", "path": str(folder / "set")}


def csv_case(text: str, encoding: str = "utf-8", **values: Any) -> Any:
    def prepare(folder: Path) -> dict[str, Any]:
        put(folder, "a.png", "b.png")
        path = write_csv(folder / "set.csv", text, encoding)
        return {"format": "csv", "path": str(path), **values}

    return prepare


def path_case(kind: str, name: str = "gone", **values: Any) -> Any:
    return lambda folder: {"format": kind, "path": str(folder / name), **values}


def images_without(row: int) -> pa.Array:
    structs = image_column(4).to_pylist()
    structs[row]["bytes"] = None
    structs[row]["path"] = "/etc/hostname"
    return pa.array(structs, IMAGE)


LABELS = {"label": [0, 1, 0, 1]}
REFUSED: dict[str, tuple[Any, list[str]]] = {
    "no folder": (path_case("image_folder"), ["gone: no such folder"]),
    "no class folders": (folder_case("1.png"), ["expected a folder for each class"]),
    "image outside": (
        folder_case("cat/1.png", "dog/1.png", "1.png"),
        ["images outside every class", "1.png"],
    ),
    "empty class": (empty_class, ["class folder 'emu' holds no image"]),
    "empty part": (
        folder_case("train/a/1.png", "train/b/1.png", "test/a/1.png"),
        ["class folder 'b' is missing in 'test'"],
    ),
    "parts and classes": (
        folder_case("train/a/1.png", "extra/a/1.png"),
        ["found both parts (train) and other folders (extra)"],
    ),
    "one class": (folder_case("cat/1.png"), ["found one class only ('cat')", "at least two"]),
    "number of classes": (
        folder_case("cat/1.png", "dog/1.png", classes=3),
        ["found 2 classes, expected classes: 3 (cat, dog)"],
    ),
    "zero bytes": (folder_with(b""), ["1 of 3 images", "cat/2.png: the image is empty (0 bytes)"]),
    "text": (folder_with(b"hello"), ["cat/2.png: not an image", "b'hello'"]),
    "truncated": (folder_with(png(0, (50, 50))[:900]), ["cat/2.png: corrupt, truncated"]),
    "many bad images": (many_bad_images, ["150 of 152 images", "dog/bad 009.png", "... and 140 more"]),
    "too few for a subset": (
        folder_case("cat/1.png", "cat/2.png", "dog/1.png", subset={"by": "number", "per_class": 2}),
        ["subset.per_class: 2 is above the 1 training images of class 'dog'"],
    ),
    "one image to cut from": (
        folder_case("cat/1.png", "cat/2.png", "dog/1.png", split={"test": 0.6}),
        ["'dog' has one training image (dog/1.png)", "test: 0.6", "none to train on"],
    ),
    "no file": (path_case("parquet", "gone.parquet"), ["gone.parquet: no such file or folder"]),
    "no Parquet": (folder_case("cat/1.png", format="parquet"), ["holds no *.parquet file"]),
    "text as Parquet": (
        lambda folder: {"format": "parquet", "path": str(write_csv(folder / "x.parquet", "text"))},
        ["x.parquet: no Parquet file, or truncated"],
    ),
    "truncated Parquet": (truncated_parquet, ["set.parquet: no Parquet file, or truncated"]),
    "damaged Parquet": (parquet_damaged_inside, ["set.parquet: no Parquet file, or truncated or damaged"]),
    "other columns": (files_with_other_columns, ["the files differ in their columns"]),
    "unknown column": (
        parquet_case(columns={"lable": [0, 1, 0, 1]}),
        ["no column 'label' (found image, lable); did you mean 'lable'?"],
    ),
    "unknown image column": (parquet_case(columns=LABELS, image="img"), ["no column 'img'"]),
    "split column asked for": (
        parquet_case(columns=LABELS, split_column="fold"),
        ["no column 'fold'"],
    ),
    "no column of images": (
        parquet_case(columns=LABELS, image="label"),
        ["column 'label' is int64; expected struct<bytes: binary, path: string> or binary"],
    ),
    "labels of another type": (
        parquet_case(columns={"label": [0.5, 1.0, 2.0, 3.0]}),
        ["column 'label' is double; expected integers or strings"],
    ),
    "null label": (
        parquet_case(columns={"label": [0, None, 1, None]}),
        ["2 images have no usable label", "set.parquet row 1: has no label"],
    ),
    "negative label": (
        parquet_case(columns={"label": [0, -1, 1, 0]}),
        ["set.parquet row 1: has a negative label (found -1)"],
    ),
    "label out of range": (
        parquet_case({"class_names": '["ant", "bee"]'}, {"label": [0, 1, 2, 0]}),
        ["set.parquet row 2: has a label above the 2 class names (found 2)"],
    ),
    "names not JSON": (parquet_case({"class_names": "ant"}, LABELS), ["in the metadata are not JSON"]),
    "two names for a label": (
        parquet_case(columns={**LABELS, "class_name": ["ant", "bee", "cow", "bee"]}),
        ["label 0 has 2 class names: ant, cow"],
    ),
    "no bytes": (
        parquet_case(columns={**LABELS, "image": images_without(2)}),
        ["1 of 4 images", "/etc/hostname: no image (neither bytes nor path)"],
    ),
    "unknown split": (
        parquet_case(columns={**LABELS, "split": ["train", "train", "tests", "train"]}),
        ["split 'tests' of 1 images is none of train", "did you mean 'test'?"],
    ),
    "nothing to train on": (
        parquet_case(columns={**LABELS, "split": ["test"] * 4}),
        ["no training images (found only test)"],
    ),
    "class not in train": (
        parquet_case(columns={**LABELS, "split": ["train", "test"] * 2}),
        ["1 classes have no training image: '1'"],
    ),
    "where a column is unknown": (
        parquet_case(columns=LABELS, where={"prat": ["x"]}),
        ["no column 'prat'"],
    ),
    "where a value is unknown": (
        parquet_case(columns={**LABELS, "part": list("abab")}, where={"part": ["a", "c"]}),
        ["no row has 'c' in column 'part'"],
    ),
    "where nothing is left": (
        parquet_case(columns={**LABELS, "part": list("abab")}, where={"part": ["a"], "label": ["1"]}),
        ["no row has all of where"],
    ),
    "twice the same name": (
        parquet_case(columns={**LABELS, "image": pa.array([{"bytes": png(), "path": "x"}] * 4, IMAGE)}),
        ["x: ", "set.parquet row 0 and ", "set.parquet row 1"],
    ),
    "a number per class without labels": (
        parquet_case(label=None, subset={"by": "number", "per_class": 1}),
        ["subset: by number needs labels"],
    ),
    "classes without labels": (parquet_case(label=None, classes=2), ["no labels, and classes: 2"]),
    "no CSV": (path_case("csv", "gone.csv"), ["gone.csv: no such CSV file"]),
    "empty CSV": (csv_case(""), ["expected a header"]),
    "header alone": (csv_case("path,label\n"), ["set.csv: no images found"]),
    "missing column": (
        csv_case("file,label\na.png,x\n"),
        ["set.csv: no column 'path' (found file, label)"],
    ),
    "missing label column": (
        csv_case("path,labels\na.png,x\n"),
        ["no column 'label'", "did you mean 'labels'?"],
    ),
    "ragged": (
        csv_case("path,label\na.png,x\n\nb.png\n"),
        ["line 4 has 1 values, the header 2"],
    ),
    "UTF-16": (csv_case("path,label\na.png,x\n", "utf-16"), ["set.csv: not UTF-8"]),
    "open quote": (csv_case('path,label\n"a.png,x\n'), ["set.csv: not a CSV file"]),
    "empty label": (
        csv_case("path,label\na.png,x\nb.png,\n"),
        ["set.csv line 3: has no label"],
    ),
    "out of the root": (
        csv_case("path,label\n../a.png,x\n/etc/hostname,y\n,z\n"),
        ["expected paths of images inside", "line 2: found '../a.png'", "line 3", "line 4: found ''"],
    ),
    "listed twice": (
        csv_case("path,label\na.png,x\nb.png,y\n./a.png,y\n"),
        ["a.png: ", "set.csv line 2 and ", "set.csv line 4"],
    ),
    "listed and not there": (csv_case("path,label\na.png,x\nc.png,y\n"), ["c.png: cannot read"]),
    "not downloaded": (
        lambda folder: {"format": "torchvision", "name": "SVHN", "root": str(folder), "download": False},
        ["SVHN in", "is not there, and download is false"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path):
    prepare, expected = REFUSED[case]
    with pytest.raises(PipelineError) as error:
        make(tmp_path, **prepare(tmp_path))
    for text in expected:
        assert text in str(error.value)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


# Parts


@st.composite
def labelled_rows(draw: st.DrawFn) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, labels of up to five classes with at least two training images each, and parts."""
    labels, parts = [], []
    brought = draw(st.sampled_from([["train"], ["train", "test"], ["train", "validation", "test"]]))
    for label in range(draw(st.integers(1, 5))):
        extra = draw(st.lists(st.sampled_from(brought), max_size=30))
        labels += [label] * (2 + len(extra))
        parts += ["train", "train", *extra]
    names = [f"{number:03}" for number in range(len(labels))]
    return names, np.array(labels, np.int32), np.array(parts, "<U10")


SHARE = st.floats(0, 0.95, exclude_max=True)


@settings(max_examples=150, deadline=None)
@given(labelled_rows(), SHARE, SHARE, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_cut(rows: Any, validation: float, test: float, seed: int, random: Any):
    names, labels, parts = rows
    rule = {"validation": validation, "test": test, "seed": seed}
    before = parts.copy()
    cut = cut_parts(names, labels, "abcde", parts, rule)
    assert np.array_equal(parts, before)
    assert set(cut) <= {"train", "validation", "test"}
    assert np.array_equal(cut[parts != "train"], parts[parts != "train"])
    for label in np.unique(labels):
        of_class = labels == label
        count = np.sum(of_class & (parts == "train"))
        assert np.sum(of_class & (cut == "train")) >= 1
        wanted_test = 0 if "test" in parts else int(count * test + 0.5)
        wanted_validation = 0 if "validation" in parts else int(count * validation + 0.5)
        if wanted_test + wanted_validation < count:
            taken = of_class & (parts == "train")
            assert np.sum(taken & (cut == "test")) == wanted_test
            assert np.sum(taken & (cut == "validation")) == wanted_validation
    order = list(range(len(names)))
    random.shuffle(order)
    again = cut_parts([names[row] for row in order], labels[order], "abcde", parts[order], rule)
    assert np.array_equal(again, cut[order])


def test_another_seed_cuts_another_way():
    names, labels = [f"{row}" for row in range(100)], np.zeros(100, np.int32)
    cuts = [
        cut_parts(
            names, labels, ["a"], np.full(100, "train", "<U10"), {"validation": 0, "test": 0.5, "seed": seed}
        )
        for seed in (0, 1)
    ]
    assert 20 < np.sum(cuts[0] != cuts[1]) < 80


def test_the_cut_is_this_one():
    """Pinned: a change of the draw would silently change every published split."""
    names, labels = [f"{row}" for row in range(10)], np.repeat([0, 1], 5)
    rule = {"validation": 0.2, "test": 0.2, "seed": 0}
    cut = cut_parts(names, labels, "ab", np.full(10, "train", "<U10"), rule)
    assert np.flatnonzero(cut == "test").tolist() == [1, 5]
    assert np.flatnonzero(cut == "validation").tolist() == [2, 7]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Training", " val ", "dev", "VALID", "test"], ["train", *["validation"] * 3, "test"]),
        (None, ["train"] * 5),
    ],
)
def test_names_of_parts(names: list[str] | None, expected: list[str]):
    assert named_parts(names, 5).tolist() == expected


# The command


def run_datasets(folder: Path, resolved: dict[str, Any], code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.datasets", "out/manifest.parquet", "--threads", "2"]
    command += ["--settings", json.dumps(resolved), "--code", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_command_writes_the_same_table_each_time(tmp_path: Path):
    put(tmp_path / "a set", "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    resolved = entry(format="image_folder", path="a set", split={"validation": 0, "test": 0.5})
    resolved["content"] = "0123456789abcdef"
    code = str(code_digest("pipeline.datasets", "pipeline.datasets.image_folder"))
    output = tmp_path / "out" / "manifest.parquet"
    result = run_datasets(tmp_path, resolved, code)
    assert result.returncode == 0, result.stderr
    first = output.read_bytes()
    os.utime(tmp_path / "a set" / "cat" / "1.png", (1, 1))
    assert run_datasets(tmp_path, resolved, code).returncode == 0
    assert output.read_bytes() == first
    table = read_table("manifest", output)
    assert table["image"].to_pylist()[0]["path"] == "a set/cat/1.png"
    assert sorted(table["split"].to_pylist()) == ["test"] * 2 + ["train"] * 2
    record = read_provenance(output)
    assert record is not None
    assert record.inputs == {"data": "0123456789abcdef"}
    assert record.code == code
    assert "path" not in record.settings
    # Moved, it gives the same file but for the paths of its images.
    (tmp_path / "a set").rename(tmp_path / "moved")
    assert run_datasets(tmp_path, resolved | {"path": "moved"}, code).returncode == 0
    assert read_provenance(output) == record


def test_the_command_refuses_a_reader_outside_its_digest(tmp_path: Path):
    put(tmp_path / "set", "cat/1.png", "dog/1.png")
    code = str(code_digest("pipeline.datasets", "pipeline.datasets.csv"))
    result = run_datasets(tmp_path, entry(format="image_folder", path="set"), code)
    assert result.returncode == 1
    assert "loaded code outside its digest: pipeline.datasets.image_folder" in result.stderr


def test_the_command_shows_a_message_and_no_traceback(tmp_path: Path):
    put(tmp_path / "set", "cat/1.png")
    result = run_datasets(tmp_path, entry(format="image_folder", path="set"), "")
    assert result.returncode == 1
    assert "error: found one class only ('cat')" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", READERS)
def test_a_reader_knows_no_other(name: str):
    covered = covered_modules(["pipeline.datasets", f"pipeline.datasets.{name}"])
    assert [reader for reader in READERS if f"pipeline.datasets.{reader}" in covered] == [name]


# The digest of a dataset's files


def test_the_digest_follows_what_is_in_a_dataset(tmp_path: Path):
    put(tmp_path / "set", "cat/1.png", "dog/1.png")
    resolved = entry(format="image_folder", path=str(tmp_path / "set"))
    first = dataset_digest(resolved)
    (tmp_path / "set" / "cat" / "notes.txt").write_text("not read")
    assert dataset_digest(resolved) == first
    (tmp_path / "set" / "cat" / "2.png").write_bytes(png(9))
    assert dataset_digest(resolved) != first


def test_the_digest_of_a_csv_covers_its_images(tmp_path: Path):
    put(tmp_path, "a.png", "b.png", "c.png")
    path = write_csv(tmp_path / "set.csv", "path,label\na.png,x\nb.png,y\n")
    resolved = entry(format="csv", path=str(path))
    digests = [dataset_digest(resolved, tmp_path / "index.json")]
    (tmp_path / "c.png").write_bytes(b"not listed")
    assert dataset_digest(resolved, tmp_path / "index.json") == digests[0]
    (tmp_path / "b.png").write_bytes(png(9))
    digests.append(dataset_digest(resolved, tmp_path / "index.json"))
    path.write_text("path,label\na.png,y\nb.png,x\n")
    digests.append(dataset_digest(resolved, tmp_path / "index.json"))
    assert len(set(digests)) == 3


def test_the_digest_of_parquet_files_covers_only_them(tmp_path: Path):
    for number in range(2):
        save(tmp_path / "set" / f"{number}.parquet", image=image_column(2), label=[0, number])
    resolved = entry(format="parquet", path=str(tmp_path / "set"))
    first = dataset_digest(resolved)
    (tmp_path / "set" / "README.md").write_text("not read")
    assert dataset_digest(resolved) == first
    save(tmp_path / "set" / "2.parquet", image=image_column(2), label=[0, 1])
    assert dataset_digest(resolved) != first
    assert dataset_digest(entry(format="parquet", path=str(tmp_path / "set" / "0.parquet"))) != first


# Real data


def test_the_embedded_target(tmp_path: Path):
    path = Path(__file__).parents[2] / "data" / "quickdraw.parquet"
    table = make(tmp_path, format="parquet", path=str(path), where={"part": ["target"]}, classes=16)
    counts = {part: table["split"].to_pylist().count(part) for part in ("train", "validation", "test")}
    assert counts == {"train": 160, "validation": 320, "test": 1_120}
    assert class_names(tmp_path)[:3] == ["bear", "bird", "butterfly"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/images is not here")
def test_real_pictures_of_one_domain(tmp_path: Path):
    path = str(SHARED / "objects_domains.parquet")
    rule = {"validation": 0.2, "test": 0, "seed": 1}
    table = make(tmp_path, format="parquet", path=path, where={"domain": ["photo"]}, classes=9, split=rule)
    assert len(table) == 220
    assert "clothing" not in class_names(tmp_path)
    assert set(table["domain"].to_pylist()) == {"photo"}
    splits = table["split"].to_pylist()
    assert splits.count("test") == 66
    assert 25 <= splits.count("validation") <= 35
    stored = dict(zip(*(read_columns(path, "image", "class_name")), strict=True))
    for sample_id, name in rows_of(table, "sample_id", "class_name"):
        assert stored[sample_id] == name


def read_columns(path: str, image: str, name: str) -> tuple[list[str], list[str]]:
    table = parquet.read_table(path, columns=[image, name])
    return [struct["path"] for struct in table[image].to_pylist()], table[name].to_pylist()
