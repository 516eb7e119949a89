"""Compare every source image that could be reused with every image that the target is judged by."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as compute
from threadpoolctl import threadpool_limits

from pipeline.errors import PipelineError
from pipeline.leakage.sides import Side, SideFiles, all_directions, check_comparable, directions, read_side
from pipeline.progress import bar, log
from pipeline.provenance import Provenance
from pipeline.tables import write_table

# From the surest.
KINDS = ("exact", "perceptual", "feature")
# Comparisons of a block: 8 MB of hashes, 4 MB of cosines; larger ones leave the cache and are slower.
BLOCK = 2**20
# More pairs than this say that the hashes do not tell these images apart.
MOST = 10_000_000


class Pairs(NamedTuple):
    """Pairs of images, by their positions on both sides.

    Attributes:
        source: int64 (n,).
        target: int64 (n,).
    """

    source: np.ndarray
    target: np.ndarray


def audit(
    source: SideFiles,
    target: SideFiles,
    output: Path,
    settings: Mapping[str, Any],
    provenance: Provenance,
) -> None:
    """Write the pairs of a source image and a held-out target image that may be one picture.

    Only the source's training part can be reused. Only the target's validation and test parts are
    compared: its training images are trained on anyway, so a copy of one tells a run nothing new.

    Args:
        source: Of the source.
        target: Of the target, by the same backbone.
        output: A leaks table, the surest pair first.
        settings: ``hamming``, ``difference_hamming``, ``cosine`` and ``exclude_cosine``.
        provenance: Kept in the table.

    Raises:
        PipelineError: If the files do not belong together, or the hashes match nearly everything.
    """
    check_comparable(source.features, target.features)
    reusable, held_out = read_side(source, ["train"]), read_side(target, ["validation", "test"])
    close = hash_pairs(reusable, held_out, settings["hamming"], settings["difference_hamming"])
    pairs, cosines = with_neighbours(reusable, held_out, close, settings)
    columns = _described(reusable, held_out, pairs, cosines, settings)
    compared = {
        "source": len(reusable),
        "target": len(held_out),
        "flat_source": reusable.flat,
        "flat_target": held_out.flat,
    }
    write_table("leaks", output, columns, provenance, {"compared": json.dumps(compared)})
    counts = ", ".join(f"{sum(kind == name for kind in columns['kind'])} {name}" for name in KINDS)
    log.info("%s x %s images compared; pairs found: %s", f"{len(reusable):,}", f"{len(held_out):,}", counts)


def hash_pairs(source: Side, target: Side, hamming: int, difference_hamming: int) -> Pairs:
    """Pairs whose pHashes differ in at most `hamming` bits and dHashes in `difference_hamming`.

    Images of equal pixels have equal hashes, so exact copies are among them.

    Raises:
        PipelineError: If there are more than `MOST`.
    """
    step = max(1, BLOCK // max(1, len(target)))
    found, count = [], 0
    with bar("hashes", "image", len(source)) as progress:
        for first in range(0, len(source), step):
            block = source.perceptual[first : first + step, None]
            rows, columns = np.nonzero(np.bitwise_count(block ^ target.perceptual) <= hamming)
            rows += first
            kept = distance(source.difference, target.difference, rows, columns) <= difference_hamming
            found.append((rows[kept], columns[kept]))
            count += int(kept.sum())
            if count > MOST:
                raise PipelineError(
                    f"{source.features}: more than {MOST:,} pairs with images of {target.features} look "
                    f"alike at leakage.hamming {hamming} and difference_hamming {difference_hamming}; "
                    "lower them"
                )
            progress.update(len(block))
    empty = np.empty(0, np.int64)
    return Pairs(*(np.concatenate([empty, *(pair[side] for pair in found)]) for side in (0, 1)))


def distance(source: np.ndarray, target: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bits in which the hashes of pairs differ, uint8 (n,)."""
    return np.bitwise_count(source[rows] ^ target[columns])


def with_neighbours(
    source: Side, target: Side, close: Pairs, settings: Mapping[str, Any]
) -> tuple[Pairs, np.ndarray]:
    """Add neighbours in feature space, and the cosine of every pair, in one pass over the source.

    Added are each target image's nearest source image from ``cosine`` on, and, where
    ``exclude_cosine`` is set, all source images from there on.

    Returns:
        The pairs, each once, ordered by source and target, and their cosines, float32 (n,).
    """
    wanted = all_directions(target)
    highest = np.full(len(target), -np.inf, np.float32)
    nearest = np.zeros(len(target), np.int64)
    close_cosines = np.zeros(len(close.source), np.float32)
    strict: list[tuple[np.ndarray, ...]] = []
    step = max(1, BLOCK // max(1, len(target)))
    with threadpool_limits(1), bar("features", "image", len(source)) as progress:
        for first, block in directions(source, step):
            cosines = np.clip(block @ wanted.T, -1, 1)
            low, high = np.searchsorted(close.source, [first, first + len(block)])
            close_cosines[low:high] = cosines[close.source[low:high] - first, close.target[low:high]]
            best = cosines.argmax(0)
            value = cosines[best, np.arange(len(target))]
            better = value > highest
            highest[better], nearest[better] = value[better], best[better] + first
            if settings["exclude_cosine"] is not None:
                rows, columns = np.nonzero(cosines >= settings["exclude_cosine"])
                strict.append((rows + first, columns, cosines[rows, columns]))
            progress.update(len(block))
    near = np.flatnonzero(highest >= settings["cosine"])
    parts = [(close.source, close.target, close_cosines), (nearest[near], near, highest[near]), *strict]
    rows, columns, cosines = (np.concatenate(column) for column in zip(*parts, strict=True))
    _, first_of = np.unique(rows * max(1, len(target)) + columns, return_index=True)
    return Pairs(rows[first_of], columns[first_of]), cosines[first_of]


def _described(
    source: Side, target: Side, pairs: Pairs, cosines: np.ndarray, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The columns of the table, the surest pair first."""
    hamming = distance(source.perceptual, target.perceptual, *pairs)
    difference = distance(source.difference, target.difference, *pairs)
    alike = (hamming <= settings["hamming"]) & (difference <= settings["difference_hamming"])
    equal = compute.equal(
        source.table["pixels"].take(pairs.source).combine_chunks(),
        target.table["pixels"].take(pairs.target).combine_chunks(),
    )
    kind = np.where(equal.to_numpy(zero_copy_only=False), 0, np.where(alike, 1, 2))
    excluded = kind < 2
    if settings["exclude_cosine"] is not None:
        excluded |= cosines >= settings["exclude_cosine"]
    # Of pairs by features alone, bits say nothing.
    bits = np.where(kind < 2, hamming.astype(np.int64) * 65 + difference, 0)
    order = np.lexsort((pairs.target, pairs.source, -cosines, bits, kind))
    return {
        "source_id": source.table["sample_id"].take(pairs.source[order]),
        "target_id": target.table["sample_id"].take(pairs.target[order]),
        "target_split": target.table["split"].take(pairs.target[order]).unify_dictionaries(),
        "kind": [KINDS[number] for number in kind[order]],
        "hamming": hamming[order].astype(np.int32),
        "difference_hamming": difference[order].astype(np.int32),
        "cosine": cosines[order],
        "excluded": excluded[order],
    }
