"""Small projects on a few of the doodles in data/, and Snakemake in them."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import yaml

ROOT = Path(__file__).parents[2]
NO_SLURM = {"SLURM_CONF": os.devnull}
BASE = """
datasets:
  source: {format: parquet, path: source.parquet, classes: 3}
  target: {format: parquet, path: target.parquet}
backbones:
  small:
    origin: pretraining
    dataset: source
    architecture: {name: small_resnet, widths: [4]}
    preprocessing: {resize: 14, crop: 14}
    method: {name: supervised, budget: {epochs: 1}, batch_size: 16}
floors: {enabled: false}
"""

# Every Python that is started imports this: a step whose name is in the file `hold` waits for it to go.
HOLDING = """
import pathlib, sys, time
hold = pathlib.Path(__file__).with_name("hold")
if hold.exists() and hold.read_text() in sys.orig_argv:
    hold.with_name("held").touch()
    while hold.exists():
        time.sleep(0.02)
"""


def small_config(sections: str) -> dict[str, Any]:
    """A config of two small datasets and a tiny backbone, without floors; sections (YAML) are added or
    replace these."""
    return yaml.safe_load(BASE) | yaml.safe_load(sections)


def doodles(part: str, classes: int, images: int | None = None) -> pa.Table:
    """Doodles of the first classes of a part: all, or so many of each class in each split."""
    whole = parquet.read_table(ROOT / "data" / "quickdraw.parquet")
    keys = whole.select(["part", "label", "split"]).to_pandas()
    keys = keys[(keys["part"] == part) & (keys["label"] < classes)]
    if images is not None:
        keys = keys.groupby(["label", "split"], observed=True).head(images)
    return whole.take(keys.index.to_numpy())


def copy_workflow(folder: Path) -> None:
    """Copy into a folder what the workflow consists of, without config and data."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in ("src", "workflow", "envs"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    shutil.copy(ROOT / "Snakefile", folder)


def job_table(output: str) -> dict[str, str]:
    """The table that Snakemake prints of its jobs: how many of each rule, and in total."""
    return dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))


class Hold:
    """Makes a step wait at its start.

    Args:
        path: A new folder; to be on the PYTHONPATH of the processes that start the step.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = path / "hold"
        path.mkdir()
        (path / "sitecustomize.py").write_text(HOLDING)

    @contextmanager
    def __call__(self, step: str) -> Iterator[Callable[[], None]]:
        """Hold a step until the block ends; gives a function that waits for the step to be there."""
        held = self._file.with_name("held")

        def wait() -> None:
            latest = time.monotonic() + 120
            while not held.exists():
                assert time.monotonic() < latest
                time.sleep(0.02)

        self._file.write_text(step)
        try:
            yield wait
        finally:
            self._file.unlink()
            held.unlink(missing_ok=True)


class Project:
    """A folder with a config, and Snakemake as one would type it there.

    The workflow is this checkout's, without its profile: that would have every run tracked, and to start
    MLflow takes seconds.

    Args:
        folder: Where it runs.
        config: Written to ``config.yaml`` at once; after a change, `write_config` does it again.
    """

    WORKFLOW: tuple[str, ...] = (
        *("--configfile", "config.yaml"),
        *("--snakefile", str(ROOT / "Snakefile"), "--workflow-profile", "none"),
    )

    def __init__(self, folder: Path, config: dict[str, Any]):
        self.folder = folder
        self.config = config
        self.environment = os.environ | NO_SLURM
        self.write_config()

    def write_config(self) -> None:
        """Write the config as it is now."""
        text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
        (self.folder / "config.yaml").write_text(text, encoding="utf-8")

    def write(self, path: str, table: pa.Table) -> None:
        """Write a Parquet file of the project."""
        parquet.write_table(table, self.folder / path)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start snakemake; all that it prints is its standard output."""
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--show-failed-logs"]
        return subprocess.Popen(
            [*command, *self.WORKFLOW, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run snakemake to its end, whatever that is."""
        with self.start(*arguments) as process:
            output, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def run(self, *arguments: str) -> str:
        """Run snakemake, which has to succeed; what it printed."""
        done = self.snakemake(*arguments)
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout
