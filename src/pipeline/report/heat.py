"""Heat maps as tables, not figures: names are text of the data, and numbers can be read in the cells."""

from typing import NamedTuple


class Cell(NamedTuple):
    """One cell of a heat map.

    Attributes:
        strength: Of its colour, 0 to 100.
        text: Its number; empty where it is not worth reading.
        marked: Whether it has a frame.
    """

    strength: int = 0
    text: str = ""
    marked: bool = False


class Heat(NamedTuple):
    """A heat map.

    Attributes:
        down: What its rows are.
        across: What its columns are.
        columns: Their names.
        rows: Name and cells of each.
        total: Cells of a row below all others; None without one.
    """

    down: str
    across: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    total: tuple[str, list[Cell]] | None = None
