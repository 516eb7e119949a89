"""The tables of a run: predictions, features and what its objective keeps."""

from pathlib import Path

import numpy as np
import torch

from pipeline.objectives import Tables
from pipeline.provenance import Provenance
from pipeline.tables import Samples, feature_column, write_table

# What objectives may keep beside the model.
OBJECTIVE_TABLES = ("relationship",)


def write_outputs(
    folder: Path,
    samples: Samples,
    rows: np.ndarray,
    logits: np.ndarray,
    features: np.ndarray,
    provenance: Provenance,
) -> None:
    """Write ``predictions.parquet`` and ``features.parquet`` of the given rows."""
    probabilities = torch.softmax(torch.from_numpy(logits), 1).numpy()
    common = {
        "sample_id": [samples.ids[row] for row in rows],
        "split": samples.split[rows].tolist(),
        "label": samples.labels[rows].astype(np.int32),
    }
    predictions = {
        **common,
        "prediction": logits.argmax(1).astype(np.int32),
        "probabilities": feature_column(probabilities),
    }
    write_table("predictions", folder / "predictions.parquet", predictions, provenance)
    columns = {**common, "feature": feature_column(features)}
    write_table("features", folder / "features.parquet", columns, provenance)


def write_tables(folder: Path, tables: Tables, provenance: Provenance) -> None:
    """Write the objective's tables; those of another objective that ran here before go."""
    for kind in OBJECTIVE_TABLES:
        path = folder / f"{kind}.parquet"
        if kind in tables:
            columns, extra = tables[kind]
            write_table(kind, path, columns, provenance, extra)
        else:
            path.unlink(missing_ok=True)
