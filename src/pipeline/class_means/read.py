"""From a file of class means to a units table."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from pipeline.errors import PipelineError, listed
from pipeline.provenance import Provenance
from pipeline.tables import feature_column, write_table


def _is_mean(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and pa.types.is_floating(kind.value_type)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value) or pa.types.is_large_string(value)


# Each column, what it holds, and how that is known by its type.
REQUIRED: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "class_index": ("whole numbers", pa.types.is_integer),
    "images": ("whole numbers", pa.types.is_integer),
    "mean": ("lists of floating-point numbers", _is_mean),
}
OPTIONAL: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "name": ("text", _is_text),
    "concept": ("text", _is_text),
}


def read(means: Path, units: Path, settings: Mapping[str, Any], provenance: Provenance) -> None:
    """Write class means as the units of a dataset, in the order of ``class_index``.

    Args:
        means: Parquet, a row per class: ``class_index`` (integers from 0, each once), ``images`` (how
            many were averaged, at least 1), ``mean`` (lists of d numbers); where known ``name`` and
            ``concept``. Other columns are left alone.
        units: The units table to write; ``unit_id`` is the class index, and a class without a name is
            called ``class <index>``.
        settings: ``classes``, how many are expected, where that is known.
        provenance: Kept in the table.

    Raises:
        PipelineError: If a column is missing or of another type, a value is missing, a class comes
            twice or without images, a mean is not finite or of another length, or the number of
            classes is not the one expected.
    """
    table = _read_columns(means)
    expected = settings.get("classes")
    if len(table) != (expected or len(table)):
        raise PipelineError(f"{means}: found {len(table)} classes, the config says {expected}")
    _check_counts(means, table)
    table = table.sort_by("class_index")
    given = table.column_names
    names = [f"class {number}" for number in table["class_index"].to_pylist()]
    columns = {
        "unit_id": table["class_index"],
        "name": table["name"] if "name" in given else names,
        "images": table["images"],
        "mean": feature_column(_matrix(means, table)),
    }
    if "concept" in given:
        columns["concept"] = table["concept"]
    write_table("units", units, columns, provenance)


def _read_columns(path: Path) -> pa.Table:
    """The columns that count, each of its type and, but for concepts, without gaps."""
    try:
        schema = parquet.read_schema(path)
        known = {name: kind for name, kind in (REQUIRED | OPTIONAL).items() if name in schema.names}
        wrong = [
            f"column {name!r} is {schema.field(name).type}, expected {holds}"
            for name, (holds, fits) in known.items()
            if not fits(schema.field(name).type)
        ]
        wrong += [f"column {name!r} is missing" for name in REQUIRED if name not in known]
        if wrong:
            found = f"found {', '.join(schema.names)}; expected {', '.join(REQUIRED)}"
            raise PipelineError(f"{path}: no class means ({found}):\n{listed(wrong)}")
        table = parquet.read_table(path, columns=list(known))
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: no such file of class means") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"{path}: not a readable Parquet file ({error})") from error
    empty = [
        f"column {name!r} has {table[name].null_count} empty values"
        for name in table.column_names
        if name != "concept" and table[name].null_count
    ]
    if empty or not len(table):
        raise PipelineError(f"{path}: expected a value for each class:\n{listed(empty or ['no rows'])}")
    return table


def _check_counts(path: Path, table: pa.Table) -> None:
    index, images = table["class_index"].to_pylist(), table["images"].to_pylist()
    wrong = [
        f"class_index {number} comes {times} times" for number, times in Counter(index).items() if times > 1
    ]
    wrong += [f"class_index {number} is below 0" for number in index if number < 0]
    wrong += [
        f"class_index {number} is a mean of {count} images"
        for number, count in zip(index, images, strict=True)
        if count < 1
    ]
    if wrong:
        raise PipelineError(f"{path}: expected each class once, with images:\n{listed(wrong)}")


def _matrix(path: Path, table: pa.Table) -> np.ndarray:
    """The means, float32 (K, d)."""
    column, index = table["mean"].combine_chunks(), table["class_index"].to_pylist()
    lengths = compute.list_value_length(column).to_pylist()
    width = Counter(lengths).most_common(1)[0][0]
    wrong = [
        f"the mean of class_index {number} has {length} numbers, most have {width}"
        for number, length in zip(index, lengths, strict=True)
        if length != width
    ]
    if wrong or not width:
        raise PipelineError(f"{path}: expected means of one length:\n{listed(wrong or ['no numbers'])}")
    numbers = column.flatten().to_numpy(zero_copy_only=False)  # what is missing becomes NaN
    matrix = numbers.astype(np.float32).reshape(len(index), width)
    bad = [number for number, finite in zip(index, np.isfinite(matrix).all(1), strict=True) if not finite]
    if bad:
        raise PipelineError(f"{path}: the mean is not finite of class_index {', '.join(map(str, bad[:10]))}")
    return matrix
