"""Small JSON files that remember what is known of unchanged files: caches, never the truth."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

# A file can change twice within one tick of a file system's clock, so what was only just written
# is not remembered yet. Two seconds is the coarsest tick in use (FAT).
SETTLED = 2.0


def is_settled(mtime_ns: int) -> bool:
    """Whether a file of this time cannot change any more without its time changing too."""
    return mtime_ns < time.time_ns() - int(SETTLED * 1e9)


def read_index(path: Path | None) -> dict[str, Any]:
    """What an index holds; nothing if it is missing or broken."""
    if path is None:
        return {}
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def write_index(path: Path | None, entries: dict[str, Any]) -> None:
    """Write an index whole or not at all; where it cannot be written it is not kept."""
    if path is None:
        return
    # Not `atomic_write` of pipeline.tables, which would import pyarrow.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps(entries), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
