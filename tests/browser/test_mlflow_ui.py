"""The MLflow UI as a user meets it: the table of runs and the page that compares them."""

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.provenance import Provenance
from pipeline.tables import write_table
from pipeline.tracking.store import Store
from pipeline.tracking.sync import sync
from pipeline.tracking.workflow import Target, workflow_id

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=30000",
    "--window-size=1700,900",
]
DEMO = Path(__file__).parents[2] / "results"
RUNS = [
    (recipe, selection, seed)
    for recipe, selection in (("plain", "none"), ("reuse", "uot"))
    for seed in range(2)
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def write_run(results: Path, recipe: str, selection: str, seed: int) -> None:
    """The files of a finished run, with curves that look like curves."""
    folder = results / "runs/small/animals" / selection / recipe / f"seed{seed}"
    best = {"plain": 0.45, "reuse": 0.52}[recipe] + seed / 100
    rows = [
        {
            "stage": "fine-tuning",
            "epoch": epoch,
            "step": epoch * 10,
            "split": split,
            "metric": metric,
            "value": value,
        }
        for epoch in range(1, 31)
        for split, gap in (("train", 0.1), ("validation", 0.0))
        for metric, value in (
            ("loss", 2.5 * math.exp(-epoch / 12) + 0.3 - gap),
            ("top1", best * (1 - math.exp(-epoch / 8)) + gap),
        )
    ]
    settings = {"optimiser": {"name": "sgd", "learning_rate": 0.05}, "reuse": {"name": recipe}, "seed": seed}
    inputs = {"manifest": "a1b2c3d4e5f60718", "weights": "0718a1b2c3d4e5f6"}
    record = Provenance("pipeline.finetuning", settings, "pipeline.finetuning=0123456789abcdef", inputs, {})
    write_table(
        "history", folder / "history.parquet", {name: [r[name] for r in rows] for name in rows[0]}, record
    )
    keys = {"backbone": "small", "target": "animals", "selection": selection, "recipe": recipe, "seed": seed}
    metrics = [{**keys, "split": split, "metric": "top1", "value": best} for split in ("validation", "test")]
    write_table(
        "metrics",
        folder / "metrics.parquet",
        {name: [row[name] for row in metrics] for name in metrics[0]},
        Provenance("pipeline.evaluation", {}, "pipeline.evaluation=0123456789abcdef", {}, {}),
    )


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept."""
    folder = Path(os.environ.get("GRAFTUNE_TEST_ARTIFACTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module", params=["made_up", "demo"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with its tracking store: four made-up runs, or what `make demo` left."""
    if request.param == "demo":
        if not (DEMO / "report.html").exists():
            pytest.skip("needs the results of `make demo`")
        return DEMO
    folder = tmp_path_factory.mktemp("made_up") / "results"
    for run in RUNS:
        write_run(folder, *run)
    sync(folder, Target(f"sqlite:///{folder}/mlflow.db", "graftune"))
    return folder


def run_names(results: Path) -> list[str]:
    """How the UI should name each run of a results folder."""
    names = []
    for metrics in sorted(results.glob("runs/*/*/*/*/*/metrics.parquet")):
        backbone, target, selection, recipe, seed = metrics.parent.parts[-5:]
        parts = [recipe, *([] if selection == "none" else [selection]), seed.replace("seed", "seed ")]
        names.append(" · ".join([*parts, target, backbone]))
    return names


@pytest.fixture(scope="module")
def address(results: Path) -> Iterator[str]:
    """Where the UI, opened by our own command, says that it is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "pipeline.tracking",
        "ui",
        "--port",
        str(port),
        "--results",
        str(results),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().removeprefix("Open ").strip()
        wait_for(port)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("the UI did not start")


def visit(address: str, profile: Path, screenshot: Path) -> str:
    """The page as it stands when its scripts have run; a picture of it is kept."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={profile}",
        f"--screenshot={screenshot}",
        "--dump-dom",
        address,
    ]
    page = subprocess.run(command, capture_output=True, timeout=120, check=True, text=True).stdout
    assert screenshot.stat().st_size > 20_000
    return page


def test_the_table_shows_what_tells_runs_apart(
    address: str, results: Path, artifacts: Path, tmp_path: Path
) -> None:
    page = visit(
        address,
        tmp_path / "profile",
        artifacts / f"mlflow_runs_{'demo' if results == DEMO else 'made_up'}.png",
    )
    names = run_names(results)
    # The table holds only the rows that fit on the screen.
    assert sum(name in page for name in names) >= min(len(names), 15)
    for column in ("test/top1", "recipe", "selection"):
        assert column in page
    assert re.search(r"\b0\.\d{2,}\b", page)


def test_runs_can_be_compared(address: str, results: Path, artifacts: Path, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{results}/mlflow.db", "graftune")
    runs = [run for run in store.runs(workflow_id(results)) if run.tags.get("kind") == "fine-tuning"]
    runs = sorted(runs, key=lambda run: run.tags["graftune.key"])[-4:]
    identifiers = json.dumps([run.run_id for run in runs], separators=(",", ":"))
    query = f"runs={identifiers}&experiments=[%22{store.experiment}%22]"
    page = visit(
        f"{address.partition('#')[0]}#/compare-runs?{query}".replace('"', "%22"),
        tmp_path / "profile",
        artifacts / f"mlflow_compare_{'demo' if results == DEMO else 'made_up'}.png",
    )
    assert "Comparing 4 Runs from 1 Experiment" in page
    for text in ("optimiser.learning_rate", "test/top1"):
        assert text in page
    assert sum(name in page for name in run_names(results)) == 4
