"""Published sets: each official layout in miniature, against torchvision's readers where it has them."""

import dataclasses
import io
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from scipy.io import savemat

from pipeline.config.datasets import AnyDataset, Published
from pipeline.datasets import published
from pipeline.datasets.content import dataset_digest
from pipeline.datasets.manifest import write_manifest
from pipeline.datasets.sets import NAMES, load_set
from pipeline.datasets.sets.archive import Archive, Images, Row
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, code_digest, covered_modules, read_provenance
from pipeline.tables import read_table, read_table_metadata

ROOT = Path(__file__).parents[2]


def entry(name: str, path: Path | str = "data", **values: Any) -> dict[str, Any]:
    """A published set's entry as the config resolves it."""
    known = {"format": "published", "name": name, "path": str(path), **values}
    return TypeAdapter(AnyDataset).validate_python(known).model_dump(mode="json")


# Miniatures of the archives: two or three classes, few images, every file named and written as in the
# real one. `put` gives every image a colour of its own.


def put(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        colour = np.frombuffer(name.encode()[-9:], np.uint8).reshape(1, 3, 3)
        Image.fromarray(colour).save(file, "JPEG" if file.suffix.lower() != ".png" else "PNG")


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))


def cells(*values: str) -> np.ndarray:
    """A MATLAB cell column."""
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def structs(**fields: Any) -> np.ndarray:
    """A MATLAB struct array."""
    columns = list(fields.values())
    array = np.empty((1, len(columns[0])), [(name, object) for name in fields])
    for place, values in enumerate(zip(*columns, strict=True)):
        array[0, place] = tuple(values)
    return array


