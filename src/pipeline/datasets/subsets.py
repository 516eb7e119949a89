"""Smaller training data: a number or a share of each class, or a long tail.

Draws are by hash as in `pipeline.datasets.splits`, so of one draw a smaller subset lies within a larger.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np

from pipeline.datasets.splits import drawn, hash_of, strata
from pipeline.errors import PipelineError, listed

ROUNDING = {"floor": ROUND_FLOOR, "ceiling": ROUND_CEILING, "nearest": ROUND_HALF_EVEN}
# Binary fractions may miss a whole number by this much: 2.9999999996 images are 3.
ROUNDING_ERROR = Decimal("1e-9")


def kept_rows(
    sample_ids: Sequence[str],
    labels: np.ndarray | None,
    class_names: Sequence[str],
    parts: np.ndarray,
    rule: Mapping[str, Any],
) -> np.ndarray:
    """Which rows stay; those for testing always do.

    A number of images per class is a number to train on, and leaves validation whole. A share and a long
    tail are of all the data there is to learn from, train and validation, and keep the proportion of
    these two in every class, so that training on both after a search uses no more.

    Args:
        sample_ids: Unique name of each row.
        labels: int32 (rows,), or None to draw from all images alike.
        class_names: In label order.
        parts: Part of each row, of every class some in ``train``.
        rule: A subset of the config: ``by`` and its keys.

    Returns:
        bool (rows,).

    Raises:
        PipelineError: If labels are needed and there are none, or a class has too few images.
    """
    if labels is None and rule["by"] != "share":
        raise PipelineError(f"subset: by {rule['by']} needs labels, and the dataset has none")
    thinned = ("train",) if rule["by"] == "number" else ("train", "validation")
    kept = ~np.isin(parts, thinned)
    classes = list(strata(labels, ~kept))
    available = np.array([len(members) for members in classes])
    names = [class_names[labels[members[0]]] if labels is not None else "" for members in classes]
    for members, size in zip(classes, wanted_sizes(rule, available, names), strict=True):
        ordered = np.array(drawn("subset", rule["draw"], sample_ids, members))
        held_out = parts[ordered] == "validation"
        # Rounded half up; one image at least is left to train on.
        of_validation = min((2 * size * held_out.sum() + len(members)) // (2 * len(members)), size - 1)
        kept[ordered[held_out][:of_validation]] = True
        kept[ordered[~held_out][: size - of_validation]] = True
    return kept


def wanted_sizes(rule: Mapping[str, Any], available: np.ndarray, class_names: Sequence[str]) -> list[int]:
    """How many images of each class a rule keeps, one at least.

    Args:
        rule: As `kept_rows` takes it.
        available: int (classes,), images that each class has.
        class_names: Of these classes.

    Raises:
        PipelineError: If a class has fewer.
    """
    if rule["by"] == "share":
        # The share as it is written: 0.29 of 100 images is 29, which binary fractions miss.
        share = Decimal(str(rule["share"]))
        return [whole(share * int(count), rule["rounding"]) for count in available]
    if rule["by"] == "number":
        few = np.flatnonzero(available < rule["per_class"])
        if len(few):
            raise PipelineError(
                f"subset.per_class: {rule['per_class']} is above the {available[few[0]]} training images "
                f"of class {class_names[few[0]]!r}"
            )
        return [rule["per_class"]] * len(available)
    return _long_tail(rule, available, class_names)


def whole(value: Decimal, rounding: str) -> int:
    """A number of images, at least one, from an exact number."""
    return max(int(value.to_integral_value(ROUNDING[rounding])), 1)


def _long_tail(rule: Mapping[str, Any], available: np.ndarray, class_names: Sequence[str]) -> list[int]:
    """Sizes that fall from class to class: the paper does not say in which order.

    Here classes with more images come first and equal ones in an order that the draw decides, since
    an order by label would put the same classes into every tail and fail where the first has few.
    """
    order = sorted(
        range(len(available)),
        key=lambda place: (-available[place], hash_of("long tail", rule["draw"], class_names[place])),
    )
    profile = long_tail_profile(rule, [class_names[place] for place in order])
    largest = rule["largest"] or int(available.max())
    sizes = [0] * len(order)
    for place, share in zip(order, profile, strict=True):
        exact = Decimal(float(largest * share)).quantize(ROUNDING_ERROR)
        sizes[place] = whole(exact, rule["rounding"])
    short = [
        f"{class_names[place]!r}: wanted {sizes[place]}, found {available[place]}"
        for place in order
        if sizes[place] > available[place]
    ]
    if short:
        fitting = int(np.min(available[order] / profile))
        raise PipelineError(
            f"subset: with {largest} images in the largest class, others have too few (at most largest: "
            f"{fitting} fits):\n{listed(short)}"
        )
    return sizes


def long_tail_profile(rule: Mapping[str, Any], class_names: Sequence[str]) -> np.ndarray:
    """Sizes of the classes relative to the largest, falling from 1 to 1 / ratio.

    UOT paper, section 4.3: images are sampled "from classes with a Pareto distribution [42] as in [43]",
    the largest class 10 times the smallest. [43] (Cui et al., CVPR 2019) samples by another profile.
    The readings, for classes i = 0 .. C - 1:

    - ``exponential``, that of [43]: ratio^(-i / (C - 1)).
    - ``pareto``: quantiles 1 - i / (C - 1) of the Pareto distribution bounded to [1, ratio], whose
      density falls as x^-(shape + 1), divided by the ratio.
    - ``pareto_draw``: draws from that distribution in falling order, stretched linearly to the ratio,
      which draws alone do not reach.

    Args:
        rule: ``profile``, ``ratio``, ``shape`` and ``draw``.
        class_names: What a class draws by; at least two.

    Returns:
        float64 (classes,).
    """
    ratio, shape = rule["ratio"], rule["shape"]
    places = np.arange(len(class_names)) / (len(class_names) - 1)
    if rule["profile"] == "exponential":
        return ratio**-places
    if rule["profile"] == "pareto":
        return bounded_pareto(1 - places, ratio, shape) / ratio
    numbers = [hash_of("pareto", rule["draw"], name) for name in class_names]
    uniform = np.array([int.from_bytes(number[:8]) / 2**64 for number in numbers])
    return stretched(bounded_pareto(uniform, ratio, shape), ratio) / ratio


def bounded_pareto(probabilities: np.ndarray, ratio: float, shape: float) -> np.ndarray:
    """Quantiles of the Pareto distribution with `shape`, bounded to [1, ratio]; float64, same shape."""
    # F(x) = (1 - x^-shape) / (1 - ratio^-shape), inverted without cancellation near 1.
    return (1 - probabilities + probabilities * ratio**-shape) ** (-1 / shape)


def stretched(values: np.ndarray, ratio: float) -> np.ndarray:
    """Values in falling order, moved linearly so that they span 1 to `ratio`."""
    falling = np.sort(values)[::-1]
    return 1 + (falling - falling[-1]) * (ratio - 1) / (falling[0] - falling[-1])
