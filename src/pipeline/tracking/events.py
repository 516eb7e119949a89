"""What Snakemake told the logger plugin: which jobs ran, why, and how they ended."""

import itertools
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from pipeline.tracking.locks import is_locked
from pipeline.tracking.reading import Folder, folder_of, read_lines

SIGNALS = 2.0  # seconds in which Ctrl-C may reach a job before Snakemake says that it was stopped


@dataclass(frozen=True)
class Job:
    """The job that trains in a folder with a history.

    Attributes:
        folder: Where it writes.
        rule: Its rule.
        reason: Why Snakemake ran it.
        outcome: ``running``, ``finished``, ``failed`` or ``interrupted``.
        started, changed: Seconds since 1970: its start, and the last news of its folder.
        ended: The same for its end; None while it is running.
        slurm: Its SLURM job id; empty elsewhere.
        commit: The git commit of the workflow; empty where there is none.
        settings, code: What its command line says.
    """

    folder: Folder
    rule: str
    reason: str
    outcome: str
    started: float
    changed: float
    ended: float | None = None
    slurm: str = ""
    commit: str = ""
    code: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Invocation:
    """One call of Snakemake that ran jobs."""

    started: float
    alive: bool
    outcome: str
    jobs: Mapping[str, Job]


def read_invocations(tracking: Path) -> list[Invocation]:
    """Every call of Snakemake that left events, oldest first."""
    found = []
    for path in tracking.glob("*.jsonl"):
        alive = is_locked(path)
        status = path.stat()
        found.append(_invocation(path, alive, status.st_size, status.st_mtime))
    return sorted(found, key=lambda invocation: invocation.started)


def last_jobs(invocations: list[Invocation]) -> dict[str, Job]:
    """The last job of every folder that one trained in, by key."""
    return {key: job for invocation in invocations for key, job in invocation.jobs.items()}


@lru_cache(maxsize=1024)
def _invocation(path: Path, alive: bool, size: int, modified: float) -> Invocation:
    """Parse a file of events; `size` and `modified` say when to do it again."""
    tally = _Tally(started=modified)
    for event in read_lines(path):
        tally.add(event)
    if not alive:
        tally.close(modified)
    outcome = "running" if alive else tally.outcome()
    return Invocation(tally.started, alive, outcome, {job.folder.key: job for job in tally.jobs.values()})


@dataclass
class _Tally:
    """What the events of one call of Snakemake add up to.

    Attributes:
        started: When it started.
        commit: The git commit of the workflow.
        stopped: When the user stopped it.
        ended: Whether its last word is there.
        jobs: Training jobs by number.
        folders: Key of the folder that a job writes into, training or not.
        pending: Jobs that have not ended.
        failed: Jobs that failed and were not tried again, with the time.
    """

    started: float
    commit: str = ""
    stopped: float = math.inf
    ended: bool = False
    jobs: dict[int, Job] = field(default_factory=dict)
    folders: dict[int, str] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)
    failed: dict[int, float] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> None:
        """Count one event."""
        number, time = event.get("job", 0), event["time"]
        match event["event"]:
            case "workflow_started":
                self.started, self.commit = time, event["commit"] or ""
            case "workflow_stopped":
                self.stopped = time
            case "workflow_ended":
                self.ended = True
            case "job_started":
                self._start(event)
            case "job_submitted" if number in self.jobs:
                self._change(number, slurm=event["slurm"], changed=time)
            case "job_finished":
                self._end(number, "finished", time)
            case "job_failed":
                self._end(number, "failed", time)
                self.failed[number] = time

    def close(self, time: float) -> None:
        """Tell jobs that were cut short from jobs that failed by themselves."""
        self.pending |= {number for number, failed in self.failed.items() if failed > self.stopped - SIGNALS}
        for number in self.pending & self.jobs.keys():
            self._change(number, outcome="interrupted", ended=time, changed=time)

    def outcome(self) -> str:
        """How the whole ended."""
        if self.failed.keys() - self.pending:
            return "failed"
        return "finished" if self.ended and not self.pending else "interrupted"

    def _start(self, event: Mapping[str, Any]) -> None:
        number, time = event["job"], event["time"]
        self.pending.add(number)
        self.failed.pop(number, None)
        for output in map(PurePath, event["outputs"]):
            folder = _folder(output)
            if folder is None:
                continue
            self.folders[number] = folder.key
            if output.name == folder.table:
                settings, code = _command(event["command"] or "")
                self.jobs[number] = Job(
                    folder,
                    event["rule"],
                    event["reason"],
                    outcome="running",
                    started=time,
                    changed=time,
                    commit=self.commit,
                    code=code,
                    settings=settings,
                )

    def _end(self, number: int, outcome: str, time: float) -> None:
        """Note the end of a training job, or news in the folder of one that ended before."""
        self.pending.discard(number)
        if number in self.jobs:
            self._change(number, outcome=outcome, ended=time, changed=time)
            return
        for other, job in self.jobs.items():
            if job.folder.key == self.folders.get(number):
                self._change(other, changed=time)

    def _change(self, number: int, **changes: Any) -> None:
        self.jobs[number] = replace(self.jobs[number], **changes)


def _folder(output: PurePath) -> Folder | None:
    """The folder below ``results/`` that an output lies in."""
    return folder_of(PurePath(*output.parts[1:])) if output.parts[:1] == ("results",) else None


@lru_cache(maxsize=8192)
def _command(command: str) -> tuple[dict[str, Any], str]:
    """The settings and the code digest on a step's command line."""
    try:
        words = shlex.split(command)
    except ValueError:
        return {}, ""
    options = dict(itertools.pairwise(words))
    try:
        settings = json.loads(options.get("--settings", "{}"))
    except ValueError:
        settings = {}
    return settings, options.get("--code", "")
