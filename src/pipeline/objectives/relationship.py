"""How classes of the source relate to those of the target (Co-Tuning, You et al. 2020)."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from pipeline.engine.logistic import logistic_regression
from pipeline.progress import log

# Of the logarithm of the calibration's factor: beyond, probabilities are flat or certain.
LOG_SCALES = (-12.0, 12.0)


def probabilities(logits: np.ndarray, scale: float) -> np.ndarray:
    """Calibrated probabilities of the source's classes, float64 (n, source classes).

    Args:
        logits: Of the head of pre-training, (n, source classes).
        scale: What the logits are multiplied by first.
    """
    return softmax(scale * logits.astype(np.float64), axis=1)


def direct(source: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean prediction of the source head for each class of the target (the direct approach).

    Args:
        source: p(y_s | x), float64 (n, source classes).
        labels: int64 (n,), with every class of the target among them.

    Returns:
        p(y_s | y_t), float64 (target classes, source classes), rows of sum 1.
    """
    sums = np.zeros((labels.max() + 1, source.shape[1]))
    np.add.at(sums, labels, source)
    return sums / np.bincount(labels)[:, None]


def calibrated(
    source: np.ndarray,
    labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    regularisation: Sequence[float],
) -> np.ndarray:
    """Learn p(y_t | y_s), calibrate it on the validation part, and turn it round (the reverse approach).

    A linear softmax of y_t on p(y_s | x) gives logits of p(y_t | y_s) at the corners of the simplex;
    Bayes' rule with p(y_s) of both parts gives p(y_s | y_t). The paper divides by the empirical
    p(y_t); the released code and this divide each row by its sum, so that it is a distribution.

    Args:
        source: p(y_s | x) of training images, float64 (n, source classes).
        labels: int64 (n,), with every class of the target among them.
        validation: p(y_s | x) of validation images, float64 (m, source classes).
        validation_labels: int64 (m,).
        regularisation: Values of C to choose from: the first that is best on the validation part.

    Returns:
        p(y_s | y_t), float64 (target classes, source classes), rows of sum 1.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # another number of threads adds in another order
        candidates = [regression(source, labels, strength) for strength in regularisation]
        accuracies = [
            float(((validation @ weights.T).argmax(1) == validation_labels).mean()) for weights in candidates
        ]
        best = int(np.argmax(accuracies))
        log.info("co_tuning: C %g, validation accuracy %.4f", regularisation[best], accuracies[best])
        weights = candidates[best]
        scale = calibration(validation @ weights.T, validation_labels)
    given_source = softmax(scale * weights, axis=0)
    joint = given_source * np.concatenate([source, validation]).mean(0)
    return joint / joint.sum(1, keepdims=True)


def regression(source: np.ndarray, labels: np.ndarray, strength: float) -> np.ndarray:
    """Multinomial logistic regression without intercept: the weights W that minimise

    ``strength * sum of losses + |W|^2 / 2``.

    Args:
        source: float64 (n, source classes).
        labels: int64 (n,), with every class of the target among them.
        strength: C.

    Returns:
        W, float64 (target classes, source classes).
    """
    weights, _ = logistic_regression(
        source,
        labels,
        f"co_tuning: the regression with C {strength:g}",
        # Of two classes scikit-learn fits the difference d of their weights, whose |d|^2 / 2 is twice
        # the penalty of the weights -d/2 and d/2.
        C=2 * strength if labels.max() == 1 else strength,
        fit_intercept=False,
        tol=1e-8,
        max_iter=20_000,
    )
    return weights


def calibration(logits: np.ndarray, labels: np.ndarray) -> float:
    """The factor on logits that minimises the negative log-likelihood of the labels.

    Args:
        logits: (m, target classes).
        labels: int64 (m,).
    """

    def loss(log_scale: float) -> float:
        likelihoods = log_softmax(np.exp(log_scale) * logits, axis=1)
        return -float(likelihoods[np.arange(len(labels)), labels].mean())

    found = minimize_scalar(loss, bounds=LOG_SCALES, method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x))
