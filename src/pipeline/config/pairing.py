"""Which runs a claim pairs: the same draw of training images and the same seed in both arms."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline.claims.measures import SECONDS, TOP1
from pipeline.config.claims import AnyClaim, Arm
from pipeline.config.datasets import NumberPerClass
from pipeline.config.model import NO_SELECTION, Config
from pipeline.config.runs import Run


class Pair(NamedTuple):
    """Two runs on one target with one seed; `images` are those of each class where a subset says so."""

    target: str
    images: int | None
    better: Run
    baseline: Run


class DrawKey(NamedTuple):
    """What is drawn: training images (None where there is no subset), and by the seed all else."""

    draw: int | None
    seed: int


Draws = dict[DrawKey, list[Pair]]
Problem = tuple[str, str]
# The table that a measure is read from; the metrics where it is not here.
TABLES = {TOP1: "predictions", SECONDS: "timings"}


def runs_of_arm(config: Config, claim: AnyClaim, arm: Arm, target: str) -> dict[int, list[Run]]:
    """An arm's runs on a target by their seed; of a seed there should be one."""
    selections = arm.selections or [NO_SELECTION]
    found: dict[int, list[Run]] = {}
    for run in config.runs():
        keys = (run.backbone, run.target, run.recipe)
        if keys == (claim.backbone, target, arm.recipe) and run.selection in selections:
            found.setdefault(run.seed, []).append(run)
    return found


def draws_of(config: Config, claim: AnyClaim) -> Draws:
    """The pairs of every draw, in the order of the targets; of a trend the draws that have all sizes."""
    draws: Draws = {}
    for target in claim.targets:
        subset = getattr(config.datasets[target], "subset", None)
        images = subset.per_class if isinstance(subset, NumberPerClass) else None
        better = runs_of_arm(config, claim, claim.better, target)
        baseline = runs_of_arm(config, claim, claim.baseline, target)
        for seed in sorted(better.keys() & baseline.keys()):
            key = DrawKey(subset.draw if subset else None, seed)
            draws.setdefault(key, []).append(Pair(target, images, better[seed][0], baseline[seed][0]))
    if claim.kind != "trend":
        return draws
    sizes = {pair.images for pairs in draws.values() for pair in pairs}
    return {key: pairs for key, pairs in draws.items() if {pair.images for pair in pairs} == sizes}


def claimed_tables(config: Config) -> dict[str, list[Run]]:
    """By name the tables that answer the claims, and the runs whose table is read, each once."""
    read: dict[str, list[Run]] = {"predictions": [], "metrics": [], "timings": []}
    for claim in config.claims.questions:
        of_runs = [run for pairs in draws_of(config, claim).values() for pair in pairs for run in pair[-2:]]
        read[TABLES.get(claim.measure, "metrics")] += of_runs
    return {table: list(dict.fromkeys(runs)) for table, runs in read.items()}


def claims_settings(config: Config) -> dict[str, Any]:
    """The claims as their step takes them: with the runs that are paired, draw by draw."""
    return {
        **config.claims.model_dump(mode="json", exclude={"questions"}),
        "claims": [
            {
                **claim.model_dump(mode="json", exclude={"targets"}),
                "draws": [
                    [
                        {
                            "target": pair.target,
                            "images": pair.images,
                            "seed": key.seed,
                            "better": pair.better.selection,
                            "baseline": pair.baseline.selection,
                        }
                        for pair in pairs
                    ]
                    for key, pairs in draws_of(config, claim).items()
                ],
            }
            for claim in config.claims.questions
        ],
    }


def unpaired(config: Config, claim: AnyClaim) -> Iterator[Problem]:
    """Key and message of what keeps a claim's runs from being paired; its names must be known."""
    if claim.better == claim.baseline:
        yield "baseline", "found the same arm as better; name another"
        return
    problems = [problem for target in claim.targets for problem in _unpaired_on(config, claim, target)]
    yield from problems
    if not problems:
        yield from _bad_draws(config, claim)


def _unpaired_on(config: Config, claim: AnyClaim, target: str) -> Iterator[Problem]:
    arms = {"better": claim.better, "baseline": claim.baseline}
    seeds = {}
    for key, arm in arms.items():
        found = runs_of_arm(config, claim, arm, target)
        if not found:
            reused = f"selection {', '.join(arm.selections)}" if arm.selections else "no selection"
            message = f"no experiment runs recipe {arm.recipe!r} with {reused} on {target!r}"
            yield key, f"{message} by {claim.backbone!r}"
        for seed, runs in found.items():
            if len(runs) > 1:
                both = " and ".join(repr(run.selection) for run in runs)
                yield key, f"selections {both} both have a run on {target!r} with seed {seed}; expected one"
        seeds[key] = sorted(found)
    if all(seeds.values()) and seeds["better"] != seeds["baseline"]:
        message = f"runs on {target!r} have seeds {seeds['baseline']}, and those of better {seeds['better']}"
        yield "baseline", f"{message}; pairs need the same seeds in both arms"


def _bad_draws(config: Config, claim: AnyClaim) -> Iterator[Problem]:
    draws = draws_of(config, claim)
    if claim.kind == "trend":
        for target in claim.targets:
            if not isinstance(getattr(config.datasets[target], "subset", None), NumberPerClass):
                yield "targets", f"a trend is over sizes, and {target!r} is no subset by number"
                return
    for key, pairs in draws.items():
        sizes = [pair.images for pair in pairs]
        both = f"{pairs[0].target!r} and {pairs[-1].target!r} are of draw {key.draw} and seed {key.seed}"
        if claim.kind != "trend" and len(pairs) > 1:
            yield "targets", f"{both}; expected one target of each draw"
            return
        if claim.kind == "trend" and len(set(sizes)) < len(sizes):
            yield "targets", f"{both} and of one size; expected one target of each draw and size"
            return
    if claim.kind == "trend" and draws and len(next(iter(draws.values()))) < 2:
        yield "targets", "found one size; a trend needs at least two"
    numbers = {key.draw for key in draws}
    if len(numbers) > 1 and len(draws) > len(numbers):
        message = f"found {len(draws)} draws and seeds of {len(numbers)} draws of training images"
        yield "targets", f"{message}; give each draw one seed, since several would not be independent"
    if len(draws) < 2:
        which = " with all sizes" if claim.kind == "trend" else ""
        advice = "add a seed, or targets that differ in the draw of their subset"
        yield "targets", f"found {len(draws)} draw{which}; an interval needs at least two: {advice}"
