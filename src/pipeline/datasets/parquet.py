"""A Parquet file, or a folder of them, with Hugging Face image columns."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from pipeline.datasets.files import parquet_files, require_column
from pipeline.datasets.listing import BATCH, CARRIED, Listing, require_rows
from pipeline.datasets.splits import part_named
from pipeline.errors import PipelineError, did_you_mean
from pipeline.tables.schemas import IMAGE


@dataclass(frozen=True)
class Files:
    """The Parquet files of a dataset, read as one.

    Attributes:
        paths: In order of their names.
        starts: Number of the first row of each file; the last is the number of rows in all.
        column: Name of the image column.
    """

    paths: list[Path]
    starts: list[int]
    column: str

    def locate(self, row: int) -> str:
        """File of a row, and its number there from 0."""
        file = bisect_right(self.starts, row) - 1
        return f"{self.paths[file]} row {row - self.starts[file]}"


def read(settings: Mapping[str, Any]) -> Listing:
    """List the rows of the Parquet files at ``path``; only the small columns are read.

    Samples are named by their image's path where every image has one, else by their row number.

    Raises:
        PipelineError: If a file is no whole Parquet file, a column is missing or of another type, or
            ``where`` names a value that no row has.
    """
    path = Path(settings["path"])
    paths = parquet_files(path)
    tables = [_small_columns(file, settings) for file in paths]
    starts = np.cumsum([0, *map(len, tables)]).tolist()
    files = Files(paths, starts, settings["image"])
    try:
        table = pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise PipelineError(f"{path}: the files differ in their columns ({error})") from error
    require_rows(path, len(table))
    chosen = _where(path, table, settings["where"])
    return Listing(
        rows=_name_rows(table).take(chosen),
        images=lambda order, scratch: _images(files, chosen[order], scratch),
        locate=lambda row: files.locate(int(chosen[row])),
        class_names=_class_names(paths[0], settings["label"]),
    )


def _small_columns(path: Path, settings: Mapping[str, Any]) -> pa.Table:
    """The columns of a listing, the images' paths, and what `where` filters by as ``where:NAME``.

    A file without a column of parts is one part if it is named so, as Hugging Face names its files:
    ``train-00000-of-00005.parquet``.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        wanted = _wanted_columns(path, schema, settings)
        has_path = _check_image(path, schema, settings["image"])
        names = [*wanted.values(), *([f"{settings['image']}.path"] if has_path else [])]
        table = file.read(columns=sorted(set(names)))
        rows = file.metadata.num_rows
    columns = {name: _plain(path, column, table[column]) for name, column in wanted.items()}
    columns["path"] = pa.nulls(rows, pa.string())
    if has_path:
        columns["path"] = compute.struct_field(table[settings["image"]], "path").cast(pa.string())
    part = part_named(path.stem.split("-")[0])
    if "split" not in columns and part is not None:
        columns["split"] = pa.array([part] * rows)
    return pa.table(columns)


def _wanted_columns(path: Path, schema: pa.Schema, settings: Mapping[str, Any]) -> dict[str, str]:
    """Name in the listing and name in the file of the columns that the settings name."""
    wanted = {f"where:{column}": column for column in settings["where"]}
    if settings["label"] is not None:
        wanted["label"] = settings["label"]
    optional = {"split": settings["split_column"], **{name: name for name in CARRIED}}
    if settings["label"] is not None and settings["class_name"] is not None:
        optional["class_name"] = settings["class_name"]
    # A column of the default name may be absent; one that was named otherwise was asked for.
    wanted |= {name: column for name, column in optional.items() if column in schema.names or column != name}
    for column in wanted.values():
        require_column(path, column, schema.names)
    return wanted


def _check_image(path: Path, schema: pa.Schema, column: str) -> bool:
    """Whether the image column has paths; raises PipelineError if it is no column of images."""
    require_column(path, column, schema.names)
    found = schema.field(column).type
    fields = {field.name: field.type for field in found} if pa.types.is_struct(found) else {}
    if not _is_binary(fields.get("bytes", found)):
        raise PipelineError(
            f"{path}: column {column!r} is {found}; expected struct<bytes: binary, path: string> or binary"
        )
    return "path" in fields


