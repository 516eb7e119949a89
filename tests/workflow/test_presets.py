"""Every preset resolves in a dry run without data, and the estimate of it agrees with Snakemake.

`JOBS` and the table in docs/methods.md are what this says, from the root:
``for file in config/presets/*.yaml; do echo "$file"; python -m pipeline.estimate "$file"; done``
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.config.resolve import Resolver
from pipeline.estimate import estimate
from pipeline.estimate.dry_run import jobs_by_rule
from pipeline.estimate.images import count_images
from pipeline.estimate.jobs import gpu_jobs

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "config" / "presets"
# All jobs of a fresh run.
JOBS = {
    "cifar10_contrast": 283,
    "cifar10_methods": 141,
    "cifar10_rates": 100,
    "coin_figure2": 26,
    "coin_figure4": 33,
    "coin_table1": 1357,
    "coin_table2": 519,
    "coin_table3": 57,
    "coin_table4": 93,
    "coin_table5": 89,
    "coin_table6": 172,
    "core_figure1": 16,
    "core_figure3": 82,
    "core_supplement": 88,
    "core_table1": 1085,
    "core_table2": 652,
    "core_table3": 524,
    "core_table4": 524,
    "core_table5": 188,
    "core_table6": 76,
    "moco": 167,
    "quickdraw_long_tail": 252,
    "quickdraw_recall": 24,
    "quickdraw_reuse": 1052,
    "quickdraw_tenths": 149,
    "uot_figure3a": 513,
    "uot_figure3b": 373,
    "uot_figure4b": 356,
    "uot_protocol": 251,
    "uot_recall": 110,
    "uot_table1a": 585,
    "uot_table1b": 690,
    "uot_table2": 338,
    "uot_table3": 181,
    "uot_table4": 26,
    "uot_table4_accuracy": 225,
}
RULES = {
    "pretrain": "pre-training",
    "extract_features": "feature extraction",
    "initialise": "initialisation",
    "trial": "trials of searches",
    "finetune": "fine-tuning",
    "floor_features": "features for floors",
    "interpolate": "weight interpolation",
    "domain_gap": "domain gap",
}


@pytest.fixture
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is one with nothing in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", os.devnull)
    return tmp_path


@pytest.fixture(scope="module")
def planned() -> Iterator[dict[str, Future[dict[str, int]]]]:
    """Jobs of every preset by rule: dry runs, two at a time."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("SLURM_CONF", os.devnull)
        yield {name: pool.submit(jobs_by_rule, PRESETS / f"{name}.yaml") for name in sorted(JOBS)}
        pool.shutdown(cancel_futures=True)


def test_every_preset_is_here() -> None:
    assert sorted(path.stem for path in PRESETS.glob("*.yaml")) == sorted(JOBS)


def test_the_documented_jobs_are_these() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    table = page.split("| preset | what | jobs |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:]]
    assert {preset.strip("`"): int(jobs) for _, preset, _, jobs, *_ in rows} == JOBS


@pytest.mark.parametrize("section", ["datasets", "backbones", "recipes"])
def test_core_tuning_and_coin_mean_one_thing_by_a_name(section: str) -> None:
    """So what several of their presets ask for is trained once."""
    meant: dict[str, set[str]] = {}
    for path in sorted(PRESETS.glob("co[ir][ne]_*.yaml")):
        for name, entry in getattr(load_config(path), section).items():
            meant.setdefault(name, set()).add(entry.model_dump_json())
    assert {name for name, meanings in meant.items() if len(meanings) > 1} == set()
    assert len(meant) > 1


@pytest.mark.parametrize("preset", sorted(JOBS))
def test_presets_resolve_without_data(
    preset: str,
    planned: dict[str, Future[dict[str, int]]],
    no_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = PRESETS / f"{preset}.yaml"
    rules = planned[preset].result()
    assert sum(rules.values()) == JOBS[preset]
    config = load_config(path)
    jobs = gpu_jobs(
        Resolver(config), lambda name: count_images(name, config.datasets[name], no_data / "results")
    )
    wanted = {kind: rules[rule] for rule, kind in RULES.items() if rule in rules}
    assert Counter(job.kind for job in jobs) == wanted
    # The estimate asks for the same dry run, which takes seconds.
    monkeypatch.setattr(estimate, "jobs_by_rule", lambda _: rules)
    lines = estimate.estimate(path, 23.0, no_data / "results").splitlines()
    assert f"{JOBS[preset]:,} jobs in all" in "\n".join(lines)
    total = next(line.split() for line in lines if line.startswith("total"))
    assert total[1] == f"{len(jobs):,}"
    if preset.startswith(("coin_", "core_", "uot_")) and jobs:
        assert float(total[3].replace(",", "")) > 0
        assert total[4:] == ["estimated"]


def test_the_command_says_jobs_and_hours(no_data: Path) -> None:
    path = str(PRESETS / "uot_table3.yaml")
    command = [sys.executable, "-m", "pipeline.estimate", path, "--gpu-tflops", "10"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["GPU", "jobs", "jobs", "images", "GPU", "hours", "basis"]
    assert any(line.startswith("fine-tuning") and line.endswith("estimated") for line in lines)
    assert f"{JOBS['uot_table3']} jobs in all" in done.stdout
    assert "at 10 tera-FLOP/s reached" in done.stdout
    assert not list(no_data.iterdir())
