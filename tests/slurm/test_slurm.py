"""The pipeline through a real SLURM: what jobs ask for, faults, and the same results as without."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from .cluster import Cluster, Job
from .project import NO_SLURM, REPOSITORY, Snakemake, copy_project

pytestmark = pytest.mark.timeout(2400)  # cores are often shared

CONFIG = Path(__file__).parent / "config.yaml"
SEARCH = "results/searches/small/animals/none/plain/search.parquet"
HALVED = Path(__file__).parent / "halved.yaml"
JOINT = Path(__file__).parent / "joint.yaml"
JOINT_RUN = "runs/small/animals/none/joint/seed0"
AS_TYPED = ("--profile", "slurm")
GPU_RULES = {"pretrain", "extract_features", "initialise", "finetune", "interpolate"}
TRAINING_MEMORY = GPU_RULES | {
    *("gather_features", "units", "leaks", "nearest_neighbours", "linear_probe"),
}
LONG = GPU_RULES | {"dataset", "images", "hash_images", "linear_probe"}
BACKBONE = Path("results/backbones/small")
COIN = Path("results/runs/small/animals/none/coin/seed0")
CHECKPOINT = "resume.safetensors"
STALE = "pipeline.initialisation: its code has changed since this job was made"

GREEDY = """
{more_each_try}


rule all:
    input:
        "done",


rule greedy:
    output:
        "done",
    resources:
        mem_mb=more_each_try(600),
        runtime=5,
    shell:
        "python -c 'import time; held = bytearray(700 << 20); time.sleep(4)' && touch {{output}}"
"""


@dataclass
class Journey:
    """One run of the workflow with faults on its way.

    Attributes:
        folder: The copy of the project.
        planned: Jobs of each rule that the first snakemake planned, and the second.
        jobs: SLURM's records of both.
        interrupted: Exit status of the first, which got SIGINT while it pre-trained.
        seen: SLURM's numbers of what the first saw end well.
        cancelled: SLURM's number of the fine-tuning that was cancelled under the second.
        ended: Exit status of the second.
    """

    folder: Path
    planned: tuple[Counter[str], Counter[str]]
    jobs: tuple[list[Job], list[Job]]
    interrupted: int
    seen: set[int]
    cancelled: int
    ended: int

    def tries(self, rule: str, wildcards: str = "") -> list[Job]:
        """The second snakemake's jobs of a rule whose wildcards contain a text."""
        return [job for job in self.jobs[1] if job.rule == rule and wildcards in job.wildcards]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snakemake]:
    """The same run undisturbed and without SLURM, begun beside the other."""
    folder = copy_project(tmp_path_factory.mktemp("local"), CONFIG)
    alone = ("--cores", "1", "--workflow-profile", "none")
    with Snakemake(folder, *alone, environment=NO_SLURM, aside=True) as snakemake:
        yield snakemake


@pytest.fixture(scope="module")
def greedy(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snakemake]:
    """A job that needs more memory than it asks for at first, begun beside the others."""
    folder = tmp_path_factory.mktemp("greedy")
    common = (REPOSITORY / "workflow/rules/common.smk").read_text(encoding="utf-8")
    function = re.search(r"^def more_each_try.*?(?=\n\n\n)", common, re.M | re.S)
    assert function
    (folder / "Snakefile").write_text(GREEDY.format(more_each_try=function[0]), encoding="utf-8")
    (folder / "slurm").symlink_to(REPOSITORY / "slurm")
    with Snakemake(folder, *AS_TYPED, environment=cluster.environment) as snakemake:
        yield snakemake


@pytest.fixture(scope="module")
def journey(
    cluster: Cluster, local: Snakemake, greedy: Snakemake, tmp_path_factory: pytest.TempPathFactory
) -> Journey:
    """Start, interrupt in mid-training; start again, edit code and config, cancel in mid-training."""
    folder = copy_project(tmp_path_factory.mktemp("journey"), CONFIG)
    code, config = folder / "src/pipeline/initialisation/initialise.py", folder / "config.yaml"
    logs = folder / "results/logs/initialisations"

    def jobs(since: int = 0) -> list[Job]:
        return [job for job in cluster.jobs(since) if job.rule != "greedy"]

    with Snakemake(folder, *AS_TYPED, environment=cluster.environment, patient=False) as first:
        first.wait_for(lambda: (folder / BACKBONE / CHECKPOINT).exists(), "pre-training")
        first.interrupt()
        interrupted = first.end()
    cluster.wait(lambda: {job.state for job in jobs()} <= {"COMPLETED", "CANCELLED"})
    early = jobs()
    last = early[-1].number
    with Snakemake(folder, *AS_TYPED, environment=cluster.environment, patient=False) as second:
        second.wait_for(lambda: jobs(last), "first job")
        with edited(config, lambda text: text.replace("epochs: 20", "epochs: 30")):
            with edited(code, lambda text: f"{text}\nEDITED = True\n"):
                second.wait_for(
                    lambda: [log for log in logs.rglob("*.log") if STALE in log.read_text()], STALE
                )
            second.wait_for(lambda: (folder / COIN / CHECKPOINT).exists(), "fine-tuning")
        (coin,) = [job for job in jobs(last) if "none_coin" in job.wildcards]
        cluster.cancel(coin.number)
        ended = second.end()
    return Journey(
        folder,
        (first.planned(), second.planned()),
        (early, jobs(last)),
        interrupted,
        first.finished(),
        coin.number,
        ended,
    )


