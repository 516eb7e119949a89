"""Seconds of each job: measured, extrapolated from what was measured, or estimated from FLOPs."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.resolve import to_json
from pipeline.estimate.jobs import Job
from pipeline.nested import value_at, with_values
from pipeline.provenance import read_provenance
from pipeline.tables import read_table

MEASURED, EXTRAPOLATED, ESTIMATED, UNKNOWN = "measured", "extrapolated", "estimated", "unknown"
BASES = (MEASURED, EXTRAPOLATED, ESTIMATED, UNKNOWN)


class Cost(NamedTuple):
    """What a job takes on one device.

    Attributes:
        seconds: None where it is unknown.
        basis: One of `BASES`.
        devices: What a measured job ran on.
    """

    seconds: float | None
    basis: str
    devices: tuple[str, ...] = ()


def costs(jobs: Sequence[Job], flops: Callable[[str], int], tflops: float, results: Path) -> list[Cost]:
    """The cost of each job.

    Jobs of one kind, backbone and dataset of which some have finished take as long for each forward
    pass as those did.

    Args:
        jobs: What is to run.
        flops: Of one forward pass of a backbone.
        tflops: Tera-FLOP/s that are reached.
        results: The results folder.

    Raises:
        PipelineError: If a table of timings cannot be read.
    """
    measured = [_measured(job, results) for job in jobs]
    totals: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for job, cost in zip(jobs, measured, strict=True):
        if cost and cost.seconds is not None and job.forwards:
            total = totals[job.kind, job.backbone, job.dataset]
            total[0] += cost.seconds
            total[1] += job.forwards

    def expected(job: Job) -> Cost:
        if job.forwards is None:
            return Cost(None, UNKNOWN)
        if (key := (job.kind, job.backbone, job.dataset)) in totals:
            seconds, forwards = totals[key]
            return Cost(job.forwards * seconds / forwards, EXTRAPOLATED)
        return Cost(job.forwards * flops(job.backbone) / (tflops * 1e12), ESTIMATED)

    return [cost or expected(job) for job, cost in zip(jobs, measured, strict=True)]


def _measured(job: Job, results: Path) -> Cost | None:
    """What a finished job with these settings took; None where there is none."""
    path = results / job.folder / "timings.parquet"
    if not job.folder or not path.exists():
        return None
    record = read_provenance(path)
    if record is None or not _same(job.settings, record.settings):
        return None
    table = read_table("timings", path, ["seconds", "device"])
    devices = tuple(dict.fromkeys(table["device"].to_pylist()))
    return Cost(sum(table["seconds"].to_pylist()), MEASURED, devices)


def _same(settings: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a job was told the same, but for what a search decided later."""
    try:
        decided = {key: value_at(found, key) for key in settings.get("chosen", [])}
        return to_json(with_values(settings, decided)) == to_json(found)
    except KeyError:
        return False
