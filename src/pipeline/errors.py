"""The one exception whose message is written for the user, shown without a traceback, and its wording."""

import difflib
from collections.abc import Iterable, Sequence


class PipelineError(Exception):
    """Bad input or an impossible request.

    The message names the file, key or row, says what was found and what was expected.
    """


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the nearest allowed name, or nothing."""
    nearest = difflib.get_close_matches(found, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def listed(problems: Sequence[str], total: int | None = None) -> str:
    """The first ten problems, one a line, and how many more there are (of `total`, if not all are given)."""
    more = (total if total is not None else len(problems)) - len(problems[:10])
    return "\n".join(f"  {line}" for line in [*problems[:10], *([f"... and {more} more"] if more else [])])
