"""What a model was made from: the files of the results folder that its record names by digest."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.provenance import Provenance, digest_of_file, read_provenance

MANIFESTS = "datasets/*/manifest.parquet"


@dataclass(frozen=True)
class Origin:
    """A file that a model was made from, and the record in it."""

    path: Path
    record: Provenance


@dataclass(frozen=True)
class Origins:
    """What a model was made from; None for what is not in the results folder (any more), or was not used.

    Attributes:
        target: The manifest of the target.
        backbone: Weights of the backbone, before a first stage.
        pretraining: The manifest that the backbone was pre-trained on here.
        source: The manifest of the source whose images are reused.
        selection: The selection of its units.
    """

    target: Origin | None = None
    backbone: Origin | None = None
    pretraining: Origin | None = None
    source: Origin | None = None
    selection: Origin | None = None


def find_origins(run: Path, record: Provenance) -> Origins:
    """What a run's record, and the records of what it names, point to.

    A file counts if its digest is the one that the record names, so that a results folder that has moved
    on says nothing wrong.

    Args:
        run: Folder of the run, ``runs/{backbone}/{target}/{selection}/{recipe}/seed{seed}`` in a results
            folder; of any other nothing is found.
        record: That of the run's model.
    """
    above = run.resolve().parents
    if len(above) < 6 or above[4].name != "runs":
        return Origins()
    results, keys = above[5], record.settings["run"]
    first = _find(results, record, "weights", f"initialisations/{keys['backbone']}/{keys['target']}/*/*/*")
    backbone = _find(results, first.record if first else record, "weights", "backbones/*/*")
    return Origins(
        target=_find(results, record, "manifest", MANIFESTS),
        backbone=backbone,
        pretraining=_pretraining(results, backbone) if backbone else None,
        source=_find(results, record, "source", MANIFESTS),
        selection=_find(results, record, "selection", f"selections/{keys['backbone']}/*/*/*"),
    )


def _pretraining(results: Path, backbone: Origin) -> Origin | None:
    # An epoch that pre-training kept is a backbone of its own, made from the checkpoint.
    checkpoint = _find(results, backbone.record, "weights", "backbones/*/checkpoints/*")
    return _find(results, (checkpoint or backbone).record, "manifest", MANIFESTS)


def _find(results: Path, record: Provenance, name: str, pattern: str) -> Origin | None:
    """The file that an input of a record names, among those of a pattern below the results folder."""
    digest = record.inputs.get(name)
    if digest is None:
        return None
    for path in sorted(results.glob(pattern)):
        if path.suffix in (".parquet", ".safetensors") and digest_of_file(path) == digest:
            found = read_provenance(path)
            return Origin(path, found) if found else None
    return None
