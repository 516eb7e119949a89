"""The declared schema of every table; writers and readers share them.

``fixed_size_list<float32>`` columns have a width of their own in each file, so they are declared
by `FEATURE`, which stands for any width.
"""

from dataclasses import dataclass, field

import pyarrow as pa

FEATURE = pa.list_(pa.float32())
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAME = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class TableSchema:
    """Columns of one kind of table.

    Attributes:
        row: What one row stands for.
        columns: Name and type of the columns that are always there, in order.
        optional: Columns that are there where the data has them.
        nullable: Columns that may hold nulls.
    """

    row: str
    columns: dict[str, pa.DataType]
    optional: dict[str, pa.DataType] = field(default_factory=dict)
    nullable: frozenset[str] = frozenset()


SCHEMAS: dict[str, TableSchema] = {
    "manifest": TableSchema(
        "image",
        {
            "sample_id": pa.string(),
            "image": IMAGE,
            "split": NAME,
            "label": pa.int32(),
            "class_name": NAME,
            "width": pa.int32(),
            "height": pa.int32(),
        },
        optional={"domain": NAME, "item": pa.string()},
        nullable=frozenset({"label", "class_name", "domain", "item"}),
    ),
    "features": TableSchema(
        "image",
        {"sample_id": pa.string(), "split": NAME, "label": pa.int32(), "feature": FEATURE},
        nullable=frozenset({"label"}),
    ),
    "hashes": TableSchema(
        "image",
        {
            "sample_id": pa.string(),
            "split": NAME,
            "pixels": pa.binary(32),
            "perceptual": pa.uint64(),
            "difference": pa.uint64(),
        },
        nullable=frozenset({"perceptual", "difference"}),
    ),
    "leaks": TableSchema(
        "source image and image of the target's validation or test part",
        {
            "source_id": pa.string(),
            "target_id": pa.string(),
            "target_split": NAME,
            "kind": NAME,
            "hamming": pa.int32(),
            "difference_hamming": pa.int32(),
            "cosine": pa.float32(),
            "excluded": pa.bool_(),
        },
    ),
    "units": TableSchema(
        "unit",
        {"unit_id": pa.int32(), "name": pa.string(), "images": pa.int64(), "mean": FEATURE},
        optional={"concept": pa.string()},
        nullable=frozenset({"concept"}),
    ),
    "membership": TableSchema("image", {"sample_id": pa.string(), "unit_id": pa.int32()}),
    "selection": TableSchema(
        "unit",
        {
            "unit_id": pa.int32(),
            "name": pa.string(),
            "score": pa.float64(),
            "rank": pa.int32(),
            "selected": pa.bool_(),
        },
    ),
    "recall": TableSchema(
        "selection for a target, and concept",
        {
            "backbone": NAME,
            "source": NAME,
            "target": NAME,
            "selection": NAME,
            "concept": NAME,
            "units": pa.int32(),
            "selected": pa.int32(),
            "found": pa.int32(),
            "recall": pa.float64(),
        },
    ),
    "plan": TableSchema(
        "selected unit and target class",
        {
            "unit_id": pa.int32(),
            "name": NAME,
            "rank": pa.int32(),
            "target_unit_id": pa.int32(),
            "target_name": NAME,
            "distance": pa.float64(),
            "share": pa.float64(),
        },
        nullable=frozenset({"share"}),
    ),
    "margin": TableSchema(
        "end of the selected ranks",
        {
            "rank": pa.int32(),
            "unit_id": pa.int32(),
            "next_unit_id": pa.int32(),
            "score": pa.float64(),
            "next_score": pa.float64(),
            "margin": pa.float64(),
        },
    ),
    "stability": TableSchema(
        "unit",
        {
            "unit_id": pa.int32(),
            "name": pa.string(),
            "rank": pa.int32(),
            "selected": pa.bool_(),
            "stability": pa.float64(),
        },
    ),
    "history": TableSchema(
        "epoch and metric",
        {
            "stage": NAME,
            "epoch": pa.int32(),
            "step": pa.int64(),
            "split": NAME,
            "metric": NAME,
            "value": pa.float64(),
        },
    ),
    "distances": TableSchema(
        "stage, epoch and weight of the backbone: the norm of its change since the stage began",
        {"stage": NAME, "epoch": pa.int32(), "weight": NAME, "distance": pa.float64()},
    ),
    "timings": TableSchema(
        "stage and epoch",
        {
            "stage": NAME,
            "epoch": pa.int32(),
            "images": pa.int64(),
            "seconds": pa.float64(),
            "device": NAME,
        },
    ),
    "predictions": TableSchema(
        "image",
        {
            "sample_id": pa.string(),
            "split": NAME,
            "label": pa.int32(),
            "prediction": pa.int32(),
            "probabilities": FEATURE,
        },
    ),
    "classified": TableSchema(
        "image file",
        {"path": pa.string(), "prediction": NAME, "probability": pa.float32()},
        optional={
            f"{column}_{place}": kind
            for place in range(2, 6)
            for column, kind in (("prediction", NAME), ("probability", pa.float32()))
        },
    ),
    "relationship": TableSchema(
        "class of the target",
        {"label": pa.int32(), "class_name": pa.string(), "probabilities": FEATURE},
    ),
    "search": TableSchema(
        "trial",
        {
            "trial": pa.string(),
            "values": pa.string(),
            "metric": NAME,
            "value": pa.float64(),
            "images": pa.int64(),
            "rung": pa.int32(),
            "share": pa.float64(),
            "rank": pa.int32(),
            "chosen": pa.bool_(),
        },
        nullable=frozenset({"rung"}),
    ),
    "domain_gap": TableSchema(
        "run, epoch and measured selection",
        {
            "backbone": NAME,
            "target": NAME,
            "selection": NAME,
            "recipe": NAME,
            "seed": pa.int64(),
            "epoch": pa.int32(),
            "measured": NAME,
            "batches": pa.int32(),
            "batch_size": pa.int32(),
            "target_images": pa.int64(),
            "gap": pa.float64(),
            "gap_error": pa.float64(),
            "difference": pa.float64(),
            "difference_error": pa.float64(),
            "variance": pa.float64(),
            "variance_error": pa.float64(),
            "target_norm": pa.float64(),
            "source_norm": pa.float64(),
        },
    ),
    "gap_and_accuracy": TableSchema(
        "backbone, target, recipe, epoch and measured selection",
        {
            "backbone": NAME,
            "target": NAME,
            "recipe": NAME,
            "epoch": pa.int32(),
            "measured": NAME,
            "seeds": pa.int32(),
            "gap": pa.float64(),
            "gap_error": pa.float64(),
            "difference": pa.float64(),
            "difference_error": pa.float64(),
            "accuracy": pa.float64(),
            "accuracy_error": pa.float64(),
        },
        nullable=frozenset({"accuracy", "accuracy_error"}),
    ),
    "feature_map": TableSchema(
        "test image of one model",
        {"sample_id": pa.string(), "label": pa.int32(), "x": pa.float64(), "y": pa.float64()},
        optional={"z": pa.float64()},
    ),
    "feature_maps": TableSchema(
        "model whose features are drawn: a run, or the untouched backbone without a recipe",
        {
            "backbone": NAME,
            "target": NAME,
            "selection": NAME,
            "recipe": NAME,
            "seed": pa.int64(),
            "method": NAME,
            "measured": NAME,
            "images": pa.int64(),
            "variance": pa.float64(),
            "metric": NAME,
            "accuracy": pa.float64(),
            "s_dbw": pa.float64(),
        },
        nullable=frozenset({"selection", "recipe", "seed", "measured", "variance", "accuracy", "s_dbw"}),
    ),
    "metrics": TableSchema(
        "run and metric",
        {
            "backbone": NAME,
            "target": NAME,
            "selection": NAME,
            "recipe": NAME,
            "seed": pa.int64(),
            "split": NAME,
            "metric": NAME,
            "value": pa.float64(),
        },
    ),
    "choices": TableSchema(
        "value of a floor's setting, and part",
        {
            "setting": NAME,
            "value": pa.float64(),
            "split": NAME,
            "metric": NAME,
            "score": pa.float64(),
            "chosen": pa.bool_(),
        },
    ),
    "per_class": TableSchema(
        "part and class with images in it",
        {
            "split": NAME,
            "label": pa.int32(),
            "class_name": NAME,
            "images": pa.int64(),
            "accuracy": pa.float64(),
            "confused_label": pa.int32(),
            "confused_with": NAME,
            "confused_images": pa.int64(),
        },
        nullable=frozenset({"confused_label", "confused_with"}),
    ),
    "confusion": TableSchema(
        "part, label and prediction that occurs",
        {"split": NAME, "label": pa.int32(), "prediction": pa.int32(), "images": pa.int64()},
    ),
    "comparison": TableSchema(
        "backbone, target, selection, recipe, split and metric",
        {
            "backbone": NAME,
            "target": NAME,
            "selection": NAME,
            "recipe": NAME,
            "split": NAME,
            "metric": NAME,
            "mean": pa.float64(),
            "standard_deviation": pa.float64(),
            "seeds": pa.int32(),
        },
        nullable=frozenset({"standard_deviation"}),
    ),
    "claims": TableSchema(
        "claim",
        {
            "claim": pa.string(),
            "kind": NAME,
            "measure": NAME,
            "backbone": NAME,
            "better": pa.string(),
            "baseline": pa.string(),
            "draws": pa.int32(),
            "images": pa.int32(),
            "unit": NAME,
            "side": NAME,
            "line": pa.float64(),
            "estimate": pa.float64(),
            "standard_error": pa.float64(),
            "level": pa.float64(),
            "low": pa.float64(),
            "high": pa.float64(),
            "p_value": pa.float64(),
            "p_holm": pa.float64(),
            "detectable": pa.float64(),
            "answer": NAME,
            "reason": pa.string(),
        },
        nullable=frozenset({"images", "standard_error", "low", "high", "detectable", "reason"}),
    ),
}
