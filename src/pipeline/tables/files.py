"""Atomic writes: a temporary name in the same folder, then a rename."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is renamed to `path`, on failure removed.

    A killed process leaves at most the temporary file, never half of `path`.

    Raises:
        OSError: Of a write that the system refused, whatever library made it, with the name of `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            yield temporary
        except Exception as error:
            number = _system_error(error)
            if number is None or getattr(error, "filename", None) is not None:
                raise
            raise OSError(number, os.strerror(number), str(path)) from error
        # Some writers make files that only their owner may read; results are shared.
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _system_error(error: Exception) -> int | None:
    """The system's number of an error; libraries in Rust, such as safetensors, tell it in words alone."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
