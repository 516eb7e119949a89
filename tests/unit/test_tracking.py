"""Tracking without Snakemake and without a server."""

import fcntl
import importlib.util
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

import snakemake_logger_plugin_graftune as plugin
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, digest_of_file
from pipeline.tables import write_table
from pipeline.tracking import sync as sync_module
from pipeline.tracking.events import last_jobs, read_invocations
from pipeline.tracking.figures import curves
from pipeline.tracking.locks import is_locked, writer_lock
from pipeline.tracking.reading import Point, find_folders, flattened, folder_of, read_history, read_lines
from pipeline.tracking.states import read_record, read_state, read_states
from pipeline.tracking.store import CONTENT, KEY, WORKFLOW, Store, StoreAwayError, StoreRefusedError
from pipeline.tracking.sync import PARENT, Mirror, sync
from pipeline.tracking.view import VIEW_TAG
from pipeline.tracking.workflow import Target, lock_file, tracking_folder, tracking_target, workflow_id

RUN = "runs/small/animals/none/plain/seed0"
SETTINGS = {"optimiser": {"name": "sgd", "learning_rate": 0.05}, "epochs": 3}


def history(epochs: int, offset: float = 0.0, stage: str = "fine-tuning") -> list[dict[str, Any]]:
    """Rows as a training job appends them."""
    return [
        {"stage": stage, "epoch": epoch, "step": 10 * epoch, "split": split, "metric": "loss", "value": value}
        for epoch in range(1, epochs + 1)
        for split, value in (("train", 1 / epoch + offset), ("validation", 2 / epoch + offset))
    ]


