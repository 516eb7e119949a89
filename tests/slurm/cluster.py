"""A real SLURM on this machine: one node, two GPUs that are none, no systemd, cgroups or database."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import prepare

DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
# Clients look for munge here and nowhere else.
MUNGE = Path("/run/munge/munge.socket.2")

SLURM_CONF = """\
ClusterName=graftune
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
AuthType=auth/munge
CryptoType=crypto/munge
MailProg=/bin/true
# No cgroups, no systemd; eight cores and 64 GB whatever the machine has
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
# What is scheduled: cores, memory and GPUs, at once
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SchedulerParameters=sched_interval=1,bf_interval=2
GresTypes=gpu
# A job above its memory is killed, as cgroups do it on a cluster
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
KillWait=5
# Records: of ended jobs in a file, of all jobs in the controller
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/ended.txt
MinJobAge=3600
TaskProlog={folder}/task_begins
TaskEpilog={folder}/task_ends
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:fake:2 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""
# Each GPU needs a file of its own that exists.
GRES_CONF = "AutoDetect=off\nName=gpu Type=fake File=/dev/null,/dev/zero\n"
# Snakemake's executor takes SLURM_CONF away from the srun inside a job; elsewhere that is /etc's.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""
# Run by SLURM inside each step of a job, with the environment of its processes.
TASK_NOTE = """\
#!/bin/sh
echo "{event} $SLURM_JOB_ID $SLURM_STEP_ID $(date +%s.%N) ${{CUDA_VISIBLE_DEVICES-}}" >> {folder}/tasks.txt
"""


@dataclass(frozen=True)
class Job:
    """What SLURM recorded of a job.

    Attributes:
        number: SLURM's id.
        rule: Of Snakemake, from the comment that its executor gives a job.
        wildcards: Their values joined by underscores, from the same.
        state: Such as COMPLETED; of an ended job what the file of ended jobs says.
        partition: Where it was sent.
        gpus: How many it asked for.
        cpus: How many it got.
        memory_mb: What it asked for.
        minutes: Its time limit.
        begin: When its first process began, in seconds since 1970; 0 if none did.
        end: When its last process ended.
        seen_gpus: CUDA_VISIBLE_DEVICES in its processes, without repetition.
    """

    number: int
    rule: str
    wildcards: str
    state: str
    partition: str
    gpus: int
    cpus: int
    memory_mb: int
    minutes: int
    begin: float
    end: float
    seen_gpus: tuple[str, ...]


