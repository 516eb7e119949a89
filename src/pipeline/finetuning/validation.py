"""What is measured on the validation part while a run trains."""

import numpy as np

from pipeline.backbones.backbone import Backbone
from pipeline.engine.distances import FeatureDistance
from pipeline.finetuning.target import Target
from pipeline.s_dbw import s_dbw_where_defined


class Validation:
    """Accuracy, how far features have moved since this was made, and how they stand to their classes.

    Args:
        target: Its images.
        rows: Those of the validation part, int64 (n,), one at least.
        model: As the stage begins; measured as it is at each call.
    """

    def __init__(self, target: Target, rows: np.ndarray, model: Backbone):
        self.target, self.rows, self.model = target, rows, model
        self.moved = FeatureDistance(len(rows), lambda some: target.outputs(model, rows[some])[1])

    def __call__(self) -> dict[str, float]:
        """Metrics for the history.

        Returns:
            ``top1``, the share of images whose class the head says, in 0..1; ``feature_distance``, see
            `FeatureDistance`; ``s_dbw`` (lower is better) where it is defined.
        """
        logits, features = self.target.outputs(self.model, self.rows)
        labels = self.target.samples.labels[self.rows]
        hits = logits.argmax(1) == labels
        return {
            "top1": float(hits.mean()),
            "feature_distance": self.moved.of(features),
            **s_dbw_where_defined(features, labels),
        }
