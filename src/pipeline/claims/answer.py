"""Answers to claims, with Holm's correction for their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.claims.intervals import Estimate, estimate
from pipeline.claims.measures import ABOVE, TOP1, Measured
from pipeline.claims.outcomes import Outcomes
from pipeline.claims.student import student
from pipeline.claims.values import Values
from pipeline.provenance import Provenance
from pipeline.tables import write_table

REPLICATED, NOT_REPLICATED, UNDECIDED = "replicated", "not replicated", "undecided"


class Evidence(NamedTuple):
    """What an answer rests on.

    Attributes:
        estimate: The mean effect, with what it may deviate by.
        draws: Over which it is.
        images: Test images over which it is as well; None of a number that each run has one of.
        reason: Why it cannot decide the claim; None if it can.
        means: Of the measure, of ``better`` and ``baseline``, by images of each class.
    """

    estimate: Estimate
    draws: int
    images: int | None
    reason: str | None
    means: Mapping[str, Mapping[int | None, float]]


@dataclass(frozen=True)
class Answered:
    """A claim with its answer.

    Attributes:
        row: Its row in the table of claims.
        means: As in `Evidence`.
    """

    row: Mapping[str, Any]
    means: Mapping[str, Mapping[int | None, float]]


def answer_all(settings: Mapping[str, Any], outcomes: Outcomes, values: Values) -> list[Answered]:
    """Answer all claims together.

    Args:
        settings: ``claims``, ``level``, ``resamples`` and ``seed``.
        outcomes: On test images, of the runs that claims about top-1 accuracy are about.
        values: Of the runs that the other claims are about.

    Raises:
        PipelineError: If a run is missing, or what a claim compares it by, or if runs of a claim about
            top-1 accuracy do not share their test images.
    """
    claims = settings["claims"]
    # Each claim draws for itself, so that one more claim changes no other's interval but by its level.
    found = [_evidence(claim, settings, outcomes, values) for claim in claims]
    estimates = [evidence.estimate for evidence in found]
    lines = [Measured.of(claim).line(claim) for claim in claims]
    p_values = [estimate.p_value(line) for estimate, line in zip(estimates, lines, strict=True)]
    levels = holm_levels(estimates, lines, p_values, settings["level"])
    smallest = 1 - (1 - settings["level"]) / len(claims)
    adjusted = holm_p_values(p_values)
    answered = []
    for number, claim in enumerate(claims):
        row = {
            **{key: claim[key] for key in ("claim", "kind", "measure", "backbone")},
            **{arm: arm_name(claim[arm]) for arm in ("better", "baseline")},
            **_shown(Measured.of(claim), found[number], lines[number], levels[number], smallest),
            **{"level": levels[number], "p_value": p_values[number], "p_holm": adjusted[number]},
        }
        answered.append(Answered(row, found[number].means))
    return answered


def _evidence(
    claim: Mapping[str, Any], settings: Mapping[str, Any], outcomes: Outcomes, values: Values
) -> Evidence:
    source = outcomes if claim["measure"] == TOP1 else values
    means = {arm: source.means(claim, arm) for arm in ("better", "baseline")}
    if claim["measure"] == TOP1:
        matrix = outcomes.matrix(claim)
        draws, images = matrix.shape
        resampled = estimate(matrix, np.random.default_rng(settings["seed"]), settings["resamples"])
        return Evidence(resampled, draws, images, None, means)
    effects, reason = values.effects(claim), values.why_undecided(claim)
    return Evidence(student(effects, comparable=reason is None), len(effects), None, reason, means)


def _shown(
    measured: Measured, evidence: Evidence, line: float, level: float, smallest: float
) -> dict[str, Any]:
    """The columns about the effect, in the claim's unit; null where nothing is known of its error."""
    found = evidence.estimate
    low, high = found.interval(level)
    shown: dict[str, Any] = {
        "unit": measured.unit,
        "draws": evidence.draws,
        "images": evidence.images,
        "side": measured.side,
        "line": measured.shown(line),
        "estimate": measured.shown(found.mean),
        **dict.fromkeys(("standard_error", "low", "high", "detectable")),
        "answer": answer_of(low, high, line, measured.side),
        "reason": evidence.reason,
    }
    if evidence.reason is None:
        shown |= {
            "standard_error": found.standard_error,
            "low": measured.shown(low),
            "high": measured.shown(high),
            "detectable": measured.distance(line, found.detectable(smallest)),
        }
    return shown


def answer_of(low: float, high: float, line: float, side: str = ABOVE) -> str:
    """The answer that an interval gives: only one that lies wholly on one side of the line decides."""
    if not low <= line <= high:
        return REPLICATED if (low > line) == (side == ABOVE) else NOT_REPLICATED
    return UNDECIDED


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
