"""How well the classes of images were predicted."""

import numpy as np
import pyarrow as pa

from pipeline.tables import feature_matrix

# Bins of the expected calibration error (Guo et al. 2017, section 5).
BINS = 15


def classification_metrics(predictions: pa.Table) -> dict[str, float]:
    """How well classes were predicted.

    Args:
        predictions: A ``predictions`` table.

    Returns:
        ``top1`` and ``mean_per_class`` accuracy, and ``top5`` where there are more than five classes, in
        0..1; ``negative_log_likelihood``, the mean in nats; ``expected_calibration_error``, in 0..1; and
        ``images``.
    """
    labels = predictions["label"].to_numpy()
    hits = predictions["prediction"].to_numpy() == labels
    probabilities = feature_matrix(predictions, "probabilities")
    likelihood = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    smallest = np.finfo(np.float32).tiny
    found = {
        **accuracies(labels, predictions["prediction"].to_numpy()),
        "negative_log_likelihood": float(-np.log(np.maximum(likelihood, smallest)).mean()),
        "expected_calibration_error": calibration_error(hits, probabilities.max(axis=1)),
        "images": float(len(labels)),
    }
    if probabilities.shape[1] > 5:
        found["top5"] = top_accuracy(labels, probabilities, 5)
    return found


def accuracies(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """``top1`` and ``mean_per_class`` accuracy, in 0..1.

    Args:
        labels: int (n,).
        predictions: int (n,).
    """
    hits = predictions == labels
    by_class = [hits[labels == label].mean() for label in np.unique(labels)]
    return {"top1": float(hits.mean()), "mean_per_class": float(np.mean(by_class))}


def top_accuracy(labels: np.ndarray, probabilities: np.ndarray, count: int) -> float:
    """Share of images whose label is among the `count` most probable classes.

    Of equally probable classes the one with the lower number comes first, as in a prediction.
    """
    own = probabilities[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    before = (probabilities > own) | (probabilities == own) & earlier
    return float((before.sum(axis=1) < count).mean())


def calibration_error(hits: np.ndarray, confidence: np.ndarray) -> float:
    """Expected calibration error (Guo et al., "On calibration of modern neural networks", 2017, Eq. 3).

    The mean over images of |accuracy - mean confidence| of their bin; bin m of M equally wide ones holds
    confidences in ((m - 1)/M, m/M].

    Args:
        hits: Whether each prediction is right, bool (n,).
        confidence: Probability of each prediction, floats (n,).
    """
    exact = confidence.astype(np.float64)
    bins = np.clip(np.ceil(exact * BINS).astype(int) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(bins, hits - exact, BINS)).sum() / len(hits))
