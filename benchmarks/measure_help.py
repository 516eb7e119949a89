"""``--help`` of every command, against the limit of half a second."""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUNS = 5
SOURCES = Path(__file__).parent.parent / "src" / "pipeline"


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row per command, beside the bare interpreter."""
    commands = sorted(f"pipeline.{main.parent.name}" for main in SOURCES.glob("*/__main__.py"))
    bare = statistics.median(_seconds(["-c", ""]) for _ in range(RUNS))
    return [_row(command, bare) for command in commands]


def _row(command: str, bare: float) -> dict[str, Any]:
    seconds = statistics.median(_seconds(["-m", command, "--help"]) for _ in range(RUNS))
    return {
        "benchmark": "--help",
        "case": command,
        "measured": seconds,
        "unit": "s",
        "peer": "python -c ''",
        "peer_value": bare,
        "compared": seconds - bare,
        "limit": "at most 0.5 s",
        "kept": seconds <= 0.5,
        "runs": RUNS,
    }


def _seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started
