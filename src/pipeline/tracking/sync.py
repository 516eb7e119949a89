"""Make MLflow equal to a results folder: one run for each folder with a history."""

import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import PipelineError, listed
from pipeline.tracking.events import read_invocations
from pipeline.tracking.figures import curves
from pipeline.tracking.locks import writer_lock
from pipeline.tracking.reading import Point, digest_of_content
from pipeline.tracking.states import Record, State, read_record, read_states
from pipeline.tracking.store import CONTENT, KEY, WORKFLOW, Logged, Store, StoreAwayError
from pipeline.tracking.workflow import Target, lock_file, remember_target, tracking_folder, workflow_id

PATIENCE = 30.0  # seconds that `sync` waits for a follower to end
PARENT = "."  # key of the run that stands for the whole workflow
OVERVIEW = ("report.html", "comparison.txt", "comparison.parquet")


class Summary(NamedTuple):
    """What a sync did, in runs."""

    logged: int
    unchanged: int
    removed: int


@dataclass
class Known:
    """A run in MLflow, and how far this process has logged it.

    Attributes:
        run: The run.
        started: Start of the job whose run this process made.
        points: What that job was seen to write; None where another process made the run.
        logged: How many of the points MLflow has.
    """

    run: Logged
    started: float | None = None
    points: list[Point] | None = None
    logged: int = 0

    def continues(self, state: State, record: Record) -> bool:
        """Whether `record` is what was logged of the same job, grown, or cut by a job that resumes."""
        if self.points is None or self.started != _started(state):
            return False
        common = min(len(self.points), len(record.points))
        if common < len(self.points) and not state.active:
            return False
        same_params = self.run.params.items() <= dict(record.params).items()
        return same_params and self.points[:common] == record.points[:common]


@dataclass
class Mirror:
    """MLflow's runs of one results folder, by key.

    Publishing compares before it writes, so that doing it again changes nothing.
    """

    store: Store
    results: Path
    known: dict[str, Known] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.workflow = workflow_id(self.results)
        self.load()

    def load(self) -> None:
        """See what MLflow has, removing twins that an unanswered call may have left."""
        found: dict[str, list[Logged]] = defaultdict(list)
        for run in self.store.runs(self.workflow):
            found[run.tags.get(KEY, "")].append(run)
        known = {}
        for key, runs in found.items():
            mine = self.known.get(key)
            kept = next((run for run in runs if mine and run.run_id == mine.run.run_id), runs[-1])
            known[key] = mine if mine and mine.run.run_id == kept.run_id else Known(kept)
            for twin in runs:
                if twin is not kept:
                    self.store.delete(twin)
        self.known = known
        if PARENT not in known:
            self._create(
                PARENT,
                f"workflow · {self.results.resolve().parent.name}",
                {"kind": "workflow", "mlflow.source.name": "graftune"},
                _now(),
            )

    def publish(self, state: State) -> bool:
        """Make the run of one folder equal to it; tells whether there was anything to log.

        Raises:
            PipelineError: If its tables cannot be read, or MLflow refuses them.
            StoreAwayError: If MLflow cannot be reached.
        """
        key = state.folder.key
        known = self.known.get(key)
        if known is not None and state.content and known.run.tags.get(CONTENT) == state.content:
            self._finish(known, state)
            return False
        record = read_record(state)
        if known is not None and not known.continues(state, record):
            self.remove(key)
            known = None
        if known is None:
            known = self._create(key, state.folder.title, state.tags(), state.times()[0])
            known.started, known.points = _started(state), []
        self._log(known, state, record)
        if state.content:
            self._attach(known, record)
        self._finish(known, state)
        return True

    def remove(self, key: str) -> None:
        """Take a run from view."""
        self.store.delete(self.known[key].run)
        del self.known[key]

    def publish_workflow(self, outcome: str) -> None:
        """Show the workflow's outcome, its report and its comparison on the parent run."""
        parent = self.known[PARENT].run
        files = [path for name in OVERVIEW if (path := self.results / name).exists()]
        content = digest_of_content(files)
        if parent.tags.get(CONTENT) != content:
            for path in files:
                self.store.log_file(parent, path)
        self.store.tag(parent, {"outcome": outcome, CONTENT: content})
        self.store.set_outcome(parent, outcome, _now())

    def _create(self, key: str, title: str, tags: dict[str, str], started: int) -> Known:
        tags = {WORKFLOW: self.workflow, KEY: key, **tags}
        if key != PARENT:
            tags["mlflow.parentRunId"] = self.known[PARENT].run.run_id
        self.known[key] = Known(self.store.create(title, tags, started))
        return self.known[key]

    def _log(self, known: Known, state: State, record: Record) -> None:
        """Log what is new. A point keeps the time that it got when it was first seen, so that
        logging it again after an unanswered call does not double it."""
        assert known.points is not None
        known.points += _dated(record.points[len(known.points) :], state)
        params = {name: text for name, text in record.params.items() if name not in known.run.params}
        self.store.log(known.run, known.points[known.logged :], params)
        known.logged = len(known.points)
        known.run.params |= params
        self.store.tag(known.run, record.tags)

    def _attach(self, known: Known, record: Record) -> None:
        """Add what belongs to a run that has ended, once."""
        if CONTENT in known.run.tags:
            return
        if record.inputs:
            self.store.log_inputs(known.run, record.inputs)
        figure = curves(record.history)
        if figure is not None:
            self.store.log_figure(known.run, figure, "curves.png")

    def _finish(self, known: Known, state: State) -> None:
        parent = {"mlflow.parentRunId": self.known[PARENT].run.run_id}
        self.store.set_outcome(known.run, state.outcome, state.times()[1])
        self.store.tag(
            known.run, {**parent, **state.tags(), **({CONTENT: state.content} if state.content else {})}
        )


def sync(results: Path, target: Target) -> Summary:
    """Make MLflow equal to the results on disk; a second time changes nothing.

    Raises:
        PipelineError: If a follower is at work, MLflow cannot be reached, or some runs could not
            be logged, with each run's reason.
    """
    with writer_lock(lock_file(results), PATIENCE):
        remember_target(results, target)
        return synchronise(Mirror(Store(*target), results), remove=True)


def synchronise(mirror: Mirror, remove: bool) -> Summary:
    """One pass over everything; with `remove`, runs whose outputs are gone are taken from view."""
    invocations = read_invocations(tracking_folder(mirror.results))
    states = read_states(mirror.results, invocations)
    gone = sorted(mirror.known.keys() - {state.folder.key for state in states} - {PARENT}) if remove else []
    for key in gone:
        mirror.remove(key)
    logged, problems = 0, []
    for state in states:
        try:
            logged += mirror.publish(state)
        except StoreAwayError:
            raise
        except PipelineError as error:
            problems.append(f"{state.folder.key}: {error}")
    mirror.publish_workflow(invocations[-1].outcome if invocations else "finished")
    if problems:
        raise PipelineError(f"{len(problems)} runs could not be logged:\n{listed(problems)}")
    return Summary(logged, len(states) - logged, len(gone))


def _dated(points: list[Point], state: State) -> list[Point]:
    """The points with times: now while a job runs, else spread over the job by epoch.

    Each is a millisecond after the one before, since of two values of an epoch MLflow shows the later.
    """
    started, ended = (_now(), _now()) if state.active else state.times()
    last = max((point.epoch for point in points), default=0) or 1
    return [
        replace(point, time=started + (ended - started) * point.epoch // last + position)
        for position, point in enumerate(points)
    ]


def _started(state: State) -> float | None:
    return state.job.started if state.job else None


def _now() -> int:
    return int(time.time() * 1000)