class Cluster:
    """Start with `start`, and `stop` whatever happens.

    Attributes:
        folder: Configuration, logs and records of this SLURM.
        environment: What commands need in order to talk to it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]),
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def obstacle() -> str | None:
        """Why no SLURM can run here; None where one can."""
        missing = [name for name in DAEMONS if shutil.which(name, path=PATH) is None]
        if missing:
            return f"no {', '.join(missing)}: install slurm-wlm and munge"
        if os.geteuid() != 0:
            return "only root can start a SLURM that runs jobs"
        return None

    def start(self) -> None:
        """Start munge, the controller and the node, and wait until the node is idle."""
        self._configure()
        if not _answers(MUNGE):
            self._start_munge()
        self._daemon("slurmctld", "-D", "-f", self.folder / "slurm.conf")
        self._daemon("slurmd", "-D", "-f", self.folder / "slurm.conf")
        self.wait(lambda: "idle" in self._ask("sinfo", "--noheader", "--format=%t"))

    def stop(self) -> None:
        """End all jobs and wait for them, then the daemons, the last first."""
        if jobs := self.active():
            self._ask("scancel", *(str(job) for job in jobs))
            with suppress(TimeoutError):
                self.wait(lambda: not self.active(), 20)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        """Wait for a condition; TimeoutError with the daemons' output if it does not come."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                outputs = self.folder.glob("*.out")
                raise TimeoutError("\n".join(f"{o.name}:\n{o.read_text()}" for o in outputs))
            time.sleep(0.1)

    def cancel(self, job: int) -> None:
        """`scancel` one job."""
        self._ask("scancel", str(job))

    def active(self) -> list[int]:
        """Jobs that wait, run or are being cleaned up."""
        return [int(job) for job in self._ask("squeue", "--noheader", "--format=%i").split()]

    def jobs(self, since: int = 0) -> list[Job]:
        """All jobs with a number above `since`, in order."""
        shown = self._ask("scontrol", "show", "job", "--oneliner").splitlines()
        ended, tasks = self._ended(), self._tasks()
        found = [dict(FIELD.findall(line)) for line in shown]
        jobs = [_job(fields, ended, tasks) for fields in found if int(fields.get("JobId", 0)) > since]
        return sorted(jobs, key=lambda job: job.number)

    def _configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir()
        values = {
            "folder": self.folder,
            "host": socket.gethostname().split(".")[0],
            "controller_port": _free_port(),
            "node_port": _free_port(),
            "srun": shutil.which("srun"),
        }
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(**values), encoding="utf-8")
        (self.folder / "gres.conf").write_text(GRES_CONF, encoding="utf-8")
        scripts = {
            "bin/srun": SRUN.format(**values),
            "task_begins": TASK_NOTE.format(event="begin", **values),
            "task_ends": TASK_NOTE.format(event="end", **values),
        }
        for name, text in scripts.items():
            (self.folder / name).write_text(text, encoding="utf-8")
            (self.folder / name).chmod(0o755)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        MUNGE.parent.mkdir(mode=0o755, exist_ok=True)
        files = {name: self.folder / f"munged.{name}" for name in ("log", "pid", "seed")}
        options = [f"--{name}-file={path}" for name, path in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", *options)
        self.wait(lambda: _answers(MUNGE))

    def _daemon(self, name: str, *arguments: str | Path) -> None:
        program = shutil.which(name, path=PATH)
        assert program
        with (self.folder / f"{name}.out").open("wb") as output:
            self._daemons.append(
                subprocess.Popen(
                    [program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ | self.environment,
                    start_new_session=True,  # Ctrl-C in pytest leaves the order of the end to `stop`
                    preexec_fn=prepare,
                )
            )

    def _ask(self, *command: str) -> str:
        """What a command of SLURM prints; nothing while the controller is away."""
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout

    def _ended(self) -> dict[int, str]:
        """State of each ended job, from the file that SLURM appends to."""
        path = self.folder / "ended.txt"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        records = [dict(FIELD.findall(line)) for line in lines]
        return {int(record["JobId"]): record["JobState"] for record in records}

    def _tasks(self) -> list[list[str]]:
        """Event, job, step, time and GPUs of each note that a task left."""
        path = self.folder / "tasks.txt"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line.split(" ", 4) for line in lines]


FIELD = re.compile(r"(?:^| )(\w+(?:/\w+)?)=(\S*)")
UNITS = {"K": 1 / 1024, "M": 1, "G": 1024}


def _job(found: dict[str, str], ended: dict[int, str], tasks: list[list[str]]) -> Job:
    number = int(found["JobId"])
    rule, _, wildcards = found.get("Comment", "").removeprefix("rule_").partition("_wildcards_")
    resources = dict(part.split("=") for part in found["TRES"].split(",")) if "TRES" in found else {}
    memory = resources.get("mem", found.get("MinMemoryNode", "0M"))
    mine = [task for task in tasks if int(task[1]) == number]
    return Job(
        number,
        rule,
        wildcards,
        ended.get(number, found["JobState"]),
        found["Partition"],
        int(found.get("TresPerJob", "gres:gpu:0").rpartition(":")[2]),
        int(resources.get("cpu", found["NumCPUs"])),
        round(float(memory[:-1]) * UNITS[memory[-1]]),
        _minutes(found["TimeLimit"]),
        min((float(task[3]) for task in mine), default=0.0),
        max((float(task[3]) for task in mine), default=0.0),
        tuple(sorted({task[4] for task in mine if task[0] == "begin" and task[4]})),
    )


def _minutes(limit: str) -> int:
    """Minutes of a limit such as 1-00:00:00."""
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = (int(part) for part in clock.split(":"))
    return int(days or 0) * 1440 + hours * 60 + minutes


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