def test_every_job_ends_well(journey: Journey) -> None:
    assert journey.ended == 0
    states = Counter(job.state for job in journey.jobs[1])
    assert states == {"COMPLETED": journey.planned[1].total(), "CANCELLED": 1, "FAILED": 1}


def test_gpu_rules_get_a_gpu_and_others_none(journey: Journey) -> None:
    jobs = [job for part in journey.jobs for job in part if job.begin]
    assert {job.rule for job in jobs if job.gpus} == GPU_RULES
    for job in jobs:
        assert job.gpus == (job.rule in GPU_RULES), job
        assert job.seen_gpus in ([("0",), ("1",)] if job.gpus else [()]), job


def test_no_gpu_is_in_two_jobs_at_once(journey: Journey) -> None:
    jobs = [job for job in journey.jobs[1] if job.gpus]
    together = [(a, b) for a, b in combinations(jobs, 2) if a.begin < b.end and b.begin < a.end]
    assert together, "two GPUs, and jobs that wait for them"
    assert not [(a, b) for a, b in together if a.seen_gpus == b.seen_gpus]


def test_limits_arrive(journey: Journey) -> None:
    again = {journey.tries("finetune", "coin")[1].number, journey.tries("initialise")[1].number}
    for job in (job for part in journey.jobs for job in part):
        memory = 8_000 if job.rule in TRAINING_MEMORY else 2_000
        assert job.memory_mb == memory * (2 if job.number in again else 1), job
        assert job.minutes == (24 * 60 if job.rule in LONG else 60), job
        assert job.cpus == (2 if job.rule == "extract_features" else 1), job
        assert job.partition == "cpu", job  # the cluster's default


def test_an_interrupted_snakemake_cancels_its_jobs(journey: Journey) -> None:
    assert journey.interrupted != 0
    (pretrain,) = [job for job in journey.jobs[0] if job.rule == "pretrain"]
    assert pretrain.state == "CANCELLED"


def test_a_second_snakemake_does_only_what_is_missing(journey: Journey) -> None:
    first, second = journey.planned
    seen = Counter(job.rule for job in journey.jobs[0] if job.number in journey.seen)
    # What began and was not seen to end may have done its work while Snakemake was on its way out.
    begun = Counter(job.rule for job in journey.jobs[0] if job.begin)
    assert seen["dataset"] == 2
    assert second["pretrain"] == 1
    assert first - begun <= second <= first - seen
    assert Counter(rule for rule, _ in {(job.rule, job.wildcards) for job in journey.jobs[1]}) == second


def test_killed_training_goes_on_from_its_checkpoint(journey: Journey) -> None:
    logs = journey.folder / "results/logs"
    for log, stage in (
        (logs / "backbones/small/pretrain.log", "pretraining"),
        (logs / "runs/small/animals/none/coin/seed0/finetune.log", "finetuning"),
    ):
        assert re.search(rf"{stage}: resumed after epoch [1-9]", log.read_text()), log.read_text()
    cancelled, again = journey.tries("finetune", "coin")
    assert cancelled.number == journey.cancelled
    assert (cancelled.state, again.state) == ("CANCELLED", "COMPLETED")


def test_a_job_refuses_code_that_was_edited_after_its_submission(journey: Journey) -> None:
    """The first try met the edited code; the second, after it was put back, did the work."""
    refused, again = journey.tries("initialise")
    assert (refused.state, again.state) == ("FAILED", "COMPLETED")


def test_results_are_those_of_a_local_run(journey: Journey, local: Snakemake) -> None:
    """Neither the interruptions nor the edit of the config has left a trace."""
    assert local.end() == 0, local.output()
    ours, theirs = results(journey.folder), results(local.folder)
    assert set(ours) == set(theirs)
    assert {Path(name).suffix for name in ours} >= {".parquet", ".safetensors", ".npy"}
    assert [name for name in ours if not same(ours[name], theirs[name])] == []


