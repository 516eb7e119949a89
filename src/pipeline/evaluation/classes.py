"""Which classes are told apart: accuracy of each, and what is taken for what."""

from typing import Any

import numpy as np


def confusion(labels: np.ndarray, predictions: np.ndarray, split: str) -> dict[str, Any]:
    """Columns of the ``confusion`` table: how often each label was predicted as what, where it ever was.

    Args:
        labels: int (n,).
        predictions: int (n,).
        split: The part that the images are of.
    """
    pairs, counts = np.unique(np.stack([labels, predictions], 1), axis=0, return_counts=True)
    return {
        "split": [split] * len(pairs),
        "label": pairs[:, 0].tolist(),
        "prediction": pairs[:, 1].tolist(),
        "images": counts.tolist(),
    }


def per_class(table: dict[str, Any], class_names: list[str]) -> list[dict[str, Any]]:
    """Rows of the ``per_class`` table from the columns of `confusion`; one for each class with images.

    Args:
        table: Of one part.
        class_names: In label order.
    """
    split, labels = table["split"][0], np.array(table["label"])
    predictions, images = np.array(table["prediction"]), np.array(table["images"])
    rows = []
    for label in np.unique(labels).tolist():
        of_class = labels == label
        total, right = images[of_class].sum(), images[of_class & (predictions == label)].sum()
        # Predictions ascend, so that of equal counts the lower label is the one.
        wrong = np.flatnonzero(of_class & (predictions != label))
        worst = wrong[images[wrong].argmax()] if len(wrong) else None
        confused = int(predictions[worst]) if worst is not None else None
        rows.append(
            {
                "split": split,
                "label": label,
                "class_name": class_names[label],
                "images": int(total),
                "accuracy": float(right / total),
                "confused_label": confused,
                "confused_with": class_names[confused] if confused is not None else None,
                "confused_images": int(images[worst]) if worst is not None else 0,
            }
        )
    return rows
