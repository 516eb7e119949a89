"""The jobs of a config as Snakemake itself counts them."""

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import PipelineError

SNAKEFILE = Path(__file__).resolve().parents[3] / "Snakefile"


def jobs_by_rule(config: Path) -> dict[str, int]:
    """How many jobs of each rule a fresh run has, by a dry run in an empty folder without data.

    Raises:
        PipelineError: If the dry run fails, with what it said.
    """
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules"]
    files = ["--snakefile", str(SNAKEFILE), "--configfile", str(config.resolve())]
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, *files],
            cwd=folder,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    rules = re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE)
    if done.returncode or not rules:
        raise PipelineError(f"{config}: Snakemake's dry run failed:\n{done.stdout[-2000:]}")
    return {rule: int(number) for rule, number in rules if rule != "total"}
