"""Parts of a dataset: their names, and the cut of those that are missing.

Every draw sorts samples by a hash of the seed and the sample's own name. So it depends neither on the
order of the rows nor on a library's generator, and a sample that is added moves few others.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from pipeline.errors import PipelineError, did_you_mean

PARTS = ("train", "validation", "test")
ALIASES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def part_named(name: str) -> str | None:
    """The part that a name stands for (``val`` for validation, say); None if it stands for none."""
    return ALIASES.get(name.strip().lower())


def named_parts(names: Sequence[str | None] | None, rows: int) -> np.ndarray:
    """The part of each row, as str of shape (rows,); all ``train`` where the data has no parts.

    Raises:
        PipelineError: If a name stands for no part.
    """
    if names is None:
        return np.full(rows, "train", dtype="<U10")
    parts = {name: part_named(name or "") for name in set(names)}
    for name, part in sorted(parts.items(), key=str):
        if part is None:
            raise PipelineError(
                f"split {name!r} of {list(names).count(name)} images is none of "
                f"{', '.join(ALIASES)}{did_you_mean(name or '', ALIASES)}"
            )
    return np.array([parts[name] for name in names], dtype="<U10")


def cut_parts(
    sample_ids: Sequence[str],
    labels: np.ndarray | None,
    class_names: Sequence[str],
    parts: np.ndarray,
    rule: Mapping[str, Any],
) -> np.ndarray:
    """Take the parts that are missing out of the training images, the same share of every class.

    A share is rounded to whole images, and one image of every class stays in train.

    Args:
        sample_ids: Unique name of each row.
        labels: int32 (rows,), or None to draw from all images alike.
        class_names: In label order.
        parts: Part of each row, as `named_parts` gives it; not changed.
        rule: Shares ``validation`` and ``test``, and ``seed``.

    Returns:
        The new part of each row.

    Raises:
        PipelineError: If the only training image of a class would go.
    """
    shares = {part: rule[part] for part in ("test", "validation") if part not in parts}
    cut = parts.copy()
    for members in strata(labels, parts == "train"):
        counts = [int(len(members) * share + 0.5) for share in shares.values()]
        if len(members) == 1 and sum(counts) > 0:
            name = class_names[labels[members[0]]] if labels is not None else "the dataset"
            raise PipelineError(
                f"split: {name!r} has one training image ({sample_ids[members[0]]}), and "
                f"{_shares(shares)} would leave none to train on"
            )
        taken = iter(drawn("split", rule["seed"], sample_ids, members)[: len(members) - 1])
        for part, count in zip(shares, counts, strict=True):
            cut[list(islice(taken, count))] = part
    return cut


def draw_per_class(
    sample_ids: Sequence[str], labels: np.ndarray, class_names: Sequence[str], per_class: int, seed: int
) -> list[str]:
    """The part of each row where so many images of each class are drawn to train on, the others to test.

    Raises:
        PipelineError: If a class would be left without test images.
    """
    parts = np.full(len(labels), "test", dtype="<U10")
    for members in strata(labels, np.ones(len(labels), dtype=bool)):
        if len(members) <= per_class:
            raise PipelineError(
                f"class {class_names[labels[members[0]]]!r} has {len(members)} images; {per_class} to train "
                "on leave none to test"
            )
        parts[drawn("per class", seed, sample_ids, members)[:per_class]] = "train"
    return parts.tolist()


def require_training_images(labels: np.ndarray | None, class_names: Sequence[str], parts: np.ndarray) -> None:
    """Raise PipelineError unless there are training images, of every class where there are classes."""
    if "train" not in parts:
        raise PipelineError(f"no training images (found only {', '.join(np.unique(parts))})")
    if labels is None:
        return
    bare = sorted(set(range(len(class_names))) - set(labels[parts == "train"].tolist()))
    if bare:
        names = ", ".join(repr(class_names[label]) for label in bare[:10])
        raise PipelineError(f"{len(bare)} classes have no training image: {names}")


def strata(labels: np.ndarray | None, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Row numbers of the chosen rows, class by class."""
    rows = np.flatnonzero(chosen)
    if labels is None:
        yield rows
        return
    by_label = rows[np.argsort(labels[rows], kind="stable")]
    yield from np.split(by_label, np.flatnonzero(np.diff(labels[by_label])) + 1)


def drawn(purpose: str, seed: int, sample_ids: Sequence[str], rows: np.ndarray) -> list[int]:
    """`rows` in seeded random order."""

    return sorted(rows.tolist(), key=lambda row: hash_of(purpose, seed, sample_ids[row]))


def hash_of(purpose: str, seed: int, name: str) -> bytes:
    """32 bytes that look random, the same for the same arguments everywhere."""
    return hashlib.sha256(f"{purpose}/{seed}/{name}".encode()).digest()


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{part}: {share}" for part, share in shares.items())
