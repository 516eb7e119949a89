"""Contiguous parts of a manifest, for steps that read a large one in several jobs."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as parquet

from pipeline.errors import PipelineError


def shard_bounds(rows: int, batch_size: int, shard: int, shards: int) -> tuple[int, int]:
    """First row and one past the last of a shard, cut at multiples of the batch size.

    Raises:
        PipelineError: If there is no such shard.
    """
    if not 0 <= shard < shards:
        raise PipelineError(f"shard {shard} of {shards}: expected 0 to {shards - 1}")
    batches = -(-rows // batch_size)
    cuts = [round(number * batches / shards) * batch_size for number in (shard, shard + 1)]
    return min(cuts[0], rows), min(cuts[1], rows)


def shard_batches(
    file: parquet.ParquetFile, columns: list[str], first: int, last: int, batch_size: int
) -> Iterator[pa.Table]:
    """The rows first .. last - 1, a batch at a time, reading only the row groups that hold them."""
    start, waiting = 0, []
    held = 0
    for group in range(file.metadata.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        low, high = max(first, start), min(last, stop)
        if low < high:
            waiting.append(file.read_row_group(group, columns).slice(low - start, high - low))
            held += high - low
            if held >= batch_size or stop >= last:
                rows = pa.concat_tables(waiting)
                whole = held if stop >= last else held - held % batch_size
                for offset in range(0, whole, batch_size):
                    yield rows.slice(offset, min(batch_size, whole - offset))
                waiting, held = [rows.slice(whole)], held - whole
        start = stop