def write_cub200(root: Path) -> None:
    folder = root / "CUB_200_2011"
    paths = [
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0003_1033.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0082_524.jpg",
    ]
    put(folder / "images", *paths)
    write(folder / "images.txt", *(f"{row} {path}" for row, path in enumerate(paths, 1)))
    write(folder / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2", "5 2")
    write(folder / "train_test_split.txt", "1 0", "2 1", "3 0", "4 1", "5 1")
    write(folder / "classes.txt", "1 001.Black_footed_Albatross", "2 002.Laysan_Albatross")


def write_dogs(root: Path) -> None:
    folder = root / "stanford_dogs"
    parts = {
        "train": ["n02085620-Chihuahua/n02085620_5927.jpg", "n02085782-Japanese_spaniel/n02085782_2887.jpg"],
        "test": ["n02085620-Chihuahua/n02085620_2650.jpg", "n02085782-Japanese_spaniel/n02085782_1039.jpg"],
    }
    for part, paths in parts.items():
        put(folder / "Images", *paths)
        lists = {"file_list": cells(*paths), "labels": np.array([[1], [2]], np.uint8)}
        savemat(folder / f"{part}_list.mat", {**lists, "annotation_list": cells("a", "b")})


def write_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    parts = {"train": [14, 3, 14], "test": [3, 14]}
    names = [f"Make {number} Sedan 2012" for number in range(1, 15)]
    for part, classes in parts.items():
        files = [f"{row:05}.jpg" for row in range(1, len(classes) + 1)]
        put(folder / f"cars_{part}", *files)
        box = [1] * len(classes)
        cars = structs(bbox_x1=box, bbox_y1=box, bbox_x2=box, bbox_y2=box, **{"class": classes}, fname=files)
        place = "devkit/cars_train_annos" if part == "train" else "cars_test_annos_withlabels"
        savemat(folder / f"{place}.mat", {"annotations": cars})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": cells(*names).T})


def write_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    parts = {
        "trainval": ["Abyssinian_100 1 1 1", "american_bulldog_10 2 2 1", "american_bulldog_2 2 2 1"],
        "test": ["Abyssinian_201 1 1 1", "american_bulldog_20 2 2 1"],
    }
    for part, lines in parts.items():
        write(folder / "annotations" / f"{part}.txt", *lines)
        put(folder / "images", *(f"{line.split()[0]}.jpg" for line in lines))
    (folder / "images" / "Abyssinian_100.mat").write_bytes(b"the archive has some of these")


def write_sun397(root: Path) -> None:
    folder = root / "SUN397"
    classes = ["/a/abbey", "/a/apartment_building/outdoor", "/y/youth_hostel"]
    write(folder / "ClassName.txt", *classes)
    for part, letter in (("Training", "t"), ("Testing", "e")):
        paths = [f"{name}/sun_{letter}{place}aaa.jpg" for name in classes for place in range(2)]
        write(folder / "Partitions" / f"{part}_01.txt", *paths)
        put(folder, *(path[1:] for path in paths))
    put(folder, "a/abbey/sun_in_no_list.jpg")


def write_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    write(data / "variants.txt", "707-320", "DC-10", "Model B200")
    for number, part in enumerate(("train", "val", "test")):
        lines = [f"{number}{row}34309 {name}" for row, name in enumerate(("707-320", "DC-10", "Model B200"))]
        write(data / f"images_variant_{part}.txt", *lines)
        put(data / "images", *(f"{line.split()[0]}.jpg" for line in lines))


def write_dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    for number, part in enumerate(("train", "val", "test")):
        paths = [f"{name}/{name}_{number}{row}.jpg" for name in ("zigzagged", "banded") for row in range(2)]
        put(folder / "images", *paths)
        write(folder / "labels" / f"{part}1.txt", *paths)
        write(folder / "labels" / f"{part}2.txt", *reversed(paths[:2]))


def write_caltech101(root: Path) -> None:
    folder = root / "caltech101" / "101_ObjectCategories"
    for name, count in {"accordion": 33, "BACKGROUND_Google": 34, "yin_yang": 32}.items():
        put(folder, *(f"{name}/image_{number:04}.jpg" for number in range(1, count + 1)))


IMAGENET = {"n01440764": 3, "n02012849": 1, "n03126707": 2}


def write_devkit(folder: Path) -> None:
    """The devkit's lists: WordNet ids in another order than the numbers, and one synset above them."""
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    numbers = [1, 2, 3, 1001]
    ids = ["n02012849", "n03126707", "n01440764", "n00001740"]
    words = ["crane", "crane", "tench, Tinca tinca", "entity"]
    synsets = structs(
        ILSVRC2012_ID=numbers,
        WNID=ids,
        words=words,
        gloss=["what it is"] * 4,
        num_children=[0, 0, 0, 3],
        children=[0, 0, 0, [1, 2, 3]],
        wordnet_height=[0, 0, 0, 1],
        num_train_images=[2, 2, 2, 0],
    ).T
    data.mkdir(parents=True)
    savemat(data / "meta.mat", {"synsets": synsets})
    write(data / "ILSVRC2012_validation_ground_truth.txt", "3", "1", "2", "3")


def write_imagenet(root: Path) -> None:
    folder = root / "imagenet"
    write_devkit(folder)
    put(folder / "train", *(f"{wnid}/{wnid}_{row}.JPEG" for wnid in IMAGENET for row in range(2)))
    put(folder / "val", *(f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 5)))


def write_flowers_kaggle(root: Path) -> None:
    folder = root / "oxford-102-flower-pytorch" / "flower_data"
    put(
        folder / "train", *(f"{number}/image_{number:03}{row}.jpg" for number in (1, 10, 102) for row in "12")
    )
    put(folder / "valid", *(f"{number}/image_{number:03}3.jpg" for number in (1, 10, 102)))
    put(folder / "test", "image_00000.jpg")


def write_imagenet20(root: Path) -> None:
    folder = root / "imagenet20"
    ids = {"imagenette2": ("n03888257", "n01440764"), "imagewoof2": ("n02115641",)}
    for name, wnids in ids.items():
        put(folder / name / "train", *(f"{wnid}/{wnid}_{row}.JPEG" for wnid in wnids for row in range(2)))
        put(folder / name / "val", *(f"{wnid}/ILSVRC2012_val_000{wnid[-4:]}.JPEG" for wnid in wnids))
        (folder / name / f"noisy_{name.removesuffix('2')}.csv").write_text("path,noisy_labels_0\n")


