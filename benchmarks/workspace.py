"""A copy of the workflow to measure in, and timed calls of Snakemake there."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ["Snakefile", "workflow", "src", "envs", "profiles", "data"]


def copy_workflow(folder: Path, config: str) -> Path:
    """Copy what Snakemake needs to `folder`, with another config."""
    for part in PARTS:
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / part)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    return folder


def snakemake(folder: Path, *arguments: str) -> tuple[float, str]:
    """Seconds and standard output of one call; a failure shows what Snakemake said."""
    environment = os.environ | {"SLURM_CONF": os.devnull}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return seconds, done.stdout
