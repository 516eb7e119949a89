"""Snakemake logger plugin: hands the events of a workflow to the follower in `pipeline.tracking`.

It runs inside Snakemake. So it imports nothing heavy, never raises, and holds nobody up: events are
appended to a file, and a detached process reads them. That process starts with the first job, so
dry runs, runs with nothing to do and maintenance calls leave no trace.
"""

import fcntl
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
from logging import LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

TRACKING = Path("results/tracking")
WAIT = 20.0  # seconds that a finished Snakemake waits for the follower at most
STALL = 3.0  # seconds that it waits without any progress

# What only messages tell: that the user stopped Snakemake, and the SLURM ids of jobs.
STOPPED = "Terminating processes on user request"
SLURM_JOB = re.compile(r"Job (\d+) has been submitted with SLURM jobid (\S+)")
SLURM_ARRAY = re.compile(
    r"Submitted array job with Snakemake IDs ([\d,]+) and SLURM job ID (\S+)\. "
    r"The individual task IDs are (\d+)-"
)


class LogHandler(LogHandlerBase):
    """Appends events to ``results/tracking/<workflow id>.jsonl`` and starts the follower."""

    def __post_init__(self) -> None:
        self._off = self.common_settings.dryrun
        self._workflow: dict[str, Any] = {}
        self._events: Any = None
        self._follower: subprocess.Popen[bytes] | None = None
        self._tracking = TRACKING

    @property
    def writes_to_stream(self) -> bool:
        return False

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True  # none: events come even where Snakemake is told to be quiet

    @property
    def has_formatter(self) -> bool:
        return True

    @property
    def needs_rulegraph(self) -> bool:
        return False

    def emit(self, record: LogRecord) -> None:
        """Keep what the follower needs to know; a failure turns tracking off with one warning."""
        if self._off:
            return
        try:
            self._handle(record)
        except Exception as error:
            self._off = True
            _warn(f"is off for this run ({error})")

    def close(self) -> None:
        """Write the end, and give the follower a moment to log it."""
        if self._follower is not None:
            try:
                self._write("workflow_ended")
                self._events.close()
                self._wait(self._follower)
            except Exception as error:
                _warn(f"is incomplete ({error})")
            self._events = self._follower = None
        super().close()

    def _handle(self, record: LogRecord) -> None:
        found = record.__dict__
        match found.get("event"):
            case LogEvent.WORKFLOW_STARTED:
                self._workflow = found
            case LogEvent.JOB_INFO:
                if self._events is None:
                    self._start()
                self._write("job_started", **_job(found))
            case LogEvent.JOB_FINISHED:
                self._write("job_finished", job=found["job_id"])
            case LogEvent.JOB_ERROR:
                self._write("job_failed", job=found["jobid"])
            case None:
                self._read_message(record.getMessage())

    def _read_message(self, message: str) -> None:
        if message.startswith(STOPPED):
            self._write("workflow_stopped")
        for job, slurm in slurm_jobs(message):
            self._write("job_submitted", job=job, slurm=slurm)

    def _start(self) -> None:
        """Open the event file and start the follower.

        The lock on the event file says that this Snakemake lives; it goes when the process does,
        however that ends.
        """
        self._tracking = TRACKING.resolve()
        self._tracking.mkdir(parents=True, exist_ok=True)
        path = self._tracking / f"{self._workflow['workflow_id']}.jsonl"
        self._events = path.open("a", encoding="utf-8")
        fcntl.flock(self._events, fcntl.LOCK_EX)
        self._write(
            "workflow_started",
            host=platform.node(),
            process=os.getpid(),
            command=self._workflow["cmd"],
            snakemake=self._workflow["snakemake_version"],
            commit=_commit(self._workflow["basedir"]),
        )
        self._follower = _start_follower(self._tracking / "follower.log")

    def _write(self, event: str, **fields: Any) -> None:
        if self._events is not None:
            line = {"event": event, "time": time.time(), **fields}
            self._events.write(json.dumps(line, default=str) + "\n")
            self._events.flush()

    def _wait(self, follower: "subprocess.Popen[bytes]") -> None:
        """Wait while the follower gets on; each thing that it logs touches its lock file."""
        beat, seen = self._tracking / "lock", 0
        begun = moved = time.monotonic()
        while follower.poll() is None:
            now = time.monotonic()
            if now - begun > WAIT or now - moved > STALL:
                _warn(f"goes on in the background, see {TRACKING}/follower.log", logging.INFO)
                return
            if beat.exists() and (touched := beat.stat().st_mtime_ns) != seen:
                seen, moved = touched, now
            time.sleep(0.05)
        if follower.returncode != 0:
            _warn(
                f"stopped early, see {TRACKING}/follower.log; `python -m pipeline.tracking sync` catches up"
            )


def _start_follower(log: Path) -> "subprocess.Popen[bytes]":
    """Start the follower as a process of its own, which Ctrl-C and a closed terminal do not reach."""
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.tracking", "follow"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def slurm_jobs(message: str) -> list[tuple[int, str]]:
    """Pairs of Snakemake's and SLURM's job ids in a message of the SLURM executor.

    >>> slurm_jobs("Job 3 has been submitted with SLURM jobid 17 (log: 17.log).")
    [(3, '17')]
    """
    if found := SLURM_JOB.match(message):
        return [(int(found[1]), found[2])]
    if found := SLURM_ARRAY.match(message):
        jobs = [int(job) for job in found[1].split(",")]
        return [(job, f"{found[2]}_{task}") for task, job in enumerate(jobs, int(found[3]))]
    return []


def _job(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "job": found["jobid"],
        "rule": found["rule_name"],
        "wildcards": dict(found["wildcards"]),
        "reason": found["reason"],
        "outputs": list(found["output"]),
        "log": list(found["log"]),
        "threads": found["threads"],
        "resources": {name: value for name, value in found["resources"].items() if not name.startswith("_")},
        "command": found["shellcmd"],
    }


def _commit(folder: str) -> str | None:
    """The git commit of the workflow, where it is in a repository."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _warn(message: str, level: int = logging.WARNING) -> None:
    logging.getLogger("snakemake.logging").log(level, f"Tracking {message}.")
