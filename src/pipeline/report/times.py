"""What training took, by stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.data import Backbone, Initialisation, Pair, Run, Time, Way
from pipeline.report.searches import Search


@dataclass(frozen=True)
class Stage:
    """The jobs of one stage.

    Attributes:
        name: What is done.
        of: The backbone, first stage or recipe that it is done for.
        jobs: How many jobs.
        images: Images that went through training.
        seconds: Time of training, added over jobs.
        devices: Where.
    """

    name: str
    of: str
    jobs: int
    images: int
    seconds: float
    devices: str

    @property
    def rate(self) -> float | None:
        """Images per second."""
        return self.images / self.seconds if self.seconds else None


def stages(
    backbones: Sequence[Backbone],
    firsts: Sequence[Initialisation],
    searches: Sequence[Search],
    runs: Sequence[Run],
) -> list[Stage]:
    """Pre-training by backbone, first stages by name, trials and fine-tuning by recipe, in that order."""
    trained = [backbone.training for backbone in backbones]
    jobs: dict[tuple[str, str], list[Mapping[str, Time]]] = {}
    for backbone, training in zip(backbones, trained, strict=True):
        if training:
            jobs.setdefault(("Pre-training", backbone.name), []).append(training.times)
    for first in firsts:
        jobs.setdefault(("First stage", first.name), []).append(first.times)
    for search in searches:
        jobs.setdefault(("Search", search.way.recipe), []).extend(search.times)
    for run in runs:
        jobs.setdefault(("Fine-tuning", run.way.recipe), []).append(run.times)
    return [_stage(name, of, group) for (name, of), group in jobs.items()]


def _stage(name: str, of: str, jobs: Sequence[Mapping[str, Time]]) -> Stage:
    times = [time for job in jobs for time in job.values()]
    devices = ", ".join(dict.fromkeys(time.device for time in times))
    images, seconds = sum(time.images for time in times), sum(time.seconds for time in times)
    return Stage(name, of, len(jobs), images, seconds, devices)


@dataclass(frozen=True)
class Cost:
    """What one run of a way takes, as COIN's Table 2 tells it: all of its training, first stage included.

    Attributes:
        pair: The backbone and target.
        way: The recipe and selection.
        seconds: Of each stage, mean over seeds, in the order that they run in.
        total: Of all stages, mean over seeds.
        deviation: Of that, of a sample; None for one seed.
    """

    pair: Pair
    way: Way
    seconds: Mapping[str, float]
    total: float
    deviation: float | None


def costs(firsts: Sequence[Initialisation], runs: Sequence[Run]) -> list[Cost]:
    """The cost of every way, in the order of the runs; a first stage that runs share counts in each."""
    before = {first.digest: first.times for first in firsts}
    groups: dict[tuple[Pair, Way], list[dict[str, float]]] = {}
    for run in runs:
        times = {**before.get(run.record.inputs.get("weights", ""), {}), **run.times}
        seconds = {stage: time.seconds for stage, time in times.items()}
        groups.setdefault((run.pair, run.way), []).append(seconds)
    return [_cost(pair, way, seeds) for (pair, way), seeds in groups.items()]


def _cost(pair: Pair, way: Way, seeds: Sequence[Mapping[str, float]]) -> Cost:
    totals = [sum(seconds.values()) for seconds in seeds]
    means = {stage: float(np.mean([seconds[stage] for seconds in seeds])) for stage in seeds[0]}
    deviation = float(np.std(totals, ddof=1)) if len(totals) > 1 else None
    return Cost(pair, way, means, float(np.mean(totals)), deviation)
