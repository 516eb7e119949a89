"""Measure what the README claims: ``make bench``, or ``python benchmarks/run.py NAME ...``.

Every figure is a ratio or difference to a named peer or limit that is measured in the same run.
The table is printed and kept as ``results/benchmarks.parquet``.
"""

import argparse
import importlib
import statistics
import sys
import tempfile
from pathlib import Path

import pandas as pd

NAMES = [
    "features",
    "cached_run",
    "help",
    "overhead",
    "uot",
    "class_means",
    "clusters",
    "objectives",
    "objective_memory",
    "data_path",
]
# Those at the scale of ImageNet, of which a share can be measured.
SIZED = ["class_means", "clusters"]
COLUMNS = ["benchmark", "case", "measured", "unit", "peer", "peer_value", "compared", "limit", "kept", "runs"]


def main() -> None:
    """Run the named benchmarks and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], default=NAMES)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks.parquet"))
    parser.add_argument(
        "--share",
        type=_share,
        default=0.5,
        help=f"of the full size of {' and '.join(SIZED)} (default 0.5; with 1 minutes more)",
    )
    parser.add_argument(
        "--rounds", type=_count, help="of objectives and data_path (default 5; objectives on a GPU 20)"
    )
    parser.add_argument(
        "--only", action="append", metavar="OBJECTIVE", help="of objectives, may be repeated; coin is one"
    )
    arguments = parser.parse_args()
    options = {name: [arguments.share] for name in SIZED} | {
        "objectives": [arguments.rounds, arguments.only],
        "data_path": [arguments.rounds],
    }
    sys.path.insert(0, str(Path(__file__).parent))
    rows = []
    for name in arguments.names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            module = importlib.import_module(f"measure_{name}")
            rows.extend(module.measure(Path(folder), *options.get(name, [])))
    table = pd.DataFrame(rows, columns=COLUMNS)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(arguments.output, index=False)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    print(f"kept as {arguments.output}")


def _share(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected 0.01 to 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected 1 or more")
    return value


def median(values: list[float]) -> float:
    """The middle one: these machines are shared, and single runs mislead."""
    return statistics.median(values)


if __name__ == "__main__":
    main()