def append(folder: Path, rows: list[dict[str, Any]]) -> None:
    """What a running job does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def finish(
    folder: Path, rows: list[dict[str, Any]], settings: dict[str, Any] | None = None, weights: str = "b" * 16
) -> None:
    """What a finished job leaves."""
    record = Provenance(
        "pipeline.finetuning",
        SETTINGS if settings is None else settings,
        "pipeline.finetuning=0123456789abcdef",
        {"manifest": "a" * 16, "weights": weights, "membership": "c" * 16},
        {},
    )
    write_table(
        "history", folder / "history.parquet", {name: [r[name] for r in rows] for name in rows[0]}, record
    )
    (folder / "history.jsonl").unlink(missing_ok=True)


def spend(folder: Path, seconds: dict[str, float]) -> None:
    """The timings of two epochs of each stage that took so long."""
    rows = [(stage, epoch, 10, each, "cpu") for stage, each in seconds.items() for epoch in (1, 2)]
    names = ("stage", "epoch", "images", "seconds", "device")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    write_table("timings", folder / "timings.parquet", columns, Provenance("test", {}, "x=1", {}, {}))


def evaluate(folder: Path, value: float) -> None:
    """What the evaluation of a run leaves."""
    *_, backbone, target, selection, recipe, seed = folder.parts
    keys = {"backbone": backbone, "target": target, "selection": selection, "recipe": recipe}
    columns = {**{name: [text] for name, text in keys.items()}, "seed": [int(seed.removeprefix("seed"))]}
    columns |= {"split": ["test"], "metric": ["top1"], "value": [value]}
    write_table(
        "metrics", folder / "metrics.parquet", columns, Provenance("pipeline.evaluation", {}, "x=1", {}, {})
    )


# Reading what is on disk


def test_a_half_written_line_is_not_yet_a_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert read_lines(path) == []
    path.write_bytes(b'{"epoch": 1}\n\x00\x00garbage\n{"epoch": 2}\n{"epo')
    assert read_lines(path) == [{"epoch": 1}, {"epoch": 2}]
    assert read_history(tmp_path) == []


def test_lines_and_table_give_the_same_points(tmp_path: Path) -> None:
    rows = [*history(3), {**history(4)[-1], "value": math.nan}]
    append(tmp_path, rows)
    running = read_history(tmp_path)
    finish(tmp_path, rows)
    assert read_history(tmp_path) == running
    assert running[0] == Point("train/loss", 1, 1.0)


def test_later_stages_carry_their_name(tmp_path: Path) -> None:
    append(tmp_path, [*history(1), *history(1, stage="cool-down")])
    names = [point.name for point in read_history(tmp_path)]
    assert names == ["train/loss", "validation/loss", "cool-down/train/loss", "cool-down/validation/loss"]


def test_final_metrics_follow_the_history(tmp_path: Path) -> None:
    finish(tmp_path / RUN, history(3))
    evaluate(tmp_path / RUN, 0.5)
    (state,) = read_states(tmp_path, [])
    points = read_record(state).points
    assert len(points) == 7
    assert points[-1] == Point("test/top1", 3, 0.5)


def test_seconds_of_training_are_logged_with_those_of_the_first_stage(tmp_path: Path) -> None:
    first = tmp_path / "initialisations/small/animals/coin-1a2b3c4d/seed0"
    other = tmp_path / "initialisations/small/animals/noisy-1a2b3c4d/seed0"
    for folder, stage, seconds in ((first, "coin", 2.5), (other, "noisy", 9.0)):
        finish(folder, history(1, stage=stage), {"stage": stage})
        spend(folder, {stage: seconds})
    finish(tmp_path / RUN, history(3), weights=digest_of_file(first / "history.parquet"))
    spend(tmp_path / RUN, {"fine-tuning": 1.0})
    points = {state.folder.key: read_record(state).final for state in read_states(tmp_path, [])}
    assert points[RUN] == [
        Point("seconds/coin", 3, 5.0),
        Point("seconds/fine-tuning", 3, 2.0),
        Point("seconds/total", 3, 7.0),
    ]
    assert points["initialisations/small/animals/noisy-1a2b3c4d/seed0"] == [
        Point("seconds/noisy", 1, 18.0),
        Point("seconds/total", 1, 18.0),
    ]


def test_a_floor_is_a_run_with_what_it_chose(tmp_path: Path) -> None:
    key = "floors/small/animals/interpolation-plain/seed1"
    record = Provenance("pipeline.floors.interpolation", {"interpolation": [0.5]}, "x=1", {}, {})
    choices = {
        "setting": ["interpolation"] * 2,
        **{"value": [0.25, 0.5], "split": ["test"] * 2, "metric": ["top1"] * 2},
        **{"score": [0.1, 0.2], "chosen": [False, True]},
    }
    write_table("choices", tmp_path / key / "choices.parquet", choices, record)
    evaluate(tmp_path / "floors/small/animals/none/plain/seed1", 0.25)
    (tmp_path / "floors/small/animals/none/plain/seed1/metrics.parquet").rename(
        tmp_path / key / "metrics.parquet"
    )
    (state,) = read_states(tmp_path, [])
    assert (state.folder.key, state.outcome) == (key, "finished")
    assert state.folder.title == "floor: interpolation of plain · seed 1 · animals · small"
    assert {
        "kind": "floor",
        "recipe": "floor: interpolation of plain",
        "seed": "1",
    }.items() <= state.tags().items()
    found = read_record(state)
    assert found.points == [Point("test/top1", 0, 0.25)]
    assert found.params["chosen.interpolation"] == "0.5"


def test_settings_become_dotted_keys() -> None:
    nested = {"a": {"b": {"c": 1e-4}, "d": {}}, "e": [1, "x"], "f": None, "g": True, "h": "text"}
    assert flattened(nested) == {"a.b.c": "0.0001", "e": '[1, "x"]', "f": "null", "g": "true", "h": "text"}


@pytest.mark.parametrize(
    ("path", "key", "title"),
    [
        (f"{RUN}/metrics.parquet", RUN, "plain · seed 0 · animals · small"),
        (RUN.replace("none", "uot"), RUN.replace("none", "uot"), "plain · uot · seed 0 · animals · small"),
        ("backbones/small/weights.safetensors", "backbones/small", "pre-training · small"),
        (
            "initialisations/small/animals/coin/seed2/history.parquet",
            "initialisations/small/animals/coin/seed2",
            "initialisation · coin · seed 2 · animals · small",
        ),
    ],
)
def test_a_path_tells_what_a_folder_is(path: str, key: str, title: str) -> None:
    folder = folder_of(Path(path))
    assert folder is not None
    assert (folder.key, folder.title) == (key, title)


@pytest.mark.parametrize(
    "path", ["report.html", "features/small/quickdraw/features.parquet", "runs/small", ""]
)
def test_other_paths_have_no_history(path: str) -> None:
    assert folder_of(Path(path)) is None


def test_only_folders_with_a_history_are_found(tmp_path: Path) -> None:
    append(tmp_path / RUN, history(1))
    finish(tmp_path / "backbones/small", history(1))
    (tmp_path / "backbones/fetched").mkdir()
    assert list(find_folders(tmp_path)) == ["backbones/small", RUN]


def test_curves_need_more_than_one_epoch() -> None:
    assert curves([Point("train/loss", 1, 1.0)]) is None
    figure = curves([Point("train/loss", 1, 1.0), Point("train/loss", 2, 0.5), Point("train/top1", 2, 0.4)])
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == ["loss", "top1"]


# Events


class Snakemake:
    """Hands the plugin the records that Snakemake would."""

    def __init__(self, dryrun: bool = False):
        self.handler = plugin.LogHandler(SimpleNamespace(dryrun=dryrun), None)  # type: ignore[arg-type]
        self.send(
            event=LogEvent.WORKFLOW_STARTED,
            workflow_id=f"{time.time_ns()}",
            cmd="snakemake --cores 1",
            snakemake_version="9",
            basedir=".",
        )

    def send(self, message: str = "", **fields: Any) -> None:
        self.handler.emit(logging.makeLogRecord({"msg": message, "levelno": logging.INFO, **fields}))

    def start(self, number: int, folder: str = RUN, name: str = "history.parquet") -> None:
        self.send(
            event=LogEvent.JOB_INFO,
            jobid=number,
            rule_name="finetuning",
            wildcards={"seed": "0"},
            reason="Missing output files",
            output=[f"results/{folder}/{name}"],
            log=[],
            threads=1,
            resources={"_cores": 1, "mem_mb": 500},
            shellcmd=f"python -m step x.npy --settings '{json.dumps(SETTINGS)}' --code a=c0de 2> x.log",
        )

    def finish(self, number: int) -> None:
        self.send(event=LogEvent.JOB_FINISHED, job_id=number)

    def fail(self, number: int) -> None:
        self.send(event=LogEvent.JOB_ERROR, jobid=number)


@dataclass
class Follower:
    """A follower that has ended, or never does."""

    returncode: int | None = 0

    def poll(self) -> int | None:
        return self.returncode


@pytest.fixture
def followers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Follower]:
    """An empty working directory; the followers that were started in it."""
    started: list[Follower] = []

    def start(log: Path) -> Follower:
        started.append(Follower())
        return started[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin, "_start_follower", start)
    return started


def test_a_dry_run_leaves_nothing(followers: list[Follower]) -> None:
    snakemake = Snakemake(dryrun=True)
    snakemake.start(1)
    snakemake.handler.close()
    assert not Path("results").exists()


def test_a_run_with_nothing_to_do_leaves_nothing(followers: list[Follower]) -> None:
    Snakemake().handler.close()
    assert not followers
    assert not Path("results").exists()


def test_events_tell_how_a_job_goes(followers: list[Follower]) -> None:
    snakemake = Snakemake()
    snakemake.start(7)
    snakemake.send("Job 7 has been submitted with SLURM jobid 4711 (log: 4711.log).")
    (invocation,) = read_invocations(Path("results/tracking"))
    job = invocation.jobs[RUN]
    assert (invocation.outcome, job.outcome, job.slurm) == ("running", "running", "4711")
    assert (job.settings, job.code, job.reason) == (SETTINGS, "a=c0de", "Missing output files")
    snakemake.finish(7)
    snakemake.handler.close()
    (invocation,) = read_invocations(Path("results/tracking"))
    assert (invocation.outcome, invocation.jobs[RUN].outcome) == ("finished", "finished")
    assert len(followers) == 1


def test_a_retried_job_is_not_failed(followers: list[Follower]) -> None:
    snakemake = Snakemake()
    for end in (snakemake.fail, snakemake.finish):
        snakemake.start(1)
        end(1)
    snakemake.handler.close()
    assert read_invocations(Path("results/tracking"))[0].outcome == "finished"


def test_an_ended_snakemake_leaves_running_jobs_interrupted(followers: list[Follower]) -> None:
    snakemake = Snakemake()
    snakemake.start(1)
    snakemake.handler._events.close()  # as when the process dies: the lock goes, no last word
    (invocation,) = read_invocations(Path("results/tracking"))
    assert (invocation.outcome, invocation.jobs[RUN].outcome) == ("interrupted", "interrupted")


def test_a_stopped_snakemake_interrupts_its_jobs(followers: list[Follower]) -> None:
    snakemake = Snakemake()
    snakemake.start(1)
    snakemake.fail(1)  # Ctrl-C reaches the job as well, and may do so first
    snakemake.send("Terminating processes on user request, this might take some time.")
    snakemake.handler.close()
    (invocation,) = read_invocations(Path("results/tracking"))
    assert (invocation.outcome, invocation.jobs[RUN].outcome) == ("interrupted", "interrupted")


def test_a_failed_job_fails_the_workflow(followers: list[Follower]) -> None:
    snakemake = Snakemake()
    snakemake.start(1)
    snakemake.fail(1)
    snakemake.handler.close()
    (invocation,) = read_invocations(Path("results/tracking"))
    assert (invocation.outcome, invocation.jobs[RUN].outcome) == ("failed", "failed")


def test_an_evaluation_is_news_of_its_run(followers: list[Follower]) -> None:
    snakemake = Snakemake()
    snakemake.start(1)
    snakemake.finish(1)
    before = last_jobs(read_invocations(Path("results/tracking")))[RUN]
    snakemake.start(2, name="metrics.parquet")
    snakemake.finish(2)
    after = last_jobs(read_invocations(Path("results/tracking")))[RUN]
    assert after.changed > before.changed
    assert after.ended == before.ended


def test_array_jobs_have_ids_of_their_own() -> None:
    message = (
        "Submitted array job with Snakemake IDs 4,9 and SLURM job ID 17. The individual task IDs are 3-4."
    )
    assert plugin.slurm_jobs(message) == [(4, "17_3"), (9, "17_4")]
    assert plugin.slurm_jobs("Select jobs to execute...") == []


def test_the_slurm_executor_still_says_what_is_parsed() -> None:
    spec = importlib.util.find_spec("snakemake_executor_plugin_slurm")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    for part in (
        "Job {job.jobid} has been submitted with SLURM jobid ",
        "Submitted array job with Snakemake IDs {job_ids_str} and ",
        "SLURM job ID {slurm_jobid}. The individual task IDs are ",
    ):
        assert part in source


def test_trouble_is_one_warning(followers: list[Follower], caplog: pytest.LogCaptureFixture) -> None:
    Path("results").write_text("in the way")
    snakemake = Snakemake()
    for number in range(3):
        snakemake.start(number)
    snakemake.handler.close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "Tracking is off for this run" in record.getMessage()


def test_a_follower_that_fails_is_told(followers: list[Follower], caplog: pytest.LogCaptureFixture) -> None:
    snakemake = Snakemake()
    snakemake.start(1)
    followers[0].returncode = 1
    snakemake.handler.close()
    assert "pipeline.tracking sync` catches up" in caplog.text


def test_a_stalled_follower_holds_nobody_up(
    followers: list[Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "STALL", 0.2)
    snakemake = Snakemake()
    snakemake.start(1)
    followers[0].returncode = None
    begun = time.monotonic()
    snakemake.handler.close()  # comes back, though the follower never ends
    assert time.monotonic() - begun >= 0.2


def test_the_lock_is_for_one_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with writer_lock(path):
        assert is_locked(path)
        with pytest.raises(PipelineError, match=f"held by process {os.getpid()}"), writer_lock(path, 0.0):
            pass
    assert not is_locked(path)


# MLflow, in a SQLite file that the tests share


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    folder = tmp_path_factory.mktemp("mlflow with a space")
    return Target(f"sqlite:///{folder}/mlflow.db", "graftune")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with one finished run and one finished pre-training."""
    finish(tmp_path / RUN, history(3))
    evaluate(tmp_path / RUN, 0.5)
    finish(tmp_path / "backbones/small", history(2))
    return tmp_path


