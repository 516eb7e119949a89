"""Tracking of real workflows: a real MLflow server, one that dies, one that hangs, two at once."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.tables import read_table
from pipeline.tracking.store import KEY, Store
from pipeline.tracking.sync import sync
from pipeline.tracking.workflow import Target, lock_file, workflow_id

RUN = "runs/small/animals/none/plain/seed{}"

SNAKEFILE = """
import json, sys

FOLDER = "results/runs/small/animals/none/plain/seed{seed}"


rule all:
    input:
        expand(f"{FOLDER}/history.parquet", seed=range(config["seeds"])),


rule finetune:
    output:
        f"{FOLDER}/history.parquet",
    params:
        settings=json.dumps({"optimiser": {"learning_rate": config["rate"]}}),
    shell:
        "{sys.executable} train.py {output} --settings {params.settings:q}"
"""

# Trains for four epochs, and on while there is a file "hold". Each value is the time at which it is
# written, so that a reader can tell how old its news is.
TRAIN = r"""
import json, sys, time
from pathlib import Path

table, settings = Path(sys.argv[1]), json.loads(sys.argv[3])
lines, rows = table.with_suffix(".jsonl"), []
lines.unlink(missing_ok=True)
while len(rows) < 4 or Path("hold").exists():
    epoch = len(rows) + 1
    row = dict(stage="fine-tuning", epoch=epoch, step=epoch, split="train", metric="written")
    rows.append(row | dict(value=time.time()))
    with lines.open("a") as file:
        file.write(json.dumps(rows[-1]) + "\n")
    time.sleep(0.2)

from pipeline.provenance import Provenance
from pipeline.tables import write_table

