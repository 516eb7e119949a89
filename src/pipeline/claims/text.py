"""Answers as plain text for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.claims.answer import Answered

ASKED = {
    "difference": "{better} - {baseline} above {line:+.1f}",
    "non_inferiority": "{better} - {baseline} above {line:+.1f}",
    "trend": "growth of ({better} - {baseline}) per halving of the training images above {line:+.1f}",
}
RULE = """\
Effects are in points of top-1 accuracy, paired by draw of training images and seed. An interval is over
draws and test images, at the level that Holm's procedure gives it among the {count} claims, so that all
answers together are right with {level:.4g} % confidence. A claim is replicated if its interval lies wholly
above the line, not replicated if wholly below, undecided otherwise. A true effect as far beyond the line
as is told as detectable would be decided with 80 % power at the strictest of these levels.
"""


def claims_text(answered: Sequence[Answered], settings: Mapping[str, Any]) -> str:
    """Each claim with its answer and what that rests on, then the rule."""
    parts = [_claim(number, one) for number, one in enumerate(answered, 1)]
    return "\n".join([*parts, RULE.format(count=len(answered), level=100 * settings["level"])])


def _claim(number: int, one: Answered) -> str:
    row = one.row
    points = {key: 100 * row[key] for key in ("line", "estimate", "low", "high", "detectable")}
    asked = ASKED[row["kind"]].format(better=row["better"], baseline=row["baseline"], line=points["line"])
    lines = [
        f"{number}. {row['claim']}: {row['answer'].upper()}",
        f"   asked       {asked}",
        f"   found       {points['estimate']:+.2f}, {100 * row['level']:.4g} % interval "
        f"{points['low']:+.2f} to {points['high']:+.2f}, p {row['p_value']:.4f}, Holm {row['p_holm']:.4f}",
        f"   detectable  {points['detectable']:.2f} beyond the line",
        f"   from        {row['draws']} draws, {row['images']} test images, {row['backbone']}",
    ]
    for arm in ("better", "baseline"):
        means = ", ".join(_accuracy(images, mean) for images, mean in one.accuracies[arm].items())
        lines.append(f"   {arm:<11} {row[arm]}: {means}")
    return "\n".join([*lines, ""])


def _accuracy(images: int | None, mean: float) -> str:
    return f"{100 * mean:.1f} %" + (f" with {images} images a class" if images is not None else "")
