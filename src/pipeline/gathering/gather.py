"""Join shards into one table."""

from pathlib import Path

import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.provenance import read_provenance
from pipeline.tables import check_finite, read_table, write_table


def gather(shards: list[Path], output: Path, kind: str = "features") -> None:
    """Join shards into one table; what made it is what made each of them.

    Args:
        shards: In order.
        output: The table to write.
        kind: Name of their schema in `pipeline.tables.SCHEMAS`.

    Raises:
        PipelineError: If two shards were made by different settings, code or inputs, or a feature is
            not finite; it names the shard, its rows and the images.
    """
    records = {path: read_provenance(path) for path in shards}
    first = records[shards[0]]
    for path, record in records.items():
        if record != first:
            raise PipelineError(f"{path}: made by other settings, code or inputs than {shards[0]}")
    assert first is not None
    parts = [read_table(kind, path) for path in shards]
    if kind == "features":
        for path, part in zip(shards, parts, strict=True):
            check_finite(path, [part])
    write_table(kind, output, pa.concat_tables(parts).unify_dictionaries(), first)