def logged(target: Target, results: Path) -> dict[str, Any]:
    """MLflow's runs of a results folder, by key."""
    store = Store(*target)
    found = [store.client.get_run(run.run_id) for run in store.runs(workflow_id(results))]
    by_key = {run.data.tags[KEY]: run for run in found}
    assert len(by_key) == len(found), "twins"
    return by_key


def test_sync_logs_all_that_is_on_disk(target: Target, results: Path) -> None:
    (results / "report.html").write_text("<h1>report</h1>")
    assert sync(results, target) == (2, 0, 0)
    runs = logged(target, results)
    run, parent = runs[RUN], runs[PARENT]
    assert run.info.run_name == "plain · seed 0 · animals · small"
    assert run.info.status == "FINISHED"
    assert run.data.metrics == pytest.approx(
        {"train/loss": 1 / 3, "validation/loss": 2 / 3, "test/top1": 0.5}
    )
    assert run.data.params["optimiser.learning_rate"] == "0.05"
    assert run.data.params["recipe"] == "plain"
    expected = {"kind": "fine-tuning", "seed": "0", "code": "0123456789abcdef", "outcome": "finished"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert runs["backbones/small"].data.tags["kind"] == "pre-training"
    client = Store(*target).client
    steps = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in steps] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["curves.png"]
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    assert Path(target.uri.removeprefix("sqlite:///")).with_name("mlartifacts").is_dir()


