"""What a results folder remembers about its tracking, in ``results/tracking/``."""

import json
import uuid
from pathlib import Path
from typing import NamedTuple

from pipeline.tables.files import atomic_write


class Target(NamedTuple):
    """Where runs are logged."""

    uri: str
    experiment: str


def tracking_folder(results: Path) -> Path:
    """Where events, locks and the workflow's id are."""
    return results / "tracking"


def lock_file(results: Path) -> Path:
    """Held by the one process that logs the results."""
    return tracking_folder(results) / "lock"


def workflow_id(results: Path) -> str:
    """What stands for this results folder on a server that others share; made once."""
    known = _read(results)
    if "id" not in known:
        known = _write(results, id=uuid.uuid4().hex)
    return known["id"]


def tracking_target(results: Path, uri: str | None, experiment: str | None) -> Target:
    """The given URI and experiment, else those used last, else the config's defaults."""
    known = _read(results)
    uri, experiment = uri or known.get("uri"), experiment or known.get("experiment")
    if uri is None or experiment is None:
        from pipeline.config.model import Tracking

        default = Tracking.model_validate({})
        uri, experiment = uri or default.uri, experiment or default.experiment
    return Target(uri, experiment)


def remember_target(results: Path, target: Target) -> None:
    """Let later calls use the same target."""
    if Target(_read(results).get("uri", ""), _read(results).get("experiment", "")) != target:
        _write(results, **target._asdict())


def _read(results: Path) -> dict[str, str]:
    path = _path(results)
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _write(results: Path, **changes: str) -> dict[str, str]:
    known = {**_read(results), **changes}
    atomic_write(_path(results), json.dumps(known, indent=2) + "\n")
    return known


def _path(results: Path) -> Path:
    return tracking_folder(results) / "workflow.json"
