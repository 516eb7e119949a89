"""Every intermediate that is not a weight file: Parquet with a declared schema."""

from pipeline.tables.files import atomic_path, atomic_write
from pipeline.tables.finite import check_finite
from pipeline.tables.io import (
    feature_column,
    feature_matrix,
    feature_width,
    read_batches,
    read_table,
    read_table_metadata,
    read_vectors,
    table_writer,
    write_table,
)
from pipeline.tables.samples import Samples, read_samples
from pipeline.tables.schemas import SCHEMAS, TableSchema

__all__ = [
    "SCHEMAS",
    "Samples",
    "TableSchema",
    "atomic_path",
    "atomic_write",
    "check_finite",
    "feature_column",
    "feature_matrix",
    "feature_width",
    "read_batches",
    "read_samples",
    "read_table",
    "read_table_metadata",
    "read_vectors",
    "table_writer",
    "write_table",
]
