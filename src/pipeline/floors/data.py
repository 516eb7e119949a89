"""What classifiers of features are fitted on, chosen by and asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.tables import Samples, check_finite, read_batches, read_samples, read_table, read_vectors

# Of so many training images of a class one is left out to choose by, where there is no validation part.
FOLD = 5
ROWS = 8_192


@dataclass(frozen=True)
class Data:
    """Features of a target's images with rows of them, int64; `samples` are all its images.

    Attributes:
        samples: From the manifest.
        features: float32 (n, d).
        judged_part: What choices are made by: ``validation``, or images of ``train`` that are left out.
        trial: Rows to fit on while choosing.
        judged: Rows to choose by.
        fitted: Rows to fit on in the end.
        predicted: Rows to predict.
    """

    samples: Samples
    features: np.ndarray
    judged_part: str
    trial: np.ndarray
    judged: np.ndarray
    fitted: np.ndarray
    predicted: np.ndarray

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features, float32 (m, d), and labels, int64 (m,), of some rows."""
        return self.features[rows], self.samples.labels[rows]


def read_data(manifest: Path, features: Path, settings: Mapping[str, Any]) -> Data:
    """The target's features and what each image is for.

    Args:
        manifest: The target's.
        features: Of all its images, in its order.
        settings: ``fit_on`` and ``predict``, parts.

    Raises:
        PipelineError: If the features are of other images or not finite, if the training images have
            fewer than two classes, or if there is nothing to predict.
    """
    samples = read_samples(manifest)
    if read_table("features", features, ["sample_id"])["sample_id"].to_pylist() != samples.ids:
        raise PipelineError(f"{features}: not of the images of {manifest} in their order")
    check_finite(features, read_batches(features, ["sample_id", "feature"], ROWS))
    train, validation = samples.training_rows(), samples.rows("validation")
    predicted = samples.rows(*settings["predict"])
    if len(np.unique(samples.labels[train])) < 2:
        raise PipelineError(f"{manifest}: training images of fewer than two classes")
    if not len(predicted):
        raise PipelineError(f"{manifest}: no {' or '.join(settings['predict'])} image to evaluate floors on")
    left_out = _left_out(samples.labels[train])
    return Data(
        samples,
        read_vectors("features", features, "feature"),
        judged_part="validation" if len(validation) else "train",
        trial=train if len(validation) else train[~left_out],
        judged=validation if len(validation) else train[left_out],
        fitted=samples.training_rows(*settings["fit_on"]),
        predicted=predicted,
    )


def _left_out(labels: np.ndarray) -> np.ndarray:
    """One of every five images of a class, of fewer the last, but never the only one; bool (n,)."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            chosen[rows[min(len(rows), FOLD) - 1 :: FOLD]] = True
    return chosen
