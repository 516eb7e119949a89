"""A config's jobs and GPU hours, as text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path

from pipeline.config.loading import load_config
from pipeline.config.resolve import Resolver
from pipeline.estimate.arithmetic import forward_flops
from pipeline.estimate.costs import BASES, ESTIMATED, EXTRAPOLATED, MEASURED, UNKNOWN, Cost, costs
from pipeline.estimate.dry_run import jobs_by_rule
from pipeline.estimate.images import Count, count_images
from pipeline.estimate.jobs import KINDS, Job, gpu_jobs, jobs_after_rankings
from pipeline.text import aligned

HEAD = ("GPU jobs", "jobs", "images", "GPU hours", "basis")


def estimate(file: Path, tflops: float, results: Path) -> str:
    """A table of GPU jobs by kind, the number of all jobs, and what the numbers rest on.

    Args:
        file: The config.
        tflops: Tera-FLOP/s that are reached.
        results: The results folder.

    Raises:
        PipelineError: If the config, its local data or a table among the results is not sound.
    """
    config = load_config(file)
    counted: dict[str, Count | None] = {}

    def counts(name: str) -> Count | None:
        if name not in counted:
            counted[name] = count_images(name, config.datasets[name], results)
        return counted[name]

    @cache
    def flops(backbone: str) -> int:
        return forward_flops(config.origin(backbone))

    resolver = Resolver(config)
    all_jobs = sum(jobs_by_rule(file).values()) + jobs_after_rankings(resolver)
    jobs = gpu_jobs(resolver, counts)
    found = costs(jobs, flops, tflops, results)
    backbones = dict.fromkeys(job.backbone for job in jobs)
    arithmetic = {name: flops(name) for name in backbones} if _has(found, ESTIMATED) else {}
    return "\n".join(
        [
            *table(jobs, found),
            "",
            f"{all_jobs:,} jobs in all, by Snakemake's dry run of a fresh start in an empty folder",
            *_bases(found, arithmetic, tflops),
            *_origins(counted),
        ]
    )


def table(jobs: Sequence[Job], found: Sequence[Cost]) -> list[str]:
    """A line for each kind of job and basis of its hours, and their total."""
    pairs = list(zip(jobs, found, strict=True))
    rows = [HEAD]
    for kind, basis in product(KINDS, BASES):
        group = [(job, cost) for job, cost in pairs if (job.kind, cost.basis) == (kind, basis)]
        if group:
            rows.append(_row(kind, group, basis))
    bases = ", ".join(basis for basis in BASES if _has(found, basis))
    rows.append(_row("total", pairs, bases))
    return aligned(rows, left=[0, len(HEAD) - 1])


def _row(kind: str, group: Sequence[tuple[Job, Cost]], basis: str) -> tuple[str, str, str, str, str]:
    """Number of jobs, their images and hours; unknown as soon as one of them is."""
    images = _sum([job.images for job, _ in group])
    seconds = _sum([cost.seconds for _, cost in group])
    shown = UNKNOWN if images is None else f"{images:,.0f}"
    return kind, f"{len(group):,}", shown, UNKNOWN if seconds is None else _hours(seconds / 3600), basis


def _hours(hours: float) -> str:
    return "< 0.001" if 0 < hours < 0.001 else f"{hours:,.{1 if hours >= 10 else 3}f}"


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _has(found: Iterable[Cost], basis: str) -> bool:
    return any(cost.basis == basis for cost in found)


def _bases(found: Sequence[Cost], arithmetic: Mapping[str, int], tflops: float) -> Iterator[str]:
    """What each basis of hours means."""
    if arithmetic:
        each = ", ".join(f"{name} {flops / 1e9:.3g}" for name, flops in arithmetic.items())
        yield (
            f"estimated: GFLOPs of a forward pass ({each}), training three times as much, at {tflops:g} "
            "tera-FLOP/s reached (--gpu-tflops); waiting for images and evaluation are left out"
        )
    if _has(found, MEASURED):
        devices = ", ".join(dict.fromkeys(device for cost in found for device in cost.devices))
        yield f"measured: seconds of training of finished jobs with these settings, on {devices}"
    if _has(found, EXTRAPOLATED):
        yield "extrapolated: as long for each image as the measured jobs of the kind, backbone and dataset"
    if _has(found, UNKNOWN):
        yield "unknown: nothing at hand says how many images there are; so the total is unknown too"


def _origins(counted: Mapping[str, Count | None]) -> Iterator[str]:
    """Where the numbers of images are from."""
    names: dict[str, list[str]] = {}
    for name, count in counted.items():
        names.setdefault(count.origin if count else "unknown", []).append(name)
    if names:
        yield "images: " + "; ".join(f"{origin}: {', '.join(of)}" for origin, of in names.items())
