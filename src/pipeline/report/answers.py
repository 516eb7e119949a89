"""What the numbers say: ways side by side, and the answer in each pair of backbone and target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.comparison.differences import Difference, paired_difference
from pipeline.report.data import NO_SELECTION, Pair, Way
from pipeline.tables import read_table

# Where a way stands: what it is compared by, if the data has it.
PARTS = ("test", "validation")


class Summary(NamedTuple):
    """A metric over seeds; the deviation is None for a single seed."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class Scores:
    """One way on one backbone and target.

    Attributes:
        way: The recipe and selection.
        position: Its place in the config.
        parts: The main metric on each part.
        seeds: The main metric at each seed, on the part that ways are compared by.
        difference: To the baseline, seed by seed; None for the baseline, or without one.
        others: Further metrics on that part.
    """

    way: Way
    position: int
    parts: Mapping[str, Summary]
    seeds: Mapping[int, float]
    difference: Difference | None
    others: Mapping[str, Summary]


@dataclass(frozen=True)
class Comparison:
    """All ways on one backbone and target, best first.

    Attributes:
        pair: The backbone and target.
        metric: The main metric.
        part: The part that ways are compared by: test, where the target has one.
        baseline: What differences are to.
        scores: Of each way.
    """

    pair: Pair
    metric: str
    part: str
    baseline: Way | None
    scores: list[Scores]

    def of(self, way: Way | None) -> Scores | None:
        """The scores of a way."""
        return next((scores for scores in self.scores if scores.way == way), None)


@dataclass(frozen=True)
class Answer:
    """What a comparison says of some of its ways.

    Attributes:
        comparison: Narrowed to those ways.
        best: The highest on the compared part.
        lead: Best to baseline; None where best is the baseline, or there is none.
        second: The next highest.
        margin: Best to second.
        chosen: The highest on the validation part, which is what one would choose.
    """

    comparison: Comparison
    best: Scores
    lead: Difference | None
    second: Scores | None
    margin: Difference | None
    chosen: Scores | None

    @property
    def runner_up(self) -> Scores | None:
        """The second, where the lead over the baseline does not say it already."""
        if self.second is None or self.margin is None or self.second.way == self.comparison.baseline:
            return None
        return self.second


def compare_ways(
    comparison: Path, metrics: Path, main_metric: Mapping[str, str], baselines: Sequence[str]
) -> list[Comparison]:
    """The comparison of every backbone and target, in the order of the tables.

    Args:
        comparison: Means over seeds.
        metrics: Metrics of single runs.
        main_metric: The metric that counts, by target.
        baselines: Recipes to measure differences to: the first that a pair has.
    """
    summaries: dict[Pair, dict[Way, dict[tuple[str, str], Summary]]] = {}
    for row in read_table("comparison", comparison).to_pylist():
        ways = summaries.setdefault(Pair(row["backbone"], row["target"]), {})
        found = ways.setdefault(Way(row["recipe"], row["selection"]), {})
        summary = Summary(row["mean"], row["standard_deviation"], row["seeds"])
        found[row["split"], row["metric"]] = summary
    seeds: dict[tuple[Pair, Way, str, str], dict[int, float]] = {}
    for row in read_table("metrics", metrics).to_pylist():
        key = (Pair(row["backbone"], row["target"]), Way(row["recipe"], row["selection"]))
        seeds.setdefault((*key, row["split"], row["metric"]), {})[row["seed"]] = row["value"]
    return [
        _comparison(pair, ways, seeds, main_metric[pair.target], baselines)
        for pair, ways in summaries.items()
    ]


def _comparison(
    pair: Pair,
    ways: Mapping[Way, Mapping[tuple[str, str], Summary]],
    seeds: Mapping[tuple[Pair, Way, str, str], Mapping[int, float]],
    metric: str,
    baselines: Sequence[str],
) -> Comparison:
    part = next(part for part in PARTS if any((part, metric) in found for found in ways.values()))
    baseline = next((way for name in baselines for way in ways if way == Way(name, NO_SELECTION)), None)

    def values(way: Way) -> Mapping[int, float]:
        return seeds.get((pair, way, part, metric), {})

    scores = [
        Scores(
            way,
            position,
            {part: summary for (part, name), summary in found.items() if name == metric},
            values(way),
            paired_difference(values(way), values(baseline)) if baseline and way != baseline else None,
            {
                name: summary
                for (where, name), summary in found.items()
                if where == part and name not in (metric, "images")
            },
        )
        for position, (way, found) in enumerate(ways.items())
    ]
    scores.sort(key=lambda scores: -scores.parts[part].mean if part in scores.parts else 0.0)
    return Comparison(pair, metric, part, baseline, scores)


def narrowed(comparison: Comparison, experiment: Mapping[str, Any]) -> Comparison | None:
    """The ways of one experiment; None where the experiment has none of them."""
    selections = {*experiment["selections"], NO_SELECTION}
    within = (
        comparison.pair.backbone in experiment["backbones"]
        and comparison.pair.target in experiment["targets"]
    )
    scores = [
        scores
        for scores in comparison.scores
        if within and scores.way.recipe in experiment["recipes"] and scores.way.selection in selections
    ]
    if not scores:
        return None
    baseline = comparison.baseline if any(s.way == comparison.baseline for s in scores) else None
    return Comparison(comparison.pair, comparison.metric, comparison.part, baseline, scores)


def answer(comparison: Comparison) -> Answer:
    """Which way is best, by how much, and what validation would have chosen."""
    best, *others = comparison.scores
    validated = [scores for scores in comparison.scores if "validation" in scores.parts]
    return Answer(
        comparison,
        best,
        best.difference if comparison.baseline else None,
        others[0] if others else None,
        paired_difference(best.seeds, others[0].seeds) if others else None,
        max(validated, key=lambda scores: scores.parts["validation"].mean) if validated else None,
    )


def is_beyond_spread(difference: Difference | None) -> bool:
    """Whether the 95 % t-interval of the mean difference leaves out zero."""
    interval = difference.interval() if difference else None
    return interval is not None and not interval[0] <= 0 <= interval[1]
