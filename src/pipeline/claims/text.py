"""Answers as plain text for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.claims.answer import Answered
from pipeline.claims.measures import MEASURES, TIME, decimals_of, factor_of, unit_in_words
from pipeline.evaluation.catalogue import NATS, SHARE

RULE = """\
Effects are paired by draw of training images and seed. An interval of top-1 accuracy is over draws and test
images, one of any other measure Student's over draws; each is at the level that Holm's procedure gives it
among the {count} claims, so that all answers together are right with {level:.4g} % confidence. A claim is
replicated if its interval lies wholly on the side of the line that was asked for, not replicated if wholly
on the other, undecided otherwise. A true effect as far beyond the line as is told as detectable would be
decided with 80 % power at the strictest of these levels. Effects in % of the baseline are geometric means.
"""


def claims_text(answered: Sequence[Answered], settings: Mapping[str, Any]) -> str:
    """Each claim with its answer and what that rests on, then the rule."""
    parts = [_claim(number, one) for number, one in enumerate(answered, 1)]
    return "\n".join([*parts, RULE.format(count=len(answered), level=100 * settings["level"])])


def _claim(number: int, one: Answered) -> str:
    row = one.row
    factor = factor_of(row["unit"])
    told = {
        key: factor * row[key]
        for key in ("line", "estimate", "low", "high", "detectable")
        if row[key] is not None
    }
    decimals = decimals_of(row["unit"], told.values())
    effect = f"{row['better']} - {row['baseline']}"
    if row["kind"] == "trend":
        effect = f"growth of ({effect}) per halving of the training images"
    unit = unit_in_words(row["measure"], row["unit"])
    found = f"{told['estimate']:+.{decimals}f}"
    if row["reason"] is None:
        found += (
            f", {100 * row['level']:.4g} % interval {told['low']:+.{decimals}f} to "
            f"{told['high']:+.{decimals}f}, p {row['p_value']:.4f}, Holm {row['p_holm']:.4f}"
        )
    images = f", {row['images']} test images" if row["images"] is not None else ""
    lines = [
        f"{number}. {row['claim']}: {row['answer'].upper()}",
        f"   asked       {effect} {row['side']} {told['line']:+.{decimals}f}, in {unit}",
        f"   found       {found}",
        f"   detectable  {told['detectable']:.{decimals}f} beyond the line"
        if row["reason"] is None
        else f"   undecided   {row['reason']}",
        f"   from        {row['draws']} draws{images}, {row['backbone']}",
    ]
    for arm in ("better", "baseline"):
        means = ", ".join(_mean(row["measure"], *found) for found in one.means[arm].items())
        lines.append(f"   {arm:<11} {row[arm]}: {means}")
    return "\n".join([*lines, ""])


def _mean(measure: str, images: int | None, mean: float) -> str:
    unit = MEASURES[measure].unit
    told = f"{100 * mean:.1f} %" if unit == SHARE else f"{mean:.{decimals_of(unit, [mean])}f}"
    told += f" {unit}" if unit in (NATS, TIME) else ""
    return told + (f" with {images} images a class" if images is not None else "")
