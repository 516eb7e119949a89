"""``python -m pipeline.claims``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    claims: Annotated[Path, typer.Argument(help="The table of claims to write.")],
    text: Annotated[Path, typer.Argument(help="The same as text, to write.")],
    predictions: Annotated[
        list[Path],
        typer.Argument(
            help="Predictions of runs, .../backbone/target/selection/recipe/seedN/predictions.parquet."
        ),
    ],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Answer claims about runs from the test images that each gets right."""
    with begin("pipeline.claims", settings, code) as step:
        from pipeline.claims.answer import answer_all, write
        from pipeline.claims.outcomes import Outcomes
        from pipeline.claims.text import claims_text
        from pipeline.tables import atomic_write

        answered = answer_all(step.settings, Outcomes(predictions))
        inputs = {f"predictions_{number}": path for number, path in enumerate(predictions)}
        write(claims, answered, step.provenance(**inputs))
        atomic_write(text, claims_text(answered, step.settings))


if __name__ == "__main__":
    run_command(main)
