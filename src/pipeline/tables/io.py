"""Read and write tables, holding both sides to the declared schema."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.provenance.record import METADATA_KEY
from pipeline.tables.files import atomic_path
from pipeline.tables.schemas import FEATURE, SCHEMAS, TableSchema

# Rows of images are large and read in order; small groups keep a reader's memory bounded.
ROW_GROUP = {"manifest": 2_000}
# Vectors that are read at a time into the array that holds all of them.
VECTORS = 8_192


def write_table(
    kind: str,
    path: Path,
    columns: Mapping[str, Any] | pa.Table,
    provenance: Provenance,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write one table atomically, with its schema checked and its record in the metadata.

    Args:
        kind: Name of a schema in `SCHEMAS`.
        path: The Parquet file to make.
        columns: A table, or arrays and lists by column name; order is the schema's.
        provenance: What made the table.
        extra: Further text metadata (such as class names as JSON).

    Raises:
        PipelineError: If a column is missing, unknown, of another type, or null where it may not.
    """
    table = _conform(kind, columns, Path(path))
    metadata = {METADATA_KEY: provenance.to_json(), **(extra or {})}
    table = table.replace_schema_metadata(metadata)
    with atomic_path(path) as temporary:
        rows = ROW_GROUP.get(kind, 65_536)
        parquet.write_table(table, temporary, row_group_size=rows, **_encoding(table.schema))


@contextmanager
def table_writer(
    kind: str, path: Path, provenance: Provenance, extra: Mapping[str, str] | None = None
) -> Iterator[Callable[[Mapping[str, Any] | pa.Table], None]]:
    """Yield a function that writes the next rows; for tables too large to hold.

    Every call makes one row group; all else, errors too, is as in `write_table`.
    """
    metadata = {METADATA_KEY: provenance.to_json(), **(extra or {})}
    with atomic_path(path) as temporary, ExitStack() as stack:
        writer: parquet.ParquetWriter | None = None

        def write(columns: Mapping[str, Any] | pa.Table) -> None:
            nonlocal writer
            rows = _conform(kind, columns, Path(path)).replace_schema_metadata(metadata)
            if writer is None:
                writer = stack.enter_context(
                    parquet.ParquetWriter(temporary, rows.schema, **_encoding(rows.schema))
                )
            writer.write_table(rows)

        yield write


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    """How a table is stored; vectors and images hardly repeat, and looking for repeats takes long."""
    flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
    return {"compression": "zstd", "use_dictionary": flat}


