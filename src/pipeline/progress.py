"""Progress and log lines of a step. Nothing here can change a result."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

log = logging.getLogger("pipeline")


def start_logging() -> None:
    """Send log lines to standard error, which a rule keeps in its log file.

    Of processes that train together, the first speaks for all.
    """
    level = logging.INFO if speaks() else logging.ERROR
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.captureWarnings(True)


def speaks() -> bool:
    """Whether this process reports; torchrun numbers those that train together."""
    return os.environ.get("RANK", "0") == "0"


def track(items: Iterable[Any], description: str, unit: str, total: int | None = None) -> Iterator[Any]:
    """Yield `items` with a bar, a rate and the time left.

    In a terminal it is redrawn in place; in a log file a line is written every ten seconds.
    """
    yield from bar(description, unit, total, items)


def bar(description: str, unit: str, total: int | None = None, items: Any = None, initial: int = 0) -> Any:
    """A tqdm bar to be updated by hand; see `track`."""
    from tqdm import tqdm

    interactive = sys.stderr.isatty()
    return tqdm(
        items,
        desc=description,
        unit=f" {unit}",
        total=total,
        initial=initial,
        mininterval=0.1 if interactive else 10,
        maxinterval=10 if interactive else 60,
        dynamic_ncols=interactive,
        file=sys.stderr,
        disable=not speaks(),
        unit_scale=total is not None and total > 100_000,
    )
