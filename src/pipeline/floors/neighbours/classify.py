"""Classify by the most similar training images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.classification import accuracies
from pipeline.floors.data import read_data
from pipeline.floors.outputs import Score, write_choices, write_predictions
from pipeline.progress import log
from pipeline.provenance import Provenance

# Of the similarities by which neighbours vote (Wu et al. 2018, section 3.4; Caron et al. 2021, appendix).
TEMPERATURE = 0.07
# Memory for distances, in MiB.
WORKING_MEMORY = 256


def neighbours(
    manifest: Path, features: Path, folder: Path, settings: Mapping[str, Any], provenance: Provenance
) -> None:
    """Write ``predictions.parquet`` and ``choices.parquet`` of a k-nearest-neighbour classifier.

    Args:
        manifest: The target's.
        features: Of all its images.
        folder: Where to write.
        settings: ``neighbours``, the values of k; ``metric``, to choose by; ``fit_on`` and ``predict``.
        provenance: Kept in both tables.
    """
    data, metric = read_data(manifest, features, settings), settings["metric"]
    classes = len(data.samples.class_names)
    counts = [min(count, len(data.trial)) for count in settings["neighbours"]]
    judged, labels = data.of(data.judged)
    scores = [
        Score(count, data.judged_part, accuracies(labels, votes.argmax(axis=1))[metric])
        for count, votes in votes_by_count(*data.of(data.trial), judged, counts, classes).items()
    ]
    best = max(scores, key=lambda score: score.score)
    log.info("k %d, %s %.4f on images of %s", best.value, metric, best.score, data.judged_part)
    count = int(best.value)
    predicted, _ = data.of(data.predicted)
    votes = votes_by_count(*data.of(data.fitted), predicted, [count], classes)[count]
    write_choices(folder, "neighbours", count, metric, scores, provenance)
    write_predictions(folder, data.samples, data.predicted, votes, provenance)


def votes_by_count(
    features: np.ndarray, labels: np.ndarray, queries: np.ndarray, counts: list[int], classes: int
) -> dict[int, np.ndarray]:
    """The share of votes of each class, for several numbers of neighbours.

    Each of the k most similar images votes for its class by exp(cosine / temperature).

    Args:
        features: To find neighbours among, floats (n, d).
        labels: Of those, int64 (n,).
        queries: Floats (m, d).
        counts: Values of k, at most n.
        classes: How many there are.

    Returns:
        By k, in the order of `counts`, float64 (m, classes) with rows of sum 1.
    """
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits

    found = NearestNeighbors(n_neighbors=max(counts), algorithm="brute").fit(normalize(features))
    with threadpool_limits(1), config_context(working_memory=WORKING_MEMORY):
        distances, nearest = found.kneighbors(normalize(queries))
    # Between unit vectors; the nearest one's weight is 1, so that none of them can vanish.
    cosines = 1 - distances.astype(np.float64) ** 2 / 2
    weights = np.exp((cosines - cosines[:, :1]) / TEMPERATURE)
    rows = np.arange(len(queries))[:, None]
    shares = {}
    for count in counts:
        votes = np.zeros((len(queries), classes))
        np.add.at(votes, (rows, labels[nearest[:, :count]]), weights[:, :count])
        shares[count] = votes / votes.sum(axis=1, keepdims=True)
    return shares
