"""What training and features need of a manifest: everything but the images."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import PipelineError
from pipeline.tables.io import read_table, read_table_metadata


@dataclass(frozen=True)
class Samples:
    """The rows of a manifest without their images.

    Attributes:
        manifest: The file they were read from, for messages.
        ids: sample_id of each row.
        split: ``train``, ``validation`` or ``test`` of each row, str (n,).
        labels: int64 (n,); -1 where there is none.
        class_names: In label order; empty where unlabelled.
    """

    manifest: Path
    ids: list[str]
    split: np.ndarray
    labels: np.ndarray
    class_names: list[str]

    def rows(self, *splits: str) -> np.ndarray:
        """Row numbers of these splits in order, int64."""
        return np.flatnonzero(np.isin(self.split, splits))

    def training_rows(self, *splits: str) -> np.ndarray:
        """Row numbers of these splits in order, of the training part by default.

        Raises:
            PipelineError: If they hold fewer than two images.
        """
        rows = self.rows(*(splits or ("train",)))
        if len(rows) < 2:
            raise PipelineError(f"{self.manifest}: {len(rows)} training images; at least 2 are needed")
        return rows


def read_samples(manifest: Path) -> Samples:
    """Read a manifest's rows without their images."""
    table = read_table("manifest", manifest, ["sample_id", "split", "label"])
    labels = table["label"].fill_null(-1).to_numpy().astype(np.int64)
    class_names = json.loads(read_table_metadata(manifest).get("class_names", "[]"))
    split = np.array(table["split"].to_pylist())
    return Samples(Path(manifest), table["sample_id"].to_pylist(), split, labels, class_names)
