"""Numbers that each run has one of, and what a claim makes of them."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.claims.measures import SECONDS, Measured
from pipeline.claims.outcomes import RunKeys, keys_of, run_of
from pipeline.claims.student import FEWEST_DRAWS
from pipeline.errors import PipelineError
from pipeline.provenance import digest_of_file, read_provenance
from pipeline.tables import read_table


class Time(NamedTuple):
    """Seconds of training, and the devices that they were spent on."""

    seconds: float
    devices: frozenset[str]


class Values:
    """Metrics of the test part and training times of runs, read when they are first asked for.

    Args:
        metrics: Files ``.../backbone/target/selection/recipe/seedN/metrics.parquet``.
        timings: Files ``timings.parquet`` in such folders.
        first_stages: Files ``timings.parquet`` of the stages before; several runs can share one.

    Raises:
        PipelineError: If the folders of a file do not name a run.
    """

    def __init__(
        self, metrics: Sequence[Path] = (), timings: Sequence[Path] = (), first_stages: Sequence[Path] = ()
    ):
        self._metrics = {run_of(path): path for path in metrics}
        self._timings = {run_of(path): path for path in timings}
        # All files of a step carry one record, so that this is the digest of its weights as well.
        self._first_stages = {digest_of_file(path): path for path in first_stages}
        self._times: dict[RunKeys, Time] = {}

    def value(self, run: RunKeys, measure: str) -> float:
        """A run's metric of its test part, or its seconds of training.

        Raises:
            PipelineError: If the run's table was not given, or does not have it.
        """
        if measure == SECONDS:
            return self.time(run).seconds
        path = _given(self._metrics, run, "metrics")
        columns = ["split", "metric", "value"]
        table = read_table("metrics", path, columns, filters=[("split", "=", "test")])
        found = dict(zip(table["metric"].to_pylist(), table["value"].to_pylist(), strict=True))
        if measure not in found:
            names = ", ".join(found) or "no metric"
            raise PipelineError(f"{path}: no {measure!r} of the test part; found {names}")
        if not isfinite(found[measure]):
            raise PipelineError(f"{path}: {measure} of the test part is {found[measure]}; expected a number")
        return float(found[measure])

    def time(self, run: RunKeys) -> Time:
        """What all stages of a run's training took, the stage before fine-tuning included.

        A stage that runs share counts in each of them, as in COIN's Table 2.

        Raises:
            PipelineError: If the timings of one of its stages were not given.
        """
        if run not in self._times:
            path = _given(self._timings, run, "timings")
            record = read_provenance(path)
            settings, inputs = (record.settings, record.inputs) if record else ({}, {})
            stages = [path]
            if settings.get("initialise", {"name": "none"})["name"] != "none":
                digest = inputs.get("weights", "")
                if digest not in self._first_stages:
                    raise PipelineError(f"{path}: no timings were given of the stage before this run")
                stages.insert(0, self._first_stages[digest])
            tables = [read_table("timings", stage, ["seconds", "device"]) for stage in stages]
            seconds = sum(sum(table["seconds"].to_pylist()) for table in tables)
            devices = frozenset(name for table in tables for name in table["device"].to_pylist())
            self._times[run] = Time(seconds, devices)
        return self._times[run]

    def effects(self, claim: Mapping[str, Any]) -> list[float]:
        """The effect of each draw, as `Measured` has it.

        Raises:
            PipelineError: If a number is missing, or is not above 0 where a ratio is asked for.
        """
        measured = Measured.of(claim)
        effects = []
        for better, baseline in _pairs(claim):
            values = [self.value(run, claim["measure"]) for run in (better, baseline)]
            if measured.relative and min(values) <= 0:
                raise PipelineError(
                    f"claim {claim['claim']!r}: found {claim['measure']} {values[0]:g} of the run {better} "
                    f"and {values[1]:g} of {baseline}; relative_margin needs numbers above 0, so give margin"
                )
            effects.append(measured.effect(*values))
        return effects

    def means(self, claim: Mapping[str, Any], arm: str) -> dict[int | None, float]:
        """Mean of an arm's runs, by the number of training images of each class."""
        found: dict[int | None, list[float]] = {}
        for (pair,) in claim["draws"]:
            value = self.value(keys_of(claim, arm, pair), claim["measure"])
            found.setdefault(pair["images"], []).append(value)
        return {images: float(np.mean(values)) for images, values in found.items()}

    def why_undecided(self, claim: Mapping[str, Any]) -> str | None:
        """Why these runs cannot decide a claim; None if they can."""
        draws = len(claim["draws"])
        if draws < FEWEST_DRAWS:
            count = "1 draw" if draws == 1 else f"{draws} draws"
            return f"{count}; an interval over draws alone needs at least {FEWEST_DRAWS}"
        for better, baseline in _pairs(claim) if claim["measure"] == SECONDS else ():
            devices = self.time(better).devices | self.time(baseline).devices
            if len(devices) > 1:
                return (
                    f"times on different devices cannot be compared: {better} and {baseline} were trained "
                    f"on {', '.join(sorted(devices))}"
                )
        return None


def _pairs(claim: Mapping[str, Any]) -> Iterator[tuple[RunKeys, RunKeys]]:
    """`better` and `baseline` of each draw, which has one pair."""
    for (pair,) in claim["draws"]:
        yield keys_of(claim, "better", pair), keys_of(claim, "baseline", pair)


def _given(paths: Mapping[RunKeys, Path], run: RunKeys, table: str) -> Path:
    if run not in paths:
        raise PipelineError(f"no {table} were given of the run {run}")
    return paths[run]
