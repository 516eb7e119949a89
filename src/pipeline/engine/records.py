"""Histories and timings: appended to while training runs, tables at the end."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.provenance import Provenance
from pipeline.tables import write_table


class Record:
    """Rows of one table, kept as JSON lines beside it until `finish` writes the table.

    Lines are flushed as they come, so that a reader can follow a running job.
    """

    def __init__(self, kind: str, table: Path):
        self.kind, self.table = kind, Path(table)
        self.lines = self.table.with_suffix(".jsonl")

    def truncate(self, size: int) -> None:
        """Go back to the first `size` bytes: what a checkpoint had seen."""
        self.lines.parent.mkdir(parents=True, exist_ok=True)
        with self.lines.open("ab") as file:
            file.truncate(min(size, file.tell()))

    def size(self) -> int:
        """Bytes written so far."""
        return self.lines.stat().st_size if self.lines.exists() else 0

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows in one write.

        Raises:
            OSError: With the name of the file, where the disk is full.
        """
        text = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            with self.lines.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.lines)) from error

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far."""
        if not self.lines.exists():
            return []
        return [json.loads(line) for line in self.lines.read_text(encoding="utf-8").splitlines()]

    def finish(self, provenance: Provenance) -> None:
        """Write the table; the lines stay until `discard`."""
        from pipeline.tables import SCHEMAS

        rows = self.rows()
        columns = {name: [row[name] for row in rows] for name in SCHEMAS[self.kind].columns}
        write_table(self.kind, self.table, columns, provenance)

    def discard(self) -> None:
        """Remove the lines, once everything the job makes is in place."""
        if self.lines.exists():
            os.unlink(self.lines)