MINIATURES: dict[str, tuple[Callable[[Path], None], dict[str, int]]] = {
    "aircraft": (write_aircraft, {"classes": 3, "train": 3, "validation": 3, "test": 3}),
    "caltech101": (write_caltech101, {"classes": 2, "images": 65, "train": 60, "test": 5}),
    "cars": (write_cars, {"classes": 2, "train": 3, "test": 2}),
    "cub200": (write_cub200, {"classes": 2, "images": 5, "train": 3, "test": 2}),
    "dogs": (write_dogs, {"classes": 2, "train": 2, "test": 2}),
    "dtd": (write_dtd, {"classes": 2, "train and validation": 8, "test": 4}),
    "flowers_kaggle": (write_flowers_kaggle, {"classes": 3, "train": 6, "test": 3}),
    "imagenet": (write_imagenet, {"classes": 3, "train": 6, "validation": 4}),
    "imagenet20": (write_imagenet20, {"classes": 3, "train": 6, "test": 3}),
    "pets": (write_pets, {"classes": 2, "train": 3, "test": 2}),
    "sun397": (write_sun397, {"classes": 3, "train": 6, "test": 6}),
}


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that writes a set in miniature and has the set counted as that; gives the root."""

    def make(name: str, counted: bool = True, **counts: dict[str, int]) -> Path:
        write_set, official = MINIATURES[name]
        write_set(tmp_path / "sets")
        if counted:
            known = load_set(name)
            changed = dataclasses.replace(known, counts={**known.counts, "official": official, **counts})
            monkeypatch.setattr(f"pipeline.datasets.sets.{name}.SET", changed)
        return tmp_path / "sets"

    return make


def make(root: Path, name: str, **values: Any) -> pa.Table:
    """The manifest of a set."""
    output = root.parent / "manifest.parquet"
    values = {"classes": MINIATURES[name][1]["classes"], **values}
    resolved = entry(name, root, **values)
    write_manifest(published.read(resolved), output, resolved, Provenance("test", {}, "", {}), threads=1)
    return read_table("manifest", output)


def rows_of(table: pa.Table) -> list[tuple[str, str, str]]:
    """Path, part and class of every image."""
    columns = [table[name].to_pylist() for name in ("sample_id", "split", "class_name")]
    return list(zip(*columns, strict=True))


# Layouts

NO_CUT = {"validation": 0, "test": 0}


def test_cub200(miniature: Any) -> None:
    table = make(miniature("cub200"), "cub200", split=NO_CUT)
    black, laysan = "images/001.Black_footed_Albatross", "images/002.Laysan_Albatross"
    assert rows_of(table) == [
        (f"{black}/Black_Footed_Albatross_0009_34.jpg", "train", "Black footed Albatross"),
        (f"{black}/Black_Footed_Albatross_0046_18.jpg", "test", "Black footed Albatross"),
        (f"{laysan}/Laysan_Albatross_0002_1027.jpg", "test", "Laysan Albatross"),
        (f"{laysan}/Laysan_Albatross_0003_1033.jpg", "train", "Laysan Albatross"),
        (f"{laysan}/Laysan_Albatross_0082_524.jpg", "train", "Laysan Albatross"),
    ]
    assert table["label"].to_pylist() == [0, 0, 1, 1, 1]


def test_dogs(miniature: Any) -> None:
    assert rows_of(make(miniature("dogs"), "dogs", split=NO_CUT)) == [
        ("Images/n02085620-Chihuahua/n02085620_2650.jpg", "test", "Chihuahua"),
        ("Images/n02085620-Chihuahua/n02085620_5927.jpg", "train", "Chihuahua"),
        ("Images/n02085782-Japanese_spaniel/n02085782_1039.jpg", "test", "Japanese spaniel"),
        ("Images/n02085782-Japanese_spaniel/n02085782_2887.jpg", "train", "Japanese spaniel"),
    ]


def test_imagenet20_joins_both_archives(miniature: Any) -> None:
    root = miniature("imagenet20")
    table = make(root, "imagenet20", split=NO_CUT)
    assert [(path.split("/")[0], part, name) for path, part, name in rows_of(table)] == [
        *(("imagenette2", "train", name) for name in ("tench", "tench", "parachute", "parachute")),
        *(("imagenette2", "test", name) for name in ("tench", "parachute")),
        *(("imagewoof2", part, "dingo") for part in ("train", "train", "test")),
    ]
    labels = dict(zip(table["class_name"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert labels == {"tench": 0, "dingo": 1, "parachute": 2}


def test_imagenet20_has_the_classes_of_both_archives() -> None:
    """Imagenette's as torchvision lists them; Imagewoof's are ten breeds of dogs."""
    from torchvision.datasets import Imagenette

    from pipeline.datasets.sets import imagenet20

    nette = {wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()}
    woof = {wnid: name for wnid, name in imagenet20.NAMES.items() if wnid not in nette}
    assert nette.items() < imagenet20.NAMES.items()
    assert sorted(woof.values()) == [
        *("Australian terrier", "Border terrier", "English foxhound", "Old English sheepdog"),
        *("Rhodesian ridgeback", "Samoyed", "Shih-Tzu", "beagle", "dingo", "golden retriever"),
    ]
    assert list(imagenet20.NAMES) == sorted(imagenet20.NAMES)


def test_flowers_are_named_as_oxford_numbers_them(miniature: Any) -> None:
    root = miniature("flowers_kaggle")
    table = make(root, "flowers_kaggle", split=NO_CUT)
    assert sorted({(path.split("/")[1], name) for path, _, name in rows_of(table)}) == [
        ("1", "pink primrose"),
        ("10", "globe thistle"),
        ("102", "blackberry lily"),
    ]
    assert {(path.split("/")[0], part) for path, part, _ in rows_of(table)} == {
        ("train", "train"),
        ("valid", "test"),
    }


# What torchvision calls the parts, and how it is asked for them.
TORCHVISION = {
    "aircraft": ("FGVCAircraft", {"train": "train", "validation": "val", "test": "test"}),
    "cars": ("StanfordCars", {"train": "train", "test": "test"}),
    "dtd": ("DTD", {"train": "train", "validation": "val", "test": "test"}),
    "pets": ("OxfordIIITPet", {"train": "trainval", "test": "test"}),
}


def theirs(kind: str, root: Path, **arguments: Any) -> list[tuple[bytes, str]]:
    """Pixels and class name of every image, by torchvision's own reader."""
    import torchvision

    images = getattr(torchvision.datasets, kind)(root, **arguments)
    names = getattr(images, "classes", getattr(images, "categories", None))
    pairs = (images[row] for row in range(len(images)))
    return sorted((image.convert("RGB").tobytes(), names[label]) for image, label in pairs)


