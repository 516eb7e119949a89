"""Locks between processes: held by an open file, gone with the process that held it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError


@contextmanager
def writer_lock(path: Path, patience: float | None = None) -> Iterator[None]:
    """Be the only process inside, waiting `patience` seconds for it, or as long as it takes.

    The file holds the process id of the one inside.

    Raises:
        PipelineError: If another process kept the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = None if patience is None else time.monotonic() + patience
    with path.open("a+", encoding="utf-8") as file:
        while not _acquired(file.fileno(), fcntl.LOCK_EX):
            if deadline is not None and time.monotonic() > deadline:
                raise PipelineError(f"{path}: held by process {path.read_text() or 'unknown'}")
            time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock on `path`."""
    try:
        with path.open("rb") as file:
            return not _acquired(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _acquired(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
