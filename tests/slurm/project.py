"""Fresh copies of this project, and Snakemake in them."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .processes import prepare

REPOSITORY = Path(__file__).parents[2]
PARTS = ("Snakefile", "config", "envs", "profiles", "slurm", "src", "workflow", "data/quickdraw.parquet")
NO_SLURM = {"SLURM_CONF": "/dev/null"}
# The executor asks for the states of jobs at intervals that grow from ten seconds to three minutes.
IMPATIENT = """
import asyncio
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

RemoteExecutor.sleep = lambda self: asyncio.sleep(1)
main()
"""


def copy_project(folder: Path, config: Path) -> Path:
    """What a clone holds, as far as a run needs it, with another ``config.yaml``."""
    for part in PARTS:
        source, copy = REPOSITORY / part, folder / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copyfile(source, copy)
    shutil.copyfile(config, folder / "config.yaml")
    return folder


class Snakemake:
    """A running ``snakemake``, as one would type it in a folder.

    Args:
        folder: Where it runs; its output goes to a file there.
        arguments: What follows ``snakemake``.
        environment: Added to that of the tests.
        patient: False to ask for the states of jobs every second.
        aside: Whether it only takes cores that nothing else wants.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str],
        patient: bool = True,
        aside: bool = False,
    ):
        self.folder = folder
        self._output = folder / f"output{len(list(folder.glob('output*.txt')))}.txt"
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        inherited |= environment
        inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]])
        command = ["snakemake"] if patient else [sys.executable, "-c", IMPATIENT]
        command = ["nice", *command] if aside else command
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [*command, *arguments],
                cwd=folder,
                env=inherited,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,
            )

    def __enter__(self) -> "Snakemake":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing running, even if the test failed."""
        if self._process.poll() is None:
            self.interrupt()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 600) -> Any:
        """What `condition` gives as soon as that is something, while Snakemake runs."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert self._process.poll() is None, f"snakemake ended before {what}:\n{self.output()}"
            assert time.monotonic() < deadline, f"no {what} in {seconds} s:\n{self.output()}"
            time.sleep(0.05)
        return found

    def interrupt(self) -> None:
        """What Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def end(self, seconds: float = 900) -> int:
        """The exit status, when it comes."""
        return self._process.wait(seconds)

    def output(self) -> str:
        """All that it printed so far."""
        return self._output.read_text(encoding="utf-8")

    def planned(self) -> Counter[str]:
        """How many jobs of each rule it found to do."""
        table = re.search(r"^Job stats:\njob +count\n[- ]+\n(.*?)\ntotal ", self.output(), re.M | re.S)
        rows = (line.split() for line in table[1].splitlines()) if table else ()
        return Counter({rule: int(count) for rule, count in rows if rule != "all"})

    def finished(self) -> set[int]:
        """SLURM's numbers of the jobs that it saw end well."""
        submitted = re.findall(r"Job (\d+) has been submitted with SLURM jobid (\d+)", self.output())
        slurm = {int(job): int(number) for job, number in submitted}
        done = {int(job) for job in re.findall(r"Finished jobid: (\d+)", self.output())}
        return {slurm[job] for job in done & set(slurm)}
