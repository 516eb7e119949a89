"""Downloads that go on where they stopped and are checked by SHA-256. Standard library, http(s) only."""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit

from pipeline.errors import PipelineError
from pipeline.progress import bar, log

CHUNK = 1 << 18
# Of the answers that blame the request, those that another try may change.
PASSING = frozenset({408, 425, 429})
RANGE_NOT_SATISFIABLE = 416


class Patience(NamedTuple):
    """How much a download puts up with.

    Attributes:
        tries: Connections in all.
        timeout: Seconds without a byte before a connection counts as dropped.
        pause: Seconds before the second try; doubled before each further one.
    """

    tries: int = 3
    timeout: float = 60.0
    pause: float = 2.0


PATIENCE = Patience()


class _DroppedError(Exception):
    """The connection failed or broke off; another try may bring the rest."""


def download(url: str, destination: Path, digest: str, patience: Patience = PATIENCE) -> str:
    """Fetch `url` to `destination`, unless a file with this digest is there already.

    What has arrived is kept beside it, in ``<name>.part``, with what the server calls this version
    of the file in ``<name>.part.version``: the next try, or the next run, asks for the rest alone.
    Jobs that want the same file wait for the one that fetches it.

    Args:
        url: An http or https address.
        destination: Where the whole file goes, by a rename.
        digest: SHA-256 in hexadecimal, or its first digits.
        patience: Tries, time-out and pause.

    Returns:
        The SHA-256 of the file, in full.

    Raises:
        PipelineError: If the address is no http(s), the server refuses, the connection stays broken,
            or the file has another digest (it is then removed).
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise PipelineError(f"{url}: only http and https addresses are fetched")
    found = _valid(destination, digest)
    if found is not None:
        return found
    part = destination.with_name(f"{destination.name}.part")
    with _alone(destination):
        found = _valid(destination, digest)  # another job may have fetched it in the meantime
        if found is not None:
            return found
        found = _valid(part, digest)  # all of it may have come before the last run was killed
        if found is None:
            _fetch(url, part, patience)
            found = sha256_of(part)
        _version_file(part).unlink(missing_ok=True)
        if not found.startswith(digest):
            part.unlink()
            raise PipelineError(
                f"{url}: the file has SHA-256 {found}, expected {digest}; the download is removed. "
                "Either the file at this address has changed, or the digest is that of another."
            )
        os.replace(part, destination)
    return found


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _valid(path: Path, digest: str) -> str | None:
    """The full digest of a file, if there is one and it starts with `digest`."""
    if not path.is_file():
        return None
    found = sha256_of(path)
    return found if found.startswith(digest) else None


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Let no other job write `destination` meanwhile."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    lock = destination.with_name(f"{destination.name}.lock")
    with lock.open("w") as file:
        # Some network file systems have no locks. Two jobs may then spoil one part: the digest tells.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
        # Whoever still waits for the removed lock finds the destination finished.
        lock.unlink(missing_ok=True)


def _fetch(url: str, part: Path, patience: Patience) -> None:
    """Complete `part`, in as many tries as there are."""
    for number in range(patience.tries):
        try:
            return _transfer(url, part, patience.timeout)
        except _DroppedError as error:
            if number + 1 == patience.tries:
                arrived = part.stat().st_size if part.exists() else 0
                raise PipelineError(
                    f"{url}: {error}, after {patience.tries} tries. The {arrived:,} bytes that arrived "
                    "are kept, and another run fetches the rest."
                ) from error
            pause = patience.pause * 2**number
            log.warning("%s: %s; next try in %g s", url, error, pause)
            time.sleep(pause)


def _transfer(url: str, part: Path, timeout: float) -> None:
    """One connection: append to `part` what it lacks, or start anew if the server sends all of it."""
    start = part.stat().st_size if part.exists() else 0
    with _open(url, part, start, timeout) as response:
        resumed = response.status == 206
        start = start if resumed else 0
        length = response.headers["Content-Length"]
        total = start + int(length) if length is not None else None
        with (
            part.open("ab" if resumed else "wb") as file,
            bar(PurePosixPath(urlsplit(url).path).name, "B", total, initial=start) as progress,
        ):
            if not resumed:
                _remember_version(response.headers, part)
            for chunk in _chunks(response):
                file.write(chunk)
                progress.update(len(chunk))
    arrived = part.stat().st_size
    if total is not None and arrived != total:
        raise _DroppedError(f"the connection ended at {arrived:,} of {total:,} bytes")


def _open(url: str, part: Path, start: int, timeout: float) -> HTTPResponse:
    headers = {"User-Agent": "graftune"}
    if start:
        headers["Range"] = f"bytes={start}-"
        with suppress(FileNotFoundError):
            headers["If-Range"] = _version_file(part).read_text()
    wanted = request.Request(url, headers=headers)  # noqa: S310  (http and https alone get here)
    try:
        response: HTTPResponse = _opener().open(wanted, timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code == RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise _DroppedError("the part is no part of the file that the server has now") from error
        refusal = f"the server answers {error.code} ({error.reason})"
        if error.code >= 500 or error.code in PASSING:
            raise _DroppedError(refusal) from error
        raise PipelineError(f"{url}: {refusal}") from error
    except (OSError, HTTPException) as error:
        raise _DroppedError(_reason(error)) from error
    return response


def _opener() -> request.OpenerDirector:
    """Unlike the default, it follows no redirection to ftp or another scheme."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    # The network's errors alone become `_DroppedError` here: a full disk, an OSError too, must not.
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _DroppedError(_reason(error)) from error


def _reason(error: Any) -> str:
    cause = getattr(error, "reason", error)
    return "the server is silent" if isinstance(cause, TimeoutError) else str(cause) or type(cause).__name__


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _remember_version(headers: Message, part: Path) -> None:
    """Keep what If-Range can name: a strong ETag, else the date of the last change."""
    etag = headers["ETag"]
    version = etag if etag and not etag.startswith("W/") else headers["Last-Modified"]
    if version:
        _version_file(part).write_text(version)
    else:
        _version_file(part).unlink(missing_ok=True)
