"""What made a file: settings, digests of inputs and code, versions."""

from pipeline.provenance.code import CodeDigest, code_digest, covered_modules
from pipeline.provenance.record import (
    Provenance,
    canonical_json,
    digest_of_file,
    read_provenance,
)

__all__ = [
    "CodeDigest",
    "Provenance",
    "canonical_json",
    "code_digest",
    "covered_modules",
    "digest_of_file",
    "read_provenance",
]
