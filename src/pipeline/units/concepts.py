"""Which concept each class belongs to, as a file says."""

from pathlib import Path

from pipeline.datasets.files import read_csv, require_column
from pipeline.errors import PipelineError, listed


def concepts_of(path: Path, names: list[str]) -> list[str | None]:
    """The concept of each class; None of a class that the file does not name.

    Args:
        path: CSV, UTF-8, with columns ``class_name`` and ``concept``. It may name further classes, so
            that one file serves several parts of a dataset.
        names: Of the classes, exactly as the file has them.

    Raises:
        PipelineError: If a column is missing, a value is empty, a class comes twice, or the file names
            none of the classes.
    """
    table = read_csv(path)
    for column in ("class_name", "concept"):
        require_column(path, column, table.columns)
    concepts: dict[str, str] = {}
    wrong = []
    rows = zip(table.lines, table.columns["class_name"], table.columns["concept"], strict=True)
    for line, name, concept in rows:
        if not name.strip() or not concept.strip():
            wrong.append(f"line {line}: found {name!r}, {concept!r}; expected a class and its concept")
        elif concepts.setdefault(name.strip(), concept.strip()) != concept.strip():
            wrong.append(f"line {line}: class {name!r} is {concepts[name.strip()]!r} already")
    if wrong:
        raise PipelineError(f"{path}: expected a concept for each class:\n{listed(wrong)}")
    if not concepts.keys() & set(names):
        raise PipelineError(
            f"{path}: none of the {len(names)} classes is in it (the classes are {_some(names)}; "
            f"the file names {_some(list(concepts))})"
        )
    return [concepts.get(name) for name in names]


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:5])) or "none"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
