"""What training took, by stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.report.data import Backbone, Initialisation, Run, Time
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
