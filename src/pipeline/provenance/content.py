"""The digest of files that the pipeline did not make, without reading unchanged files again.

Standard library only and quick to import: a Snakefile computes it each time it is read.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import PipelineError
from pipeline.provenance.index import is_settled, read_index, write_index

READERS = 8


class Entry(NamedTuple):
    """What the index knows of a file; equal size and time mean an equal digest."""

    size: int
    mtime_ns: int
    sha256: str


def content_digest(path: Path, index: Path | None = None, files: Iterable[str] | None = None) -> str:
    """Digest the content of a file, or of the files in a folder by their relative paths.

    Times, permissions and the place of `path` do not count, so a touch, a copy or a move of the
    whole changes nothing; a renamed file inside a folder does.

    Args:
        path: A file or a folder.
        index: JSON file that remembers size, time and SHA-256 of every file, so that unchanged ones
            are not read again. It is only a cache: made if missing, ignored if broken, and not
            kept where it cannot be written.
        files: Paths relative to the folder, in any order; all but hidden files by default.

    Returns:
        Sixteen hexadecimal digits.

    Raises:
        PipelineError: If `path` or a listed file is missing or cannot be read.
    """
    path = Path(path)
    root, names = _files(path, files)
    known = _read_index(index)
    entries = dict(_entries(root, names, known))
    if entries != known:
        _write_index(index, entries)
    if not path.is_dir():
        return entries[path.name].sha256[:16]
    total = hashlib.sha256()
    for name in names:
        total.update(os.fsencode(f"{name}\0{entries[name].sha256}\n"))
    return total.hexdigest()[:16]


def _files(path: Path, files: Iterable[str] | None) -> tuple[Path, list[str]]:
    if path.is_file():
        return path.parent, [path.name]
    if not path.is_dir():
        raise PipelineError(f"{path}: no such file or folder")
    return path, sorted(set(files) if files is not None else _walk(path))


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file():
                yield file.relative_to(root).as_posix()


def _refuse(error: OSError) -> None:
    raise PipelineError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _entries(root: Path, names: list[str], known: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    """The entry of every file, from the index where its size and time are those of the file."""
    changed = []
    for name in names:
        status = _stat(root / name)
        entry = known.get(name)
        if entry is not None and (entry.size, entry.mtime_ns) == (status.st_size, status.st_mtime_ns):
            yield name, entry
        else:
            changed.append((name, status))
    if not changed:
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(READERS) as pool:
        digests = pool.map(lambda item: _sha256(root / item[0]), changed)
        for (name, status), sha256 in zip(changed, digests, strict=True):
            yield name, Entry(status.st_size, status.st_mtime_ns, sha256)


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise PipelineError(f"{file}: cannot be read ({error.strerror})") from error


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise PipelineError(f"{file}: cannot be read ({error.strerror})") from error


def _read_index(index: Path | None) -> dict[str, Entry]:
    try:
        stored = read_index(index).items()
        return {name: Entry(int(size), int(mtime), str(sha)) for name, (size, mtime, sha) in stored}
    except (ValueError, TypeError):
        return {}


def _write_index(index: Path | None, entries: Mapping[str, Entry]) -> None:
    write_index(index, {name: entry for name, entry in sorted(entries.items()) if is_settled(entry.mtime_ns)})
