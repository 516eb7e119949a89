"""Tables as plain text for the terminal."""

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """One line of text for each row, its columns two spaces apart.

    Args:
        rows: Cells, as many in each row; the first row may be a header.
        left: Numbers from 0 of the columns that stand to the left, as names do; the others stand to the
            right, as numbers do.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (
        [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    )
    return ["  ".join(row).rstrip() for row in padded]


def titled(title: str, lines: Sequence[str]) -> str:
    """Lines below their title, which a rule as wide as the widest of them underlines."""
    return "\n".join([title, "-" * max(map(len, [title, *lines])), *lines, ""])
