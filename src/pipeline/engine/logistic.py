"""Logistic regression on frozen features, fitted by scikit-learn."""

import warnings
from typing import Any

import numpy as np

from pipeline.progress import log


def logistic_regression(
    features: np.ndarray, labels: np.ndarray, name: str, **settings: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear softmax of the labels on features, on one thread.

    Args:
        features: float64 (n, d).
        labels: int64 (n,), 0 .. classes - 1, with every class among them.
        name: For the warning in the log where the fit stops before its tolerance.
        settings: Of ``sklearn.linear_model.LogisticRegression``. Of two classes it fits, and
            penalises, the difference of their weights alone.

    Returns:
        Weights, float64 (classes, d), and biases, float64 (classes,), zero without an intercept. Two
        classes get half the difference each, with opposite signs.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model: Any = LogisticRegression(**settings)
    # Another number of threads adds in another order.
    with threadpool_limits(1), warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, labels)
    if found:
        log.warning("%s stopped before its tolerance", name)
    weights, biases = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        weights, biases = (np.concatenate([-part, part]) / 2 for part in (weights, biases))
    return weights, biases
