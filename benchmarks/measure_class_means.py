"""Class means of ImageNet's size against reading their file, in bounded memory."""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from pipeline.provenance import Provenance
from pipeline.tables import read_table, table_writer
from pipeline.units.summarise import by_class

RUNS = 3
IMAGES, CLASSES, WIDTH = 1_281_167, 1_000, 512
ROWS = 65_536
SPEED, MEGABYTES = 0.5, 2_000
COLUMNS = ["sample_id", "label", "split", "feature"]
NOBODY = Provenance("benchmark", {}, "none", {}, {})


def measure(folder: Path, share: float) -> list[dict[str, Any]]:
    """Time and memory of class means of this share of ImageNet's images, in a process of its own."""
    images = round(share * IMAGES)
    features = folder / "features.parquet"
    _write(features, images)
    found = [_measured(features) for _ in range(RUNS)]
    features.unlink()
    reading, seconds = (statistics.median(one[name] for one in found) for name in ("reading", "seconds"))
    speed = statistics.median(one["reading"] / one["seconds"] for one in found)
    megabytes = max(one["megabytes"] for one in found)
    size = 4 * images * WIDTH / 1e6
    row = {"case": f"{images:,} x {WIDTH}, generated, {CLASSES} classes in any order", "runs": RUNS}
    return [
        {
            **row,
            "benchmark": "class means, speed",
            "measured": seconds,
            "unit": "s",
            "peer": "reading the same columns with pyarrow, by row groups",
            "peer_value": reading,
            "compared": speed,
            "limit": f"at least {SPEED} of the speed",
            "kept": speed >= SPEED,
        },
        {
            **row,
            "benchmark": "class means, memory",
            "measured": megabytes,
            "unit": "MB",
            "peer": "the features",
            "peer_value": size,
            "compared": megabytes / size,
            "limit": f"at most {MEGABYTES} MB, all of the process",
            "kept": megabytes <= MEGABYTES,
        },
    ]


def _write(path: Path, images: int) -> None:
    random = np.random.default_rng(0)
    with table_writer("features", path, NOBODY) as write:
        for first in range(0, images, ROWS):
            count = min(ROWS, images - first)
            columns = {
                "sample_id": [f"image {number:07}" for number in range(first, first + count)],
                "split": ["train"] * count,
                "label": (np.arange(first, first + count) * 7919 % CLASSES).astype(np.int32),
                "feature": random.standard_normal((count, WIDTH), dtype=np.float32),
            }
            write(columns)


def _measured(features: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, features], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure(features: Path) -> dict[str, float]:
    """Seconds to read, seconds to read and average, and the most memory this process ever had."""
    started = time.perf_counter()
    file = parquet.ParquetFile(features)
    for group in range(file.num_row_groups):
        file.read_row_group(group, columns=COLUMNS)
    reading = time.perf_counter() - started
    started = time.perf_counter()
    rows = read_table("features", features, ["sample_id", "label"], filters=[("split", "=", "train")])
    by_class(features, rows, [f"class {number}" for number in range(CLASSES)])
    seconds = time.perf_counter() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"reading": reading, "seconds": seconds, "megabytes": megabytes}


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]))))