def ours(table: pa.Table, *parts: str) -> list[tuple[bytes, str]]:
    """Pixels and class name of every image of some parts."""
    rows = table.to_pylist()
    return sorted(
        (Image.open(row["image"]["path"]).convert("RGB").tobytes(), row["class_name"])
        for row in rows
        if row["split"] in parts
    )


@pytest.mark.parametrize("name", TORCHVISION)
def test_images_parts_and_classes_are_those_of_torchvision(name: str, miniature: Any) -> None:
    root = miniature(name)
    table = make(root, name, split=NO_CUT)
    kind, parts = TORCHVISION[name]
    assert set(table["split"].to_pylist()) == set(parts)
    for part, split in parts.items():
        assert ours(table, part) == theirs(kind, root, split=split)
        assert len(ours(table, part)) >= 2


def test_sun397_has_the_first_split_with_the_classes_of_torchvision(miniature: Any) -> None:
    root = miniature("sun397")
    table = make(root, "sun397", split=NO_CUT)
    assert Counter(table["split"].to_pylist()) == {"train": 6, "test": 6}
    assert all(("sun_t" in path) == (part == "train") for path, part, _ in rows_of(table))
    (root / "SUN397" / "a" / "abbey" / "sun_in_no_list.jpg").unlink()
    assert ours(table, "train", "test") == theirs("SUN397", root)


def test_caltech101_has_thirty_drawn_images_of_each_class(miniature: Any) -> None:
    root = miniature("caltech101")
    table = make(root, "caltech101", split=NO_CUT)
    assert Counter((part, name) for _, part, name in rows_of(table)) == {
        ("train", "accordion"): 30,
        ("test", "accordion"): 3,
        ("train", "yin_yang"): 30,
        ("test", "yin_yang"): 2,
    }
    assert ours(table, "train", "test") == theirs("Caltech101", root)
    tests = [
        {path for path, part, _ in rows_of(make(root, "caltech101", split={"seed": seed})) if part == "test"}
        for seed in (0, 0, 1)
    ]
    assert tests[0] == tests[1] != tests[2]