def test_datasets_are_inputs(target: Target, results: Path) -> None:
    sync(results, target)
    inputs = logged(target, results)[RUN].inputs.dataset_inputs
    found = {i.tags[0].value: (i.dataset.name, i.dataset.digest) for i in inputs}
    assert found == {
        "manifest": ("animals", "a" * 16),
        "weights": ("small", "b" * 16),
        "membership": ("membership", "c" * 16),
    }


def test_the_experiment_has_a_view(target: Target) -> None:
    store = Store(*target)
    view = json.loads(store.client.get_experiment(store.experiment).tags[VIEW_TAG])
    assert view["name"] == "Fine-tuning runs"
    assert "metrics.`test/top1`" in json.loads(view["state"])["selectedColumns"]


def test_twice_is_once(target: Target, results: Path) -> None:
    sync(results, target)
    before = logged(target, results)
    assert sync(results, target) == (0, 2, 0)
    after = logged(target, results)
    assert {key: run.to_dictionary() for key, run in before.items()} == {
        key: run.to_dictionary() for key, run in after.items()
    }


def test_a_rerun_replaces_its_run(target: Target, results: Path) -> None:
    sync(results, target)
    before = logged(target, results)
    finish(results / RUN, history(4), {"epochs": 4})
    assert sync(results, target) == (1, 1, 0)
    after = logged(target, results)
    assert after[RUN].info.run_id != before[RUN].info.run_id
    assert after[RUN].data.params["epochs"] == "4"
    assert after["backbones/small"].info.run_id == before["backbones/small"].info.run_id


