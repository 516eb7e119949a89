"""What is measured on the validation part while a run trains."""

import numpy as np

from pipeline.backbones.backbone import Backbone
from pipeline.finetuning.target import Target
from pipeline.s_dbw import s_dbw_where_defined

# Images whose features are followed.
FOLLOWED = 256


class Validation:
    """Accuracy, how far features have moved since this was made, and how they stand to their classes.

    Args:
        target: Its images.
        rows: Those of the validation part, int64 (n,), one at least.
        model: As the stage begins; measured as it is at each call.
    """

    def __init__(self, target: Target, rows: np.ndarray, model: Backbone):
        self.target, self.rows, self.model = target, rows, model
        self.followed = spread(np.arange(len(rows)), FOLLOWED)
        _, self.first = target.outputs(model, rows[self.followed])

    def __call__(self) -> dict[str, float]:
        """Metrics for the history.

        Returns:
            ``top1``, the share of images whose class the head says, in 0..1; ``feature_distance``, the
            mean over at most `FOLLOWED` images of the Euclidean distance between the penultimate feature
            now and at first, over the mean norm of those features at first; ``s_dbw`` (lower is better) where
            it is defined.
        """
        logits, features = self.target.outputs(self.model, self.rows)
        labels = self.target.samples.labels[self.rows]
        hits = logits.argmax(1) == labels
        moved = np.linalg.norm(features[self.followed] - self.first, axis=1)
        before = np.linalg.norm(self.first, axis=1)
        return {
            "top1": float(hits.mean()),
            "feature_distance": float(moved.mean() / before.mean()),
            **s_dbw_where_defined(features, labels),
        }


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """So many rows, evenly over all: a manifest often goes class by class."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)]
