"""Log a workflow while it runs. The logger plugin starts this with the first job."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.progress import log
from pipeline.tracking.events import Invocation, Job, read_invocations
from pipeline.tracking.locks import writer_lock
from pipeline.tracking.reading import LINES
from pipeline.tracking.states import read_state
from pipeline.tracking.store import Store, StoreAwayError, StoreRefusedError
from pipeline.tracking.sync import Mirror, synchronise
from pipeline.tracking.workflow import Target, lock_file, remember_target, tracking_folder

POLL = 0.5  # seconds between looks at the disk
PAUSE = 10.0  # seconds between tries of a server that is away, at most
PATIENCE = 600.0  # seconds after the end of the workflow in which it is still tried
ATTEMPTS = 3  # how often a run is tried that MLflow refuses


def follow(results: Path, target: Target) -> None:
    """Log until every workflow in `results` has ended and all is logged.

    A server that is away is tried again and again; the histories on disk are the truth, so what it
    missed is logged when it is back. Ten minutes after the last workflow's end this gives up.
    """
    with writer_lock(lock_file(results)):
        log.info("follows %s for %s", results, target.uri)
        remember_target(results, target)
        follower = Follower(results, target)
        follower.beat()
        pause, deadline = POLL, time.monotonic() + PATIENCE
        while True:
            try:
                if follower.step():
                    return
                pause = POLL
            except StoreAwayError as error:
                if pause == POLL:
                    log.info("MLflow is away, tries again until it is back: %s", error)
                pause = min(2 * pause, PAUSE)
            if follower.waits():
                deadline = time.monotonic() + PATIENCE
            elif time.monotonic() > deadline:
                log.info("gives up; `python -m pipeline.tracking sync` catches up")
                return
            time.sleep(pause)


@dataclass
class Follower:
    """The state of `follow`.

    Attributes:
        mirror: Opened as soon as MLflow answers.
        stale: Whether a call failed since MLflow was last listed.
        published: What was last logged of a folder: its job, and its history's size and time.
        refused: How often a folder could not be logged.
    """

    results: Path
    target: Target
    mirror: Mirror | None = None
    stale: bool = False
    published: dict[str, tuple[Job, tuple[int, int]]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    def step(self) -> bool:
        """Log what is new; tells whether every workflow has ended and all is logged.

        Raises:
            StoreAwayError: If MLflow cannot be reached; the next step goes on from there.
        """
        try:
            invocations = self._alive()
            mirror = self._mirror()
            if not invocations:
                self._conclude(mirror)
                return True
            for invocation in invocations:
                self._publish(mirror, invocation)
            return False
        except StoreAwayError:
            self.stale = True
            raise

    def waits(self) -> bool:
        """Whether a workflow is running."""
        return bool(self._alive())

    def beat(self) -> None:
        """Show the plugin, which waits at the end, that there is progress."""
        lock_file(self.results).touch()

    def _alive(self) -> list[Invocation]:
        invocations = read_invocations(tracking_folder(self.results))
        return [invocation for invocation in invocations if invocation.alive]

    def _mirror(self) -> Mirror:
        if self.mirror is None:
            self.mirror = Mirror(Store(*self.target, self.beat), self.results)
            self.mirror.publish_workflow("running")
            log.info("logs to %s", self.mirror.store.uri)
        elif self.stale:
            try:
                self.mirror.load()
            except StoreRefusedError as error:  # back, but with nothing that it knew
                self.mirror = None
                raise StoreAwayError(str(error)) from error
        self.stale = False
        return self.mirror

    def _publish(self, mirror: Mirror, invocation: Invocation) -> None:
        """Log the folders whose job or history has news."""
        for key, job in invocation.jobs.items():
            look = job, _size_and_time(self.results / key / LINES)
            if self.published.get(key) == look or self.refused[key] >= ATTEMPTS:
                continue
            try:
                mirror.publish(read_state(self.results, job.folder, job))
                self.published[key] = look
            except StoreAwayError:
                raise
            except PipelineError as error:
                self.refused[key] += 1
                self.stale = True
                log.error("%s: %s", key, error)

    def _conclude(self, mirror: Mirror) -> None:
        """The last look: all that is on disk, whichever workflow made it."""
        mirror.load()
        try:
            summary = synchronise(mirror, remove=False)
            log.info("all is logged: %d runs now, %d before", summary.logged, summary.unchanged)
        except StoreAwayError:
            raise
        except PipelineError as error:
            log.error("%s", error)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