def test_runs_without_outputs_are_removed(target: Target, results: Path) -> None:
    sync(results, target)
    (results / RUN / "history.parquet").unlink()
    assert sync(results, target) == (0, 1, 1)
    assert set(logged(target, results)) == {PARENT, "backbones/small"}


def test_two_folders_do_not_mix(
    target: Target, results: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    finish(other / RUN, history(1))
    sync(results, target)
    sync(other, target)
    assert len(logged(target, results)) == 3
    assert len(logged(target, other)) == 2


def test_a_damaged_table_does_not_stop_the_rest(target: Target, results: Path) -> None:
    (results / "backbones/small/history.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        PipelineError, match=r"1 runs could not be logged:\n  backbones/small: .*not a readable"
    ):
        sync(results, target)
    assert set(logged(target, results)) == {PARENT, RUN}


def test_a_twin_goes(target: Target, results: Path) -> None:
    sync(results, target)
    Store(*target).create("twin", {WORKFLOW: workflow_id(results), KEY: RUN}, 0)
    sync(results, target)
    assert logged(target, results)[RUN].info.run_name != "twin"


def test_sync_waits_for_the_follower_only_so_long(
    target: Target, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_module, "PATIENCE", 0.0)
    with writer_lock(lock_file(results)), pytest.raises(PipelineError, match="held by process"):
        sync(results, target)


def test_the_last_target_is_remembered(target: Target, results: Path) -> None:
    sync(results, target)
    assert tracking_target(results, None, None) == target
    assert tracking_target(results, "http://server", None) == ("http://server", "graftune")


def test_one_key_may_be_long_or_odd(target: Target, results: Path) -> None:
    finish(results / RUN, history(1), {"where": {"a=b|c": ["x" * 9000]}})
    sync(results, target)
    assert len(logged(target, results)[RUN].data.params["where.a_b_c"]) == 6000


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """A results folder in which a living Snakemake runs one job."""
    tracking = tracking_folder(tmp_path)
    tracking.mkdir()
    events = [
        {"event": "workflow_started", "time": time.time() - 9, "commit": "c0ffee"},
        {
            "event": "job_started",
            "time": time.time() - 9,
            "job": 1,
            "rule": "finetuning",
            "reason": "Forced execution",
            "outputs": [f"results/{RUN}/history.parquet"],
            "command": f"run --settings '{json.dumps(SETTINGS)}' --code x=c0de",
        },
    ]
    with (tracking / "1.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        yield tmp_path


def publish(mirror: Mirror) -> str:
    """One step of a follower; tells the id of the run."""
    for state in read_states(mirror.results, read_invocations(tracking_folder(mirror.results))):
        mirror.publish(state)
    return mirror.known[RUN].run.run_id


def test_a_running_job_is_logged_as_it_goes(target: Target, running: Path) -> None:
    mirror = Mirror(Store(*target), running)
    first = publish(mirror)
    run = logged(target, running)[RUN]
    assert (run.info.status, run.data.metrics) == ("RUNNING", {})
    assert run.data.params["epochs"] == "3"
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    append(running / RUN, history(2))
    assert publish(mirror) == first
    append(running / RUN, history(3)[4:])
    assert publish(mirror) == first
    steps = mirror.store.client.get_metric_history(first, "train/loss")
    assert [metric.step for metric in steps] == [1, 2, 3]
    assert CONTENT not in logged(target, running)[RUN].data.tags


def test_a_resumed_job_goes_on_or_starts_over(target: Target, running: Path) -> None:
    mirror = Mirror(Store(*target), running)
    append(running / RUN, history(3))
    first = publish(mirror)
    (running / RUN / "history.jsonl").unlink()
    append(running / RUN, history(2))  # cut to the checkpoint: MLflow is ahead
    assert publish(mirror) == first
    append(running / RUN, history(4)[4:])  # the same again, and more
    assert publish(mirror) == first
    assert logged(target, running)[RUN].data.metrics["train/loss"] == 0.25
    (running / RUN / "history.jsonl").unlink()
    append(running / RUN, history(3, offset=1.0))  # another history
    assert publish(mirror) != first
    steps = mirror.store.client.get_metric_history(mirror.known[RUN].run.run_id, "train/loss")
    assert [metric.value for metric in steps] == pytest.approx([2.0, 1.5, 4 / 3])


def test_a_job_that_ends_with_less_starts_over(target: Target, running: Path) -> None:
    mirror = Mirror(Store(*target), running)
    append(running / RUN, history(3))
    first = publish(mirror)
    finish(running / RUN, history(2), SETTINGS)
    with (tracking_folder(running) / "1.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": "job_finished", "time": time.time(), "job": 1}) + "\n")
    assert publish(mirror) != first
    run = logged(target, running)[RUN]
    assert (run.info.status, run.data.metrics["train/loss"]) == ("FINISHED", 0.5)


