"""What the workflow itself costs per light job, against the same commands in a shell loop."""

import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from workspace import snakemake

RUNS = 3
JOBS = 200
SNAKEFILE = """
rule all:
    input:
        expand("results/{{number}}.txt", number=range({jobs})),

rule light:
    output:
        "results/{{number}}.txt",
    params:
        settings='{{{{"number": 1}}}}',
    log:
        "results/logs/{{number}}.log",
    benchmark:
        "results/benchmarks/{{number}}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 100 * attempt,
    message:
        "Light job {{wildcards.number}}"
    shell:
        "echo {{params.settings:q}} > {{output}} 2> {{log}}"
"""


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row without and a row with tracking; seconds per job."""
    return [_row(folder, tracked) for tracked in (False, True)]


def _row(folder: Path, tracked: bool) -> dict[str, Any]:
    logger = ["--logger", "graftune"] if tracked else []
    times = [_per_job(folder / f"{tracked}-{run}", logger) for run in range(RUNS)]
    loop = statistics.median(_loop(folder / f"{tracked}-loop-{run}") for run in range(RUNS))
    return {
        "benchmark": "overhead per light job",
        "case": "with tracking" if tracked else "without tracking",
        "measured": statistics.median(times),
        "unit": "s/job",
        "peer": "the same commands in a shell loop",
        "peer_value": loop,
        "compared": statistics.median(times) - loop,
        "limit": "none set",
        "kept": True,
        "runs": RUNS,
    }


def _per_job(folder: Path, logger: list[str]) -> float:
    folder.mkdir()
    seconds = []
    for jobs in (1, JOBS):
        (folder / "Snakefile").write_text(SNAKEFILE.format(jobs=jobs), encoding="utf-8")
        seconds.append(snakemake(folder, "--cores", "2", "--quiet", "all", *logger)[0])
    return (seconds[1] - seconds[0]) / (JOBS - 1)


def _loop(folder: Path) -> float:
    folder.mkdir()
    script = f"for n in $(seq {JOBS}); do bash -c 'echo 1' > $n.txt 2> $n.log; done"
    started = time.perf_counter()
    subprocess.run(["bash", "-c", script], cwd=folder, check=True)
    return (time.perf_counter() - started) / JOBS