@pytest.mark.parametrize("arguments", [AS_TYPED, ()], ids=["with SLURM", "without"])
def test_nothing_is_left_to_do(arguments: tuple[str, ...], journey: Journey, cluster: Cluster) -> None:
    environment = cluster.environment if arguments else NO_SLURM
    with Snakemake(journey.folder, *arguments, "--dry-run", environment=environment) as snakemake:
        assert snakemake.end() == 0
        assert "Nothing to be done" in snakemake.output()


def test_one_follower_for_each_snakemake(journey: Journey) -> None:
    """Jobs call snakemake too, and must not track themselves."""
    folder = journey.folder / "results/tracking"
    events = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    assert len(events) == 2
    for path, jobs in zip(events, journey.jobs, strict=True):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        submitted = {int(line["slurm"]) for line in lines if line["event"] == "job_submitted"}
        assert submitted == {job.number for job in jobs}


def test_a_job_above_its_memory_comes_again_with_more(cluster: Cluster, greedy: Snakemake) -> None:
    assert greedy.end() == 0, greedy.output()
    killed, again = [job for job in cluster.jobs() if job.rule == "greedy"]
    assert (killed.memory_mb, again.memory_mb) == (600, 1200)
    assert (killed.state, again.state) == ("FAILED", "COMPLETED")


def test_trials_go_on_from_rung_to_rung(cluster: Cluster, tmp_path: Path) -> None:
    """Jobs that only a ranking knows of are submitted too, and find the training where it was."""
    before = max((job.number for job in cluster.jobs()), default=0)
    folder = copy_project(tmp_path, HALVED)
    arguments = (SEARCH, *AS_TYPED)
    with Snakemake(folder, *arguments, environment=cluster.environment, patient=False) as snakemake:
        assert snakemake.end() == 0, snakemake.output()
    jobs = cluster.jobs(before)
    assert {job.state for job in jobs} == {"COMPLETED"}
    rules = Counter(job.rule for job in jobs)
    assert (rules["trial_to_rung"], rules["rank"], rules["choose"]) == (4 + 2, 1, 1)
    logs = (folder / "results/logs/searches").rglob("rung1.log")
    assert ["resumed after epoch 1" in log.read_text() for log in logs] == [True, True]


def test_two_gpus_of_one_machine_train_together(cluster: Cluster, tmp_path: Path) -> None:
    """The step compares the number of its processes with `gpu: 2`, and refuses any other."""
    before = max((job.number for job in cluster.jobs()), default=0)
    folder = copy_project(tmp_path, JOINT)
    arguments = (f"results/{JOINT_RUN}/model.safetensors", *AS_TYPED)
    with Snakemake(folder, *arguments, environment=cluster.environment, patient=False) as snakemake:
        assert snakemake.end() == 0, snakemake.output()
    jobs = cluster.jobs(before)
    assert {job.state for job in jobs} == {"COMPLETED"}
    (joint,) = [job for job in jobs if job.rule == "finetune"]
    assert (joint.gpus, joint.cpus, joint.seen_gpus) == (2, 2, ("0,1",))
    # Of 20 training images each process takes its part; the first counts those of both.
    timings = parquet.read_table(folder / f"results/{JOINT_RUN}/timings.parquet")
    assert timings["images"].to_pylist() == [20, 20]


@contextmanager
def edited(file: Path, edit: Callable[[str], str]) -> Iterator[None]:
    """A file with another text, for a while."""
    before = file.read_text(encoding="utf-8")
    assert edit(before) != before
    file.write_text(edit(before), encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(before, encoding="utf-8")


def results(folder: Path) -> dict[str, Path]:
    """Every table, cache of images and weight file that a run makes, but how long it took.

    Shards are no result: where a run was interrupted between them and their gathering, they may stay.
    """
    root = folder / "results"
    kinds = (".parquet", ".safetensors", ".npy", ".txt")
    files = [path for path in root.rglob("*") if path.suffix in kinds and path.stem != "timings"]
    tops = {"logs", "benchmarks", "tracking", "mlartifacts"}
    named = {str(path.relative_to(root)): path for path in files}
    return {
        name: path
        for name, path in named.items()
        if name.split("/")[0] not in tops and path.parent.name != "shards"
    }


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same: tables their rows and metadata, others their bytes."""
    if one.suffix != ".parquet":
        return one.read_bytes() == other.read_bytes()
    ours, theirs = parquet.read_table(one), parquet.read_table(other)
    return bool(ours.equals(theirs, check_metadata=True))