def test_caltech101_with_its_background_class_as_the_core_tuning_paper_counts(miniature: Any) -> None:
    root = miniature("caltech101", core_tuning={"classes": 3, "train": 90, "test": 9})
    table = make(root, "caltech101", counts="core_tuning", classes=3, split=NO_CUT)
    assert Counter(name for _, _, name in rows_of(table)) == {
        "BACKGROUND_Google": 34,
        "accordion": 33,
        "yin_yang": 32,
    }


def test_imagenet_flat_and_as_torchvision_sorts_it(miniature: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import imagenet

    root = miniature("imagenet")
    flat = make(root, "imagenet", split=NO_CUT)
    assert Counter(flat["split"].to_pylist()) == {"train": 6, "validation": 4}
    before = labelled(flat, "train"), labelled(flat, "validation")
    assert json.loads(read_table_metadata(root.parent / "manifest.parquet")["class_names"]) == [
        "tench, Tinca tinca",
        "crane, bird",
        "crane",
    ]
    folder = root / "imagenet"
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(folder / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for file in sorted((folder / "val").iterdir()):
            archive.add(file, file.name)
            file.unlink()
    (folder / "val").rmdir()
    # The archives in miniature have other digests than the real ones.
    monkeypatch.setattr(imagenet, "_verify_archive", lambda root, file, md5: None)
    for split, expected in zip(("train", "val"), before, strict=True):
        images = imagenet.ImageNet(folder, split=split)
        assert sorted((image.tobytes(), label) for image, label in images) == expected
    assert not list((folder / "val").glob("*.JPEG"))
    sorted_into_folders = make(root, "imagenet", split=NO_CUT)
    assert labelled(sorted_into_folders, "validation") == before[1]


def labelled(table: pa.Table, part: str) -> list[tuple[bytes, int]]:
    """Pixels and label of every image of a part."""
    return sorted(
        (Image.open(row["image"]["path"]).convert("RGB").tobytes(), row["label"])
        for row in table.to_pylist()
        if row["split"] == part
    )


# Parts


def test_a_missing_validation_part_is_a_seeded_tenth_of_each_class(miniature: Any) -> None:
    root = miniature("caltech101")
    table = make(root, "caltech101")
    counts = Counter((part, name) for _, part, name in rows_of(table))
    assert {name: counts["validation", name] for name in ("accordion", "yin_yang")} == {
        "accordion": 3,
        "yin_yang": 3,
    }


def test_official_validation_parts_stay(miniature: Any) -> None:
    root = miniature("dtd")
    assert Counter(make(root, "dtd")["split"].to_pylist()) == {"train": 4, "validation": 4, "test": 4}


# Counts


def whole(name: str, counts: dict[str, int]) -> tuple[Images, list[str]]:
    """As many rows as an official archive has."""
    classes = counts["classes"]
    parts = [part for part in ("train", "validation", "test") for _ in range(counts.get(part, 0))]
    rows = [Row(f"{row}.jpg", part, row % classes) for row, part in enumerate(parts)]
    return Images(rows, [str(label) for label in range(classes)]), parts


@pytest.mark.parametrize("name", [name for name in NAMES if name != "caltech101"])
def test_every_paper_counts_the_official_archive_but_for_errata(name: str) -> None:
    known = load_set(name)
    images, parts = whole(name, dict(known.counts["official"]))
    for counter in known.counts:
        published.check_counts(known, counter, images, parts, Path("set"))
    with pytest.raises(PipelineError) as error:
        published.check_counts(known, "official", images, [*parts[1:], "test"], Path("set"))
    trained_on = known.counts["official"]["train"]
    assert f"train: found {trained_on - 1:,}, expected {trained_on:,}" in str(error.value)


def test_caltech101_with_and_without_its_background_class() -> None:
    known = load_set("caltech101")
    for counter, classes, background in (("official", 101, 0), ("uot", 101, 0), ("core_tuning", 102, 467)):
        train = 30 * classes
        counts = {"classes": classes, "train": train, "test": 8_677 + background - train}
        published.check_counts(known, counter, *whole("caltech101", counts), Path("set"))
        with pytest.raises(PipelineError, match="classes: found 100, expected 10"):
            published.check_counts(
                known, counter, *whole("caltech101", counts | {"classes": 100}), Path("set")
            )


def test_the_misprint_is_named_where_counts_differ() -> None:
    known = load_set("pets")
    images, parts = whole("pets", {"classes": 37, "train": 3_680, "test": 3_369})
    with pytest.raises(PipelineError) as error:
        published.check_counts(known, "core_tuning", images, parts, Path("set"))
    assert "test: found 3,369, expected 3,669" in str(error.value)
    assert "the paper prints 3,369; 3,369 is a misprint" in str(error.value)


# By the file's name in the published class means, the set and how many images were averaged.
MEANS = {
    "aircraft": "aircraft",
    "caltech": "caltech101",
    "cars": "cars",
    "cub": "cub200",
    "dogs": "dogs",
    "dtd": "dtd",
    "imagenet": "imagenet",
    "pets": "pets",
    "sun": "sun397",
}


@pytest.mark.parametrize("means", MEANS)
def test_the_papers_own_class_means_average_the_images_counted_here(means: str, shared_data: Path) -> None:
    file = shared_data / "uot_class_means" / f"{means}.resnet18_supervised.parquet"
    averaged = parquet.read_table(file, columns=["images"])["images"].to_numpy()
    known = load_set(MEANS[means])
    counts = {**known.expected("official"), **known.expected("uot" if "uot" in known.counts else "official")}
    assert len(averaged) == counts["classes"]
    # ImageNet's validation part is not averaged; those of targets are.
    held_out = 0 if means == "imagenet" else counts.get("validation", 0)
    assert averaged.sum() == counts["train"] + held_out
    if known.train_per_class is not None:
        assert set(averaged) == {known.train_per_class}


@pytest.mark.parametrize("name", NAMES)
def test_a_set_that_is_not_the_published_one_is_refused_before_an_image_is_opened(
    name: str, miniature: Any
) -> None:
    root = miniature(name, counted=False)
    for file in root.rglob("*"):
        if file.suffix.lower() in (".jpg", ".jpeg"):
            file.write_bytes(b"never opened")
    known = load_set(name)
    with pytest.raises(PipelineError) as error:
        published.read(entry(name, root))
    expected, found = known.counts["official"]["classes"], MINIATURES[name][1]["classes"]
    assert f"not {known.title} as its archive counts it" in str(error.value)
    assert f"classes: found {found:,}, expected {expected:,}" in str(error.value)


# What is missing or damaged


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_archive_says_what_to_download_and_where_to_put_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as error:
        published.read(entry(name, tmp_path))
    known = load_set(name)
    text = str(error.value)
    assert known.page in text
    assert known.archives in text
    for place in (*known.files, *known.folders):
        assert f"{known.folder}/{place}" in text
    assert ("download=True" in text) == (known.torchvision is not None)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_a_layout_is_asked_for(name: str, miniature: Any) -> None:
    root = miniature(name)
    known = load_set(name)
    for place in known.files:
        moved = root / "elsewhere"
        (root / known.folder / place).rename(moved)
        assert Archive(known, root).missing() == [f"{known.folder}/{place}"]
        with pytest.raises(PipelineError, match=re.escape(f"  {known.folder}/{place}\n")):
            published.read(entry(name, root))
        moved.rename(root / known.folder / place)
    assert Archive(known, root).missing() == []


def test_listed_images_that_are_missing_are_named(miniature: Any) -> None:
    root = miniature("pets")
    (root / "oxford-iiit-pet" / "images" / "american_bulldog_2.jpg").unlink()
    with pytest.raises(PipelineError) as error:
        make(root, "pets")
    assert "1 of 5 images that Oxford-IIIT Pets lists are missing" in str(error.value)
    assert "american_bulldog_2.jpg" in str(error.value)


UNKNOWN_FOLDERS = {
    "imagenet20": ("imagenet20/imagewoof2/val/n02123045/cat.JPEG", "one of the twenty WordNet ids"),
    "flowers_kaggle": (
        "oxford-102-flower-pytorch/flower_data/valid/103/image_00001.jpg",
        "expected a class folder from 1 to 102",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN_FOLDERS)
def test_class_folders_of_another_set_are_refused(name: str, miniature: Any) -> None:
    path, message = UNKNOWN_FOLDERS[name]
    root = miniature(name)
    put(root, path)
    with pytest.raises(PipelineError, match=message) as error:
        make(root, name)
    assert path in str(error.value)


DAMAGED = {
    "too few fields": ("cub200", "images.txt", "1", "expected 2 fields in a line, found '1'"),
    "an image without a label": ("cub200", "image_class_labels.txt", "1 1", "do not fit one another"),
    "a label that is no number": ("pets", "annotations/test.txt", "x_1 one 1 1", "do not fit one another"),
    "an unknown class of scenes": (
        "sun397",
        "Partitions/Training_01.txt",
        "/z/zoo/sun_a.jpg",
        "'/z/zoo/sun_a.jpg' is of no class in ClassName.txt",
    ),
    "an unknown variant": (
        "aircraft",
        "data/images_variant_val.txt",
        "1034309 MD-11",
        "'MD-11' is not in variants.txt",
    ),
    "no MATLAB file": ("dogs", "train_list.mat", "hello", "cannot be read as a MATLAB file"),
    "truth that is too short": (
        "imagenet",
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
        "3",
        "a number up to 1",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_lists_are_refused(case: str, miniature: Any) -> None:
    name, place, content, message = DAMAGED[case]
    root = miniature(name)
    write(root / load_set(name).folder / place, content)
    with pytest.raises(PipelineError) as error:
        make(root, name)
    assert message in str(error.value)
    assert load_set(name).folder in str(error.value)


def test_a_matlab_file_that_is_cut_off_is_refused(miniature: Any) -> None:
    file = miniature("dogs") / "stanford_dogs" / "train_list.mat"
    names = [f"n02085620-Chihuahua/n02085620_{row}.jpg" for row in range(50)]
    savemat(file, {"file_list": cells(*names)}, do_compression=True)
    whole_file = file.read_bytes()
    for size in range(0, len(whole_file) - 1, 20):
        file.write_bytes(whole_file[:size])
        with pytest.raises(PipelineError, match=r"train_list.mat: (cannot be read|holds no variable)"):
            make(file.parents[1], "dogs")


def test_a_variable_that_is_missing_is_named(miniature: Any) -> None:
    root = miniature("cars")
    savemat(root / "stanford_cars" / "devkit" / "cars_meta.mat", {"names": cells("a")})
    with pytest.raises(PipelineError, match=r"cars_meta.mat: holds no variable 'class_names'"):
        make(root, "cars")


def test_a_class_with_too_few_images_to_draw_from(miniature: Any) -> None:
    root = miniature("caltech101")
    for number in (31, 32):
        (root / "caltech101/101_ObjectCategories/yin_yang" / f"image_{number:04}.jpg").unlink()
    with pytest.raises(PipelineError, match="class 'yin_yang' has 30 images; 30 to train on leave none"):
        make(root, "caltech101")


def test_names_are_checked_by_the_step_too() -> None:
    with pytest.raises(PipelineError, match="did you mean 'cub200'"):
        published.read({**entry("cub200"), "name": "cub"})
    with pytest.raises(PipelineError, match="of cub200 there are: official, uot"):
        published.read({**entry("cub200"), "counts": "core_tuning"})


# Settings

# UOT paper, appendix A; ImageNet is its source.
METRICS = {"aircraft": "mean_per_class", "caltech101": "mean_per_class", "pets": "mean_per_class"}


@pytest.mark.parametrize("name", NAMES)
def test_the_metric_and_the_classes_are_those_of_the_set(name: str) -> None:
    found = entry(name)
    assert found["metric"] == METRICS.get(name, "top1")
    assert found["classes"] == load_set(name).counts["official"]["classes"]
    assert found["split"] == {"validation": 0.1, "test": 0.0, "seed": 0}
    assert entry(name, metric="top1", classes=7)["metric"] == "top1"
    assert entry(name, metric="top1", classes=7)["classes"] == 7
    assert entry(name, split={"seed": 4})["split"] == {"validation": 0.1, "test": 0.0, "seed": 4}


def test_the_classes_are_those_that_the_paper_counts() -> None:
    assert entry("caltech101", counts="core_tuning")["classes"] == 102


@pytest.mark.parametrize(
    "values",
    [{"counts": "core_tuning"}, {"counts": "mine"}, {"name": "cub"}, {"split": None}, {"download": True}],
)
def test_impossible_entries_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        entry(**{"name": "cub200", **values})


def test_the_config_offers_the_sets_that_there_are() -> None:
    modules = {file.stem for file in (ROOT / "src/pipeline/datasets/sets").glob("*.py")}
    assert modules - {"__init__", "archive"} == set(NAMES)
    assert get_args(Published.model_fields["name"].annotation) == NAMES
    counters = set(get_args(Published.model_fields["counts"].annotation))
    assert counters == {counter for name in NAMES for counter in load_set(name).counts}


# The digests


@pytest.mark.parametrize("name", NAMES)
def test_the_digest_is_that_of_the_lists_or_the_images(name: str, miniature: Any) -> None:
    known, settings = load_set(name), entry(name, "nowhere")
    assert dataset_digest(settings) is None
    root = miniature(name)
    settings = entry(name, root)
    first = dataset_digest(settings)
    assert first is not None
    (root / known.folder / "README").write_text("not read")
    assert dataset_digest(settings) == first
    for place in known.files or Archive(known, root).deciding_files()[:1]:
        file = root / known.folder / place
        file.write_bytes(file.read_bytes() + b"\n")
        second = dataset_digest(settings)
        assert second != first
        first = second


def test_the_code_of_a_set_covers_no_other() -> None:
    covered = covered_modules(
        ["pipeline.datasets", "pipeline.datasets.published", "pipeline.datasets.sets.dtd"]
    )
    assert [name for name in NAMES if f"pipeline.datasets.sets.{name}" in covered] == ["dtd"]


MAKE_IN_MINIATURE = """
import dataclasses, json, sys
from pathlib import Path
from pipeline.datasets.__main__ import main
from pipeline.datasets.sets import {name}
counts = {{"official": json.loads(sys.argv[3])}}
{name}.SET = dataclasses.replace({name}.SET, counts=counts)
main(Path("manifest.parquet"), sys.argv[1], sys.argv[2], 1)
"""


@pytest.mark.parametrize("name", ["cub200", "dogs", "imagenet"])
def test_the_step_loads_no_code_outside_its_digest(name: str, tmp_path: Path) -> None:
    write_set, counts = MINIATURES[name]
    write_set(tmp_path / "sets")
    settings = json.dumps(entry(name, "sets", classes=counts["classes"], split=NO_CUT))
    modules = ("pipeline.datasets", "pipeline.datasets.published", f"pipeline.datasets.sets.{name}")
    for code, missing in ((code_digest(*modules), None), (code_digest(*modules[:2]), modules[2])):
        found = subprocess.run(
            [
                *(sys.executable, "-c", MAKE_IN_MINIATURE.format(name=name)),
                *(settings, str(code), json.dumps(counts)),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        if missing is None:
            assert found.returncode == 0, found.stderr
            record = read_provenance(tmp_path / "manifest.parquet")
            assert record is not None
            assert record.inputs == {"data": dataset_digest(entry(name, tmp_path / "sets"))}
        else:
            assert f"loaded code outside its digest: {missing}" in found.stderr


def test_the_snakefile_can_ask_without_loading_numpy() -> None:
    code = (
        "import sys; from pipeline.datasets.sets import NAMES, load_set\n"
        "from pipeline.config.datasets import Published\nimport pipeline.datasets.content\n"
        "for name in NAMES: load_set(name)\n"
        "print(sorted({'numpy', 'pandas', 'pyarrow', 'scipy', 'torch'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# The page


def test_the_page_names_every_set_its_counts_and_the_errata() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    for name in NAMES:
        known = load_set(name)
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert known.folder in row
        for what, count in known.counts["official"].items():
            assert f"{count:,}" in row, (name, what)
        assert ("mean per class" in row) == (known.metric == "mean_per_class")
        for (counter, what), erratum in known.errata.items():
            assert f"{known.counts[counter][what]:,}" in page
            assert f"{erratum.read_as:,}" in page


def test_a_picture_is_read_from_where_it_lies(miniature: Any) -> None:
    root = miniature("dtd")
    table = make(root, "dtd")
    first = table.to_pylist()[0]
    assert first["image"]["bytes"] is None
    content = Path(first["image"]["path"]).read_bytes()
    assert Image.open(io.BytesIO(content)).size == (first["width"], first["height"]) == (3, 1)