record = Provenance("pipeline.finetuning", settings, "x=1", {"manifest": "a" * 16}, {})
write_table("history", table, {name: [row[name] for row in rows] for name in rows[0]}, record)
lines.unlink()
"""


@dataclass
class Workflow:
    """A tiny workflow in a folder of its own."""

    folder: Path
    uri: str
    config: dict[str, Any] = field(default_factory=lambda: {"seeds": 1, "rate": 0.1})

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "Snakefile").write_text(SNAKEFILE, encoding="utf-8")
        (self.folder / "train.py").write_text(TRAIN, encoding="utf-8")
        self.results = self.folder / "results"
        self.hold = self.folder / "hold"

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start snakemake and its jobs as a process group of their own."""
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock", "--logger", "graftune"]
        config = [f"{name}={value}" for name, value in self.config.items()]
        environment = {
            **os.environ,
            "SLURM_CONF": "/dev/null",
            "GRAFTUNE_TRACKING_URI": self.uri,
            "GRAFTUNE_TRACKING_EXPERIMENT": "graftune",
        }
        return subprocess.Popen(
            [*command, *arguments, "--config", *config],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> str:
        """Run snakemake to its end; what it printed."""
        return finished(self.start(*arguments))

    def sync(self, uri: str | None = None) -> tuple[int, int, int]:
        """How many runs a sync logged, left as they were, and removed."""
        return sync(self.results, Target(uri or self.uri, "graftune"))

    def logged(self, uri: str | None = None) -> dict[str, Any]:
        """MLflow's runs of this workflow, by key."""
        store = Store(uri or self.uri, "graftune")
        found = [store.client.get_run(run.run_id) for run in store.runs(workflow_id(self.results))]
        by_key = {run.data.tags[KEY]: run for run in found}
        assert len(by_key) == len(found), "twins"
        return by_key

    def is_complete(self, run: Any, uri: str | None = None) -> bool:
        """Whether MLflow has every epoch of a run's table, and nothing else."""
        table = read_table("history", self.results / run.data.tags[KEY] / "history.parquet")
        client = Store(uri or self.uri, "graftune").client
        metrics = client.get_metric_history(run.info.run_id, "train/written")
        return [(m.step, m.value) for m in metrics] == list(
            zip(table["epoch"].to_pylist(), table["value"].to_pylist(), strict=True)
        )

    def run_in_mlflow(self) -> Any:
        """MLflow's run of seed 0; None before it is there."""
        known = (self.results / "tracking/workflow.json").exists()
        return self.logged().get(RUN.format(0)) if known else None

    def wait_for_the_end(self) -> None:
        """Until the follower has logged all."""
        wait_until(lambda: (parent := self.logged().get(".")) and parent.info.status == "FINISHED")

    def kill_follower(self) -> None:
        """Kill the follower at work as hard as can be."""
        os.kill(int(lock_file(self.results).read_text()), signal.SIGKILL)


def finished(process: "subprocess.Popen[str]") -> str:
    """Wait for a snakemake to succeed; what it printed."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """A real server, killed at the end as hard as can be."""
    import requests

    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def healthy() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}/health", timeout=1).ok
        except requests.RequestException:
            return False

    try:
        wait_until(healthy)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def hanging_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/mlflow.db"


def test_live_metrics_survive_the_death_of_the_server(tmp_path: Path) -> None:
    port = free_port()
    workflow = Workflow(tmp_path / "work", f"http://127.0.0.1:{port}", {"seeds": 2, "rate": 0.1})

    def written() -> list[float]:
        """When each value that MLflow shows was written, the first one first."""
        run = workflow.run_in_mlflow()
        client = Store(workflow.uri, "graftune").client
        return [m.value for m in client.get_metric_history(run.info.run_id, "train/written")] if run else []

    workflow.hold.touch()
    with mlflow_server(tmp_path, port):
        snakemake = workflow.start()
        # The first value waits for the follower's own start, which imports MLflow; no later one does.
        assert time.time() - wait_until(written)[0] < 25
        assert time.time() - written()[-1] < 10
        assert snakemake.poll() is None
    with mlflow_server(tmp_path, port):
        workflow.hold.unlink()
        finished(snakemake)
        workflow.wait_for_the_end()
        runs = workflow.logged()
        assert set(runs) == {".", RUN.format(0), RUN.format(1)}
        for seed in range(2):
            run = runs[RUN.format(seed)]
            assert run.info.status == "FINISHED"
            assert workflow.is_complete(run)
        assert workflow.sync() == (0, 2, 0)


def test_a_hanging_server_delays_nothing_and_loses_nothing(tmp_path: Path, sqlite: str) -> None:
    with hanging_server() as uri:
        workflow = Workflow(tmp_path, uri)
        snakemake = workflow.start()
        assert snakemake.stdout is not None
        last_job = [time.monotonic() for line in snakemake.stdout if "(100%) done" in line][-1]
        snakemake.wait(timeout=30)
        assert time.monotonic() - last_job < 6  # 3 without progress, and Snakemake's own goodbye
        workflow.kill_follower()
    assert workflow.sync(sqlite) == (1, 0, 0)
    assert workflow.sync(sqlite) == (0, 1, 0)
    assert workflow.is_complete(workflow.logged(sqlite)[RUN.format(0)], sqlite)


def test_two_workflows_make_and_share_one_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/shared/mlflow.db"
    workflows = [Workflow(tmp_path / name, uri) for name in "ab"]
    for snakemake in [workflow.start() for workflow in workflows]:
        finished(snakemake)
    for workflow in workflows:
        workflow.wait_for_the_end()
        runs = workflow.logged()
        assert set(runs) == {".", RUN.format(0)}
        assert workflow.is_complete(runs[RUN.format(0)])
        assert runs[RUN.format(0)].data.tags["mlflow.parentRunId"] == runs["."].info.run_id


def test_sync_mends_what_a_killed_follower_left(tmp_path: Path, sqlite: str) -> None:
    workflow = Workflow(tmp_path, sqlite)
    workflow.hold.touch()

    # Snakemake and its job are killed: the follower sees that, and ends by itself.
    snakemake = workflow.start()
    wait_until(workflow.run_in_mlflow)
    os.killpg(snakemake.pid, signal.SIGKILL)
    wait_until(lambda: workflow.run_in_mlflow().info.status == "KILLED")
    first = workflow.run_in_mlflow()
    assert first.data.tags["outcome"] == "interrupted"

    # The next run replaces it; then the follower is killed.
    workflow.config["rate"] = 0.2
    snakemake = workflow.start("--rerun-incomplete")

    def replaced() -> bool:
        run = workflow.run_in_mlflow()  # none while the old one goes and the new one is not there yet
        return run is not None and run.info.run_id != first.info.run_id

    wait_until(replaced)
    assert workflow.run_in_mlflow().data.params["optimiser.learning_rate"] == "0.2"
    workflow.kill_follower()
    workflow.hold.unlink()
    assert "Tracking stopped early" in finished(snakemake)
    assert workflow.run_in_mlflow().info.status == "RUNNING"
    assert workflow.sync() == (1, 0, 0)
    assert workflow.sync() == (0, 1, 0)
    run = workflow.run_in_mlflow()
    assert run.info.status == "FINISHED"
    assert workflow.is_complete(run)


def test_only_jobs_that_run_are_tracked(tmp_path: Path, sqlite: str) -> None:
    workflow = Workflow(tmp_path, sqlite)
    workflow.run("--dry-run")
    assert not workflow.results.exists()
    finish_by_hand(workflow)
    workflow.run("--rerun-triggers", "mtime")
    assert not (workflow.results / "tracking").exists()


def finish_by_hand(workflow: Workflow) -> None:
    """Run the workflow's job without Snakemake, so that nothing is left to do."""
    table = workflow.results / RUN.format(0) / "history.parquet"
    table.parent.mkdir(parents=True)
    command = [sys.executable, "train.py", str(table), "--settings", "{}"]
    subprocess.run(command, cwd=workflow.folder, check=True)


def test_the_plugin_imports_nothing_heavy() -> None:
    code = "import snakemake_logger_plugin_graftune, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"mlflow", "pandas", "torch", "pydantic", "numpy", "pyarrow", "pipeline"} & set(loaded)
