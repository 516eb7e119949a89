"""The record of what made a file, kept inside the file itself."""

import hashlib
import json
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

METADATA_KEY = "graftune"
LIBRARIES = (
    "imagehash",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "torch",
    "torchvision",
)
# Those that a result can depend on where they are installed.
OPTIONAL_LIBRARIES = ("timm",)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@cache
def installed_versions() -> dict[str, str]:
    """Versions of the libraries that a result can depend on, whether imported yet or not."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {name: version(name) for name in LIBRARIES}
    for name in OPTIONAL_LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


@dataclass(frozen=True)
class Provenance:
    """What made a file. Holds no clock, host or path, so that equal runs give equal files.

    Attributes:
        step: The command that wrote the file, such as ``pipeline.selection``.
        settings: The resolved settings of the step.
        code: The code digest, as `CodeDigest` writes it.
        inputs: Name of each input and the digest of its content.
        versions: Distribution and version of the libraries that a result can depend on.
    """

    step: str
    settings: Mapping[str, Any]
    code: str
    inputs: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    def to_json(self) -> str:
        """Canonical JSON of the whole record."""
        return canonical_json(asdict(self))

    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for the record."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def read_provenance(path: Path) -> Provenance | None:
    """The record inside a Parquet or safetensors file; None where there is none.

    Raises:
        PipelineError: If the file is neither readable Parquet nor safetensors by its suffix.
    """
    text = _embedded_metadata(Path(path))
    return Provenance(**json.loads(text)) if text is not None else None


def digest_of_file(path: Path) -> str:
    """Digest of a file's content: of its record where it has one, else of its bytes.

    A record holds the digests of its own inputs, so that equal digests mean equal content at the
    cost of reading a header.
    """
    path = Path(path)
    if not path.is_file():
        raise PipelineError(f"{path}: no such file")
    text = _embedded_metadata(path) if path.suffix in (".parquet", ".safetensors") else None
    if text is not None:
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _embedded_metadata(path: Path) -> str | None:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            metadata = parquet.read_schema(path).metadata or {}
        except pyarrow.ArrowInvalid as error:
            raise PipelineError(f"{path}: not a readable Parquet file ({error})") from error
        text = metadata.get(METADATA_KEY.encode())
        return text.decode() if text is not None else None
    return read_safetensors_metadata(path).get(METADATA_KEY)


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """The text metadata in the header of a safetensors file, without loading a tensor.

    Raises:
        PipelineError: If the header cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError(f"header of {length} bytes")
            header = json.loads(file.read(length))
    except (struct.error, ValueError) as error:
        raise PipelineError(f"{path}: not a readable safetensors file ({error})") from error
    return header.get("__metadata__", {})
