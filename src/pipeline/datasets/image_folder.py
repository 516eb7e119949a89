"""A folder of class folders, or of part folders (``train``, ``val``, ``test``) with class folders."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.datasets.files import image_files
from pipeline.datasets.listing import Listing, images_of_files
from pipeline.datasets.splits import part_named
from pipeline.errors import PipelineError, listed


def read(settings: Mapping[str, Any]) -> Listing:
    """List the images below ``path``; a class is named by its folder and may have folders of its own.

    Raises:
        PipelineError: If there are no class folders, one is empty or not in every part, or an image
            lies outside them.
    """
    root = Path(settings["path"])
    names = list(image_files(root))
    parts = _part_folders(root)
    depth = 1 if parts else 0
    _refuse_outside(root, names, depth)
    _check_classes(root, parts, Counter(tuple(name.split("/")[: depth + 1]) for name in names))
    columns = {"sample_id": names, "label": [name.split("/")[depth] for name in names]}
    if parts:
        columns["split"] = [name.split("/")[0] for name in names]
    paths = [str(root / name) for name in names]
    return Listing(
        rows=pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}),
        images=images_of_files(paths),
        locate=paths.__getitem__,
    )


def _part_folders(root: Path) -> list[str]:
    """The folders directly below `root` if they stand for parts; none if they stand for classes."""
    folders = _folders(root)
    if not folders:
        raise PipelineError(f"{root}: expected a folder for each class, found none")
    parts = [name for name in folders if part_named(name)]
    others = [name for name in folders if name not in parts]
    if others and "train" in map(part_named, parts):
        raise PipelineError(
            f"{root}: found both parts ({', '.join(parts)}) and other folders ({', '.join(others[:10])}); "
            "expected either parts or classes"
        )
    return [] if others else parts


def _check_classes(root: Path, parts: list[str], counts: Mapping[tuple[str, ...], int]) -> None:
    """Raise PipelineError unless every part has the same class folders, and all hold images."""
    places: list[tuple[str, ...]] = [(part,) for part in parts] or [()]
    folders = {place: set(_folders(root.joinpath(*place))) for place in places}
    classes = set.union(*folders.values())
    problems = [
        f"class folder {name!r} is missing in {place[0]!r}"
        for place, found in folders.items()
        for name in sorted(classes - found)
    ]
    problems += [
        f"class folder {'/'.join((*place, name))!r} holds no image"
        for place, found in folders.items()
        for name in sorted(found)
        if counts[(*place, name)] == 0
    ]
    if problems or not classes:
        raise PipelineError(f"{root}: unexpected folders:\n{listed(problems or ['no class folder'])}")


def _refuse_outside(root: Path, names: list[str], depth: int) -> None:
    outside = [name for name in names if name.count("/") <= depth]
    if outside:
        raise PipelineError(f"{root}: images outside every class folder:\n{listed(outside)}")


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