def _plain(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as int64 or string."""
    value = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(value):
        return column.cast(value).cast(pa.int64())
    if pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_boolean(value):
        return column.cast(value).cast(pa.string())
    if pa.types.is_null(value):
        return column.cast(pa.string())
    raise PipelineError(f"{path}: column {name!r} is {column.type}; expected integers or strings")


def _where(path: Path, table: pa.Table, where: Mapping[str, list[str]]) -> np.ndarray:
    """Numbers of the rows whose columns hold one of the given values."""
    chosen = np.ones(len(table), dtype=bool)
    for column, values in where.items():
        found = table[f"where:{column}"].cast(pa.string())
        present = [value for value in compute.unique(found).to_pylist() if value is not None]
        for value in values:
            if value not in present:
                raise PipelineError(
                    f"{path}: no row has {value!r} in column {column!r}{did_you_mean(value, present)}"
                )
        chosen &= compute.is_in(found, value_set=pa.array(values, pa.string())).to_numpy()
    if not chosen.any():
        raise PipelineError(f"{path}: no row has all of where: {dict(where)}")
    return np.flatnonzero(chosen)


def _name_rows(table: pa.Table) -> pa.Table:
    """The listing's columns, with a sample_id."""
    rows = len(table)
    if table["path"].null_count == 0:
        sample_ids = table["path"]
    else:
        sample_ids = pa.array([f"{row:0{len(str(rows - 1))}}" for row in range(rows)])
    kept = [name for name in table.column_names if name != "path" and not name.startswith("where:")]
    return table.select(kept).append_column("sample_id", sample_ids)


def _class_names(path: Path, label: str | None) -> list[str] | None:
    """Names that the schema's metadata declares: Hugging Face's ClassLabel, or ``class_names``."""
    with _opened(path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = features.get(label, {}).get("names")
        if names is None and b"class_names" in metadata:
            names = json.loads(metadata[b"class_names"])
    except (ValueError, AttributeError) as error:
        raise PipelineError(f"{path}: class names in the metadata are not JSON ({error})") from error
    return [str(name) for name in names] if names is not None else None


def _images(files: Files, order: np.ndarray, scratch: Path) -> Iterator[pa.StructArray]:
    """Image structs of the given rows in that order.

    Rows in the files' order are streamed. Others are first copied to an Arrow file at `scratch` that
    is mapped into memory: reading the files at random would unpack a whole page for every image.
    """
    if np.all(np.diff(order) > 0):
        yield from _streamed(files, order)
        return
    places = np.argsort(np.argsort(order))
    try:
        with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_file(sink, pa.schema({"image": IMAGE})) as out:
            starts = [0]
            for images in _streamed(files, np.sort(order)):
                out.write_batch(pa.record_batch([images], ["image"]))
                starts.append(starts[-1] + len(images))
        with pa.memory_map(str(scratch)) as source:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(number)["image"] for number in range(reader.num_record_batches)]
            for first in range(0, len(places), BATCH):
                holders = [
                    (bisect_right(starts, place) - 1, place) for place in places[first : first + BATCH]
                ]
                images = [batches[batch][place - starts[batch]].as_py() for batch, place in holders]
                yield pa.array(images, IMAGE)
    finally:
        scratch.unlink(missing_ok=True)


def _streamed(files: Files, rows: np.ndarray) -> Iterator[pa.StructArray]:
    """Image structs of the given rows, which ascend, skipping row groups that hold none of them."""
    for path, start in zip(files.paths, files.starts, strict=False):
        with _opened(path) as file:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
                if len(wanted):
                    yield from _from_group(file, group, files.column, wanted - start)
                start = stop


def _from_group(
    file: parquet.ParquetFile, group: int, column: str, rows: np.ndarray
) -> Iterator[pa.StructArray]:
    start = 0
    for batch in file.iter_batches(BATCH, row_groups=[group], columns=[column]):
        stop = start + len(batch)
        wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
        yield _as_images(batch.column(0)).take(pa.array(wanted - start))
        start = stop


def _as_images(column: pa.Array) -> pa.StructArray:
    """A column of structs or of binary as `IMAGE`; null where it has no bytes, whatever the path."""
    encoded, paths = column, pa.nulls(len(column), pa.string())
    if pa.types.is_struct(column.type):
        encoded = compute.struct_field(column, "bytes")
        if column.type.get_field_index("path") >= 0:
            paths = compute.struct_field(column, "path")
    arrays = [encoded.cast(pa.binary()), paths.cast(pa.string())]
    return pa.StructArray.from_arrays(arrays, ["bytes", "path"], mask=encoded.is_null())


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@contextmanager
def _opened(path: Path) -> Iterator[parquet.ParquetFile]:
    """A Parquet file; whatever it cannot read in the block is refused by the file's name."""
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path}: no Parquet file, or truncated or damaged ({error})") from error
