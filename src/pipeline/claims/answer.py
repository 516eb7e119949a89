"""Answers to claims, with Holm's correction for their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.claims.intervals import Estimate, estimate
from pipeline.claims.outcomes import Outcomes
from pipeline.provenance import Provenance
from pipeline.tables import write_table

REPLICATED, NOT_REPLICATED, UNDECIDED = "replicated", "not replicated", "undecided"


@dataclass(frozen=True)
class Answered:
    """A claim with its answer.

    Attributes:
        row: Its row in the table of claims.
        accuracies: Mean top-1 accuracy of ``better`` and ``baseline``, by images of each class.
    """

    row: Mapping[str, Any]
    accuracies: Mapping[str, Mapping[int | None, float]]


def answer_all(settings: Mapping[str, Any], outcomes: Outcomes) -> list[Answered]:
    """Answer all claims together.

    Args:
        settings: ``claims``, ``level``, ``resamples`` and ``seed``.
        outcomes: Of the runs that they are about.

    Raises:
        PipelineError: If a run is missing, or a claim's runs do not share their test images.
    """
    claims = settings["claims"]
    matrices = [outcomes.matrix(claim) for claim in claims]
    # Each claim draws for itself, so that one more claim changes no other's interval but by its level.
    estimates = [
        estimate(matrix, np.random.default_rng(settings["seed"]), settings["resamples"])
        for matrix in matrices
    ]
    lines = [line_of(claim) for claim in claims]
    p_values = [found.p_value(line) for found, line in zip(estimates, lines, strict=True)]
    levels = holm_levels(estimates, lines, p_values, settings["level"])
    smallest = 1 - (1 - settings["level"]) / len(claims)
    answered = []
    for number, claim in enumerate(claims):
        found, line = estimates[number], lines[number]
        low, high = found.interval(levels[number])
        row = {
            **{key: claim[key] for key in ("claim", "kind", "backbone")},
            **{arm: arm_name(claim[arm]) for arm in ("better", "baseline")},
            "draws": matrices[number].shape[0],
            "images": matrices[number].shape[1],
            "line": line,
            "estimate": found.mean,
            "standard_error": found.standard_error,
            "level": levels[number],
            "low": low,
            "high": high,
            "p_value": p_values[number],
            "p_holm": holm_p_values(p_values)[number],
            "detectable": found.detectable(smallest),
            "answer": answer_of(low, high, line),
        }
        accuracies = {arm: outcomes.accuracies(claim, arm) for arm in ("better", "baseline")}
        answered.append(Answered(row, accuracies))
    return answered


def line_of(claim: Mapping[str, Any]) -> float:
    """What the true effect must be above for the claim to hold."""
    return -claim["margin"] if claim["kind"] == "non_inferiority" else claim["margin"]


def answer_of(low: float, high: float, line: float) -> str:
    """The answer that an interval gives: only one that lies wholly on one side of the line decides."""
    if low > line:
        return REPLICATED
    return NOT_REPLICATED if high < line else UNDECIDED


def holm_levels(
    estimates: Sequence[Estimate], lines: Sequence[float], p_values: Sequence[float], level: float
) -> list[float]:
    """The level of each claim's interval by Holm's procedure (1979).

    Of m claims the one with the smallest p-value has level 1 - alpha / m, and each that follows a
    decided one 1 - alpha / (m - 1), 1 - alpha / (m - 2), ...; from the first that is not decided
    on, all have its level. So the intervals decide just what the procedure does.
    """
    levels = [0.0] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda number: (p_values[number], number))
    left = len(order)
    for number in order:
        levels[number] = 1 - (1 - level) / left
        if answer_of(*estimates[number].interval(levels[number]), lines[number]) == UNDECIDED:
            break
        left -= 1
    return [found or 1 - (1 - level) / left for found in levels]


def holm_p_values(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's procedure: the k-th smallest times m - k + 1, never below an earlier."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(np.array(p_values)[order] * factors), 1.0)
    result = np.empty(len(order))
    result[order] = adjusted
    return result.tolist()


def arm_name(arm: Mapping[str, Any]) -> str:
    """An arm in words: its recipe and what it reuses."""
    selections = arm["selections"]
    if len(selections) > 2:
        return f"{arm['recipe']} {selections[0]} ... {selections[-1]}"
    return " ".join([arm["recipe"], " or ".join(selections)]).strip()


def write(path: Path, answered: Sequence[Answered], provenance: Provenance) -> None:
    """Write the table of claims."""
    columns = {name: [one.row[name] for one in answered] for name in answered[0].row}
    write_table("claims", path, columns, provenance)