def read_table(kind: str, path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """Read a table and check its schema.

    Args:
        kind: Name of a schema in `SCHEMAS`.
        path: The Parquet file.
        columns: Only these columns; all by default.
        filters: Row filter as pyarrow takes it.

    Raises:
        PipelineError: If the file is missing, truncated, no Parquet, or of another schema.
    """
    with _checked(kind, Path(path)):
        return parquet.read_table(path, columns=columns, filters=filters)


def read_vectors(kind: str, path: Path, column: str) -> np.ndarray:
    """Read a column of vectors, float32 (n, d), a few rows at a time: it is never held twice.

    Args:
        kind: Name of a schema in `SCHEMAS`.
        path: The Parquet file.
        column: Name of the column.

    Raises:
        PipelineError: As in `read_table`.
    """
    with _checked(kind, Path(path)) as schema:
        rows = parquet.read_metadata(path).num_rows
        vectors = np.empty((rows, schema.field(column).type.list_size), np.float32)
        first = 0
        for part in read_batches(path, [column], VECTORS):
            vectors[first : first + len(part)] = feature_matrix(part, column)
            first += len(part)
        return vectors


@contextmanager
def _checked(kind: str, path: Path) -> Iterator[pa.Schema]:
    """The schema of a table, once checked, to read more of it; what fails is said in our words."""
    try:
        schema = parquet.read_schema(path)
        check_schema(kind, schema, path)
        yield schema
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: no such {kind} table") from error
    except pa.ArrowInvalid as error:
        raise PipelineError(f"{path}: not a readable Parquet file ({error})") from error
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read, perhaps truncated ({error})") from error


def read_batches(path: Path, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Read a table in order, a few rows at a time, holding no more of it than a row group.

    Args:
        path: A Parquet file whose schema has been checked.
        columns: Only these.
        rows: In a batch, at most: none reaches over the end of a row group.
    """
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            # A reader of several groups keeps all that it has read of the file until it ends.
            for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
                yield pa.table(batch)


def read_table_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a Parquet file, pandas' and Arrow's own keys left out."""
    try:
        metadata = parquet.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"{path}: not a readable Parquet file ({error})") from error
    return {
        key.decode(): value.decode()
        for key, value in metadata.items()
        if key not in (b"pandas", b"ARROW:schema")
    }


def feature_column(matrix: np.ndarray) -> pa.FixedSizeListArray:
    """An (n, d) float32 matrix as a column of n fixed-size lists, without a copy."""
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def feature_matrix(table: pa.Table, column: str = "feature") -> np.ndarray:
    """A fixed-size-list column as an (n, d) float32 matrix."""
    chunks = table.column(column).chunks
    width = table.schema.field(column).type.list_size
    if not chunks:
        return np.empty((0, width), dtype=np.float32)
    parts = [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, width) for chunk in chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def feature_width(path: Path) -> int:
    """How many numbers each feature in a file has."""
    return int(parquet.read_schema(path).field("feature").type.list_size)


def check_schema(kind: str, schema: pa.Schema, path: Path) -> None:
    """Raise PipelineError unless `schema` has the columns of `kind`, each of its type."""
    declared = SCHEMAS[kind]
    for name, expected in declared.columns.items():
        if name not in schema.names:
            raise PipelineError(
                f"{path}: not a {kind} table: column {name!r} is missing "
                f"(found {', '.join(schema.names)}; expected {', '.join(declared.columns)})"
            )
        found = schema.field(name).type
        if not _same_type(found, expected):
            raise PipelineError(
                f"{path}: column {name!r} of this {kind} table is {found}, expected {_type_name(expected)}"
            )


def _conform(kind: str, columns: Mapping[str, Any] | pa.Table, path: Path) -> pa.Table:
    declared = SCHEMAS[kind]
    given = {name: columns[name] for name in _column_names(columns)}
    unknown = set(given) - set(declared.columns) - set(declared.optional)
    if unknown:
        raise PipelineError(f"{path}: a {kind} table has no column {', '.join(sorted(unknown))}")
    types = {**declared.columns, **declared.optional}
    missing = [name for name in declared.columns if name not in given]
    if missing:
        raise PipelineError(f"{path}: this {kind} table lacks column {', '.join(missing)}")
    arrays = {name: _array(given[name], types[name], path) for name in types if name in given}
    _refuse_nulls(declared, arrays, path)
    return pa.table(arrays)


def _column_names(columns: Mapping[str, Any] | pa.Table) -> list[str]:
    return columns.column_names if isinstance(columns, pa.Table) else list(columns)


def _array(values: Any, expected: pa.DataType, path: Path) -> pa.Array | pa.ChunkedArray:
    if expected == FEATURE:
        return values if isinstance(values, pa.Array | pa.ChunkedArray) else feature_column(values)
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        if pa.types.is_dictionary(expected):
            return pa.array(values, pa.string()).dictionary_encode()
        return pa.array(values, expected)
    if values.type == expected:
        return values
    try:
        return values.cast(expected)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PipelineError(f"{path}: {values.type} is not {expected} ({error})") from error


def _refuse_nulls(declared: TableSchema, arrays: Mapping[str, Any], path: Path) -> None:
    for name, array in arrays.items():
        if array.null_count and name not in declared.nullable:
            raise PipelineError(f"{path}: column {name!r} has {array.null_count} empty values")


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    if expected == FEATURE:
        return pa.types.is_fixed_size_list(found) and pa.types.is_float32(found.value_type)
    if pa.types.is_dictionary(expected):
        value = found.value_type if pa.types.is_dictionary(found) else found
        return pa.types.is_string(value) or pa.types.is_large_string(value)
    return bool(found == expected)


def _type_name(expected: pa.DataType) -> str:
    return "fixed_size_list<float32>" if expected == FEATURE else str(expected)
