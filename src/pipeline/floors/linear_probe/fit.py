"""Fit a linear classifier on frozen features."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from pipeline.engine.logistic import logistic_regression
from pipeline.evaluation.classification import accuracies
from pipeline.floors.data import read_data
from pipeline.floors.outputs import Score, write_choices, write_predictions
from pipeline.progress import log
from pipeline.provenance import Provenance
from pipeline.provenance.record import METADATA_KEY
from pipeline.tables import atomic_path

ITERATIONS, TOLERANCE = 1_000, 1e-4
# How far below the lowest other bias that of a class without training images is.
ABSENT = 30.0


def linear_probe(
    manifest: Path, features: Path, folder: Path, settings: Mapping[str, Any], provenance: Provenance
) -> None:
    """Write ``predictions.parquet``, ``choices.parquet`` and ``head.safetensors`` of a linear probe.

    Args:
        manifest: The target's.
        features: Of all its images, the penultimate ones.
        folder: Where to write; the head is ``weight`` (classes, d) and ``bias`` (classes,), float32.
        settings: ``regularisation``, the values of C; ``metric``, to choose by; ``fit_on``, ``predict``.
        provenance: Kept in all files.
    """
    data, metric = read_data(manifest, features, settings), settings["metric"]
    classes = len(data.samples.class_names)
    judged, labels = data.of(data.judged)
    scores = []
    for strength in settings["regularisation"]:
        weights, biases = fit(*data.of(data.trial), strength, classes)
        said = (judged @ weights.T + biases).argmax(axis=1)
        scores.append(Score(strength, data.judged_part, accuracies(labels, said)[metric]))
    best = max(scores, key=lambda score: score.score)
    log.info("C %g, %s %.4f on images of %s", best.value, metric, best.score, data.judged_part)
    weights, biases = fit(*data.of(data.fitted), best.value, classes)
    predicted, _ = data.of(data.predicted)
    write_choices(folder, "regularisation", best.value, metric, scores, provenance)
    probabilities = _softmax(predicted @ weights.T + biases)
    write_predictions(folder, data.samples, data.predicted, probabilities, provenance)
    with atomic_path(folder / "head.safetensors") as temporary:
        save_file({"weight": weights, "bias": biases}, temporary, {METADATA_KEY: provenance.to_json()})


def fit(
    features: np.ndarray, labels: np.ndarray, strength: float, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression: weights, float32 (classes, d), and biases, float32 (classes,).

    The features are divided by the root of their mean squared norm for the fit, so that C means the same
    for every backbone, and the weights are those for the features as they are.

    Args:
        features: Floats (n, d).
        labels: int64 (n,), of at least two classes; classes without any become all but impossible.
        strength: C: ``C * sum of losses + |W|^2 / 2`` is least.
        classes: How many there are.
    """
    exact = features.astype(np.float64)
    scale = np.sqrt((exact**2).sum(axis=1).mean()) or 1.0
    present = np.unique(labels)
    found, intercepts = logistic_regression(
        exact / scale,
        labels,
        f"the linear probe with C {strength:g}",
        C=strength,
        max_iter=ITERATIONS,
        tol=TOLERANCE,
    )
    weights, biases = np.zeros((classes, features.shape[1])), np.full(classes, intercepts.min() - ABSENT)
    weights[present], biases[present] = found / scale, intercepts
    return weights.astype(np.float32), biases.astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
