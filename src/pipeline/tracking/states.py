"""How the folders of a results folder stand: what is on disk, and what the events say."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, canonical_json, digest_of_file, read_provenance
from pipeline.tracking.events import Invocation, Job, last_jobs
from pipeline.tracking.reading import (
    LINES,
    METRICS,
    TABLE,
    TIMINGS,
    Folder,
    Point,
    digest_of_content,
    find_folders,
    flattened,
    read_choice,
    read_history,
    read_metrics,
    training_seconds,
)


@dataclass(frozen=True)
class State:
    """How one folder stands, at the cost of a few small reads.

    Attributes:
        folder: Which one.
        path: Where it is.
        job: The last job that trained in it; None where no events tell of one.
        outcome: ``submitted``, ``running``, ``finished``, ``failed`` or ``interrupted``.
        content: Digest of what there is to log; empty while a job may still write.
    """

    folder: Folder
    path: Path
    job: Job | None
    outcome: str
    content: str

    @property
    def active(self) -> bool:
        """Whether a job is at work, so that more may come."""
        return self.outcome in ("submitted", "running")

    @property
    def with_metrics(self) -> bool:
        """Whether ``metrics.parquet`` is there and newer than the training."""
        metrics = self.path / METRICS
        if self.active or not metrics.exists():
            return False
        return self.job is None or metrics.stat().st_mtime > self.job.started

    def tags(self) -> dict[str, str]:
        """What the run is, why it ran and how it ended."""
        tags = {"kind": self.folder.kind, **self.folder.names, "outcome": self.outcome}
        if self.job is not None:
            tags |= {"rule": self.job.rule, "reason": self.job.reason}
            tags |= {"slurm_job": self.job.slurm} if self.job.slurm else {}
            tags |= {"mlflow.source.git.commit": self.job.commit} if self.job.commit else {}
        return tags

    def times(self) -> tuple[int, int]:
        """Start and end in milliseconds since 1970; the end of a running job is now."""
        if self.job is not None:
            return _milliseconds(self.job.started), _milliseconds(self.job.ended or time.time())
        tables = [*self.path.glob("history.*"), *self.path.glob(self.folder.table)]
        written = [path.stat().st_mtime for path in tables]
        end = max(written, default=time.time())
        return _milliseconds(end - sum(training_seconds(self.path).values())), _milliseconds(end)


class Input(NamedTuple):
    """Something that a run was made from."""

    name: str
    digest: str


@dataclass(frozen=True)
class Record:
    """All that there is to log of a folder.

    Attributes:
        history: Metrics by epoch.
        final: Values of the last epoch: how long training took, and how good the result is.
        params: Run keys and settings, flat.
        inputs: What it was made from, by role.
        tags: Digests of code and provenance, and the step.
    """

    history: list[Point]
    final: list[Point]
    params: Mapping[str, str]
    inputs: Mapping[str, Input]
    tags: Mapping[str, str]

    @property
    def points(self) -> list[Point]:
        """History and final metrics, no value twice."""
        known = set(self.history)
        return [*self.history, *(point for point in self.final if point not in known)]


def read_states(results: Path, invocations: list[Invocation]) -> list[State]:
    """The state of every folder that has a history, or whose last job ended without one."""
    jobs = last_jobs(invocations)
    folders = find_folders(results)
    folders |= {key: job.folder for key, job in jobs.items() if job.outcome != "finished"}
    return [read_state(results, folders[key], jobs.get(key)) for key in sorted(folders)]


def read_state(results: Path, folder: Folder, job: Job | None) -> State:
    """The state of one folder."""
    path = results / folder.key
    state = State(folder, path, job, _outcome(path, folder, job), "")
    if state.active:
        return state
    finished = (path / folder.table).exists()
    files = [path / (folder.table if finished else LINES)]
    files += [path / TIMINGS] if finished else []
    files += [path / METRICS] if state.with_metrics else []
    settings = canonical_json(job.settings) if job is not None and not finished else ""
    return State(folder, path, job, state.outcome, digest_of_content(files, settings))


def read_record(state: State) -> Record:
    """Read what there is to log.

    Raises:
        PipelineError: If a table is damaged.
    """
    provenance = _provenance(state)
    settings = provenance.settings if provenance else state.job.settings if state.job else {}
    code = provenance.code if provenance else state.job.code if state.job else ""
    tags = {"code": code.rpartition("=")[2]} if code else {}
    if provenance is not None:
        tags |= {"provenance": provenance.digest(), "mlflow.source.name": provenance.step}
    history = read_history(state.path)
    last = max((point.epoch for point in history), default=0)
    final = _times(state, provenance, last) if provenance else []
    final += read_metrics(state.path, last) if state.with_metrics else []
    return Record(
        history=history,
        final=final,
        # Settings may repeat the run's keys, as `run`.
        params={
            **state.folder.names,
            **flattened({k: v for k, v in settings.items() if k != "run"}),
            **read_choice(state.path),
        },
        inputs=_inputs(state.folder, provenance) if provenance else {},
        tags=tags,
    )


def _provenance(state: State) -> Provenance | None:
    table = state.path / state.folder.table
    try:
        return read_provenance(table) if table.exists() else None
    except OSError as error:
        raise PipelineError(f"{table}: cannot be read ({error})") from error


def _inputs(folder: Folder, provenance: Provenance) -> dict[str, Input]:
    """The inputs of a step, called as the config calls them where that is known."""
    names = {
        "manifest": folder.names.get("target") or provenance.settings.get("dataset"),
        "weights": folder.names.get("backbone"),
        "selection": folder.names.get("selection"),
    }
    return {role: Input(names.get(role) or role, digest) for role, digest in provenance.inputs.items()}


def _times(state: State, provenance: Provenance, epoch: int) -> list[Point]:
    """Seconds of training by stage and in all, from the backbone on: of a run with its first stage."""
    seconds = training_seconds(state.path)
    if state.folder.kind == "fine-tuning":
        names = state.folder.names
        pattern = f"initialisations/{names['backbone']}/{names['target']}/*/seed{names['seed']}/{TABLE}"
        for history in state.path.parents[len(names)].glob(pattern):
            if digest_of_file(history) == provenance.inputs.get("weights"):
                seconds = {**training_seconds(history.parent), **seconds}
    total = {"total": sum(seconds.values())} if seconds else {}
    return [Point(f"seconds/{name}", epoch, value) for name, value in {**seconds, **total}.items()]


def _outcome(path: Path, folder: Folder, job: Job | None) -> str:
    """The job's outcome, unless the files say that they were made later than its end."""
    table, lines = path / folder.table, path / LINES
    if job is None:
        return "finished" if table.exists() else "interrupted"
    if job.outcome == "running":
        started = lines.exists() and lines.stat().st_mtime > job.started
        return "submitted" if job.slurm and not started and not table.exists() else "running"
    if table.exists() and job.ended is not None and table.stat().st_mtime > job.ended + 1:
        return "finished"
    return job.outcome


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
