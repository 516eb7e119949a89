"""Which backbone's feature space units lie in."""

import hashlib
from pathlib import Path

from pipeline.provenance import canonical_json, read_provenance


def backbone_digest(features: Path) -> dict[str, str]:
    """What two features tables must share for their means to be compared: weights and layer.

    Returns:
        ``backbone`` and sixteen hexadecimal digits; nothing where the table does not say what made it.
    """
    record = read_provenance(features)
    if record is None or "weights" not in record.inputs:
        return {}
    made_by = {"weights": record.inputs["weights"], "layer": record.settings.get("feature_layer")}
    return {"backbone": hashlib.sha256(canonical_json(made_by).encode()).hexdigest()[:16]}
