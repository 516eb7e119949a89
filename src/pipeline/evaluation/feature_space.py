"""How features stand to their classes."""

from collections.abc import Iterator

import numpy as np

from pipeline.progress import log
from pipeline.s_dbw import SDbw, UndefinedError, s_dbw, s_dbw_of_tong

# Features that are normalised together.
ROWS = 8_192


def feature_metrics(features: np.ndarray, labels: np.ndarray, part: str) -> dict[str, float]:
    """S_Dbw with its two terms, S_Dbw as COIN's code has it, and the spread within and between classes.

    Args:
        features: Penultimate features, float32 (n, d), finite.
        labels: True labels, int (n,).
        part: What the images are, for the log.

    Returns:
        ``s_dbw``, ``scat``, ``dens_bw`` (Halkidi and Vazirgiannis 2001) and ``s_dbw_coin`` (Tong and Tan
        2009) of the features as they are, and the spreads of `spreads`. Without those of S_Dbw where it
        is undefined; the log says why.
    """
    found: dict[str, float] = {}
    try:
        index, of_tong = s_dbw(features, labels), s_dbw_of_tong(features, labels)
    except UndefinedError as error:
        log.warning("%s: no S_Dbw, since %s", part, error)
    else:
        _say_what_is_empty(index, part)
        found |= {"s_dbw": index.value, "scat": index.scat, "dens_bw": index.dens_bw}
        found["s_dbw_coin"] = of_tong.value
    within, between = spreads(features, labels)
    return found | {"intra_class_spread": within, "inter_class_spread": between}


def spreads(features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """How far features lie from the mean of their class, and that from the mean of all.

    Features have their Euclidean norm divided out first, so that networks whose features differ in scale
    can be compared; a feature of zeros stays so. The squared distances are averaged over images, so that
    both add up to the mean squared distance to the mean of all, which is at most 1.

    Args:
        features: Floats (n, d).
        labels: int (n,).

    Returns:
        Within classes and between them.
    """
    classes, positions, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((len(classes), features.shape[1]))
    for rows, unit in _normalised(features):
        np.add.at(means, positions[rows], unit)
    means /= sizes[:, None]
    within = sum(float(((unit - means[positions[rows]]) ** 2).sum()) for rows, unit in _normalised(features))
    shares = sizes / sizes.sum()
    return within / len(labels), float(shares @ ((means - shares @ means) ** 2).sum(axis=1))


def _normalised(features: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of the features in order, float64, each divided by its norm."""
    for first in range(0, len(features), ROWS):
        rows = slice(first, first + ROWS)
        part = features[rows].astype(np.float64)
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        yield rows, np.divide(part, norms, out=np.zeros_like(part), where=norms > 0)


def _say_what_is_empty(index: SDbw, part: str) -> None:
    pairs = len(index.densities) * (len(index.densities) - 1)
    if index.empty:
        log.info(
            "%s: of %d pairs of classes %d have no feature near either mean, and add nothing to Dens_bw",
            part,
            pairs // 2,
            index.empty // 2,
        )