def test_a_queued_job_is_scheduled(target: Target, running: Path) -> None:
    with (tracking_folder(running) / "1.jsonl").open("a", encoding="utf-8") as file:
        file.write(
            json.dumps({"event": "job_submitted", "time": time.time(), "job": 1, "slurm": "17"}) + "\n"
        )
    (state,) = read_states(running, read_invocations(tracking_folder(running)))
    assert (state.outcome, state.tags()["slurm_job"]) == ("submitted", "17")
    mirror = Mirror(Store(*target), running)
    queued = publish(mirror)
    assert logged(target, running)[RUN].info.status == "SCHEDULED"
    append(running / RUN, history(1))
    assert publish(mirror) == queued
    assert logged(target, running)[RUN].info.status == "RUNNING"


def test_metrics_of_an_earlier_training_do_not_count(running: Path) -> None:
    job = last_jobs(read_invocations(tracking_folder(running)))[RUN]
    evaluate(running / RUN, 0.5)
    finish(running / RUN, history(3))
    os.utime(running / RUN / "metrics.parquet", (job.started - 60,) * 2)
    assert not read_state(running, job.folder, job).with_metrics
    assert read_state(running, job.folder, None).with_metrics


def test_a_run_removed_in_the_ui_comes_back(target: Target, running: Path) -> None:
    mirror = Mirror(Store(*target), running)
    first = publish(mirror)
    mirror.store.client.delete_run(first)
    append(running / RUN, history(1))
    with pytest.raises(StoreRefusedError, match="active"):
        publish(mirror)
    mirror.load()
    assert publish(mirror) != first
    assert logged(target, running)[RUN].data.metrics["train/loss"] == 1.0


def test_a_store_out_of_reach_is_away(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for uri in (f"sqlite:///{tmp_path}/file/mlflow.db", "http://127.0.0.1:9"):
        with pytest.raises(StoreAwayError, match=uri):
            Store(uri, "graftune")


def test_files_newer_than_a_failure_count(running: Path) -> None:
    job = last_jobs(read_invocations(tracking_folder(running)))[RUN]
    failed = SimpleNamespace(**{**vars(job), "outcome": "failed", "ended": time.time() - 5})
    assert read_state(running, job.folder, failed).outcome == "failed"  # type: ignore[arg-type]
    finish(running / RUN, history(3))
    assert read_state(running, job.folder, failed).outcome == "finished"  # type: ignore[arg-type]
