"""``python -m pipeline.claims``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    claims: Annotated[Path, typer.Argument(help="The table of claims to write.")],
    text: Annotated[Path, typer.Argument(help="The same as text, to write.")],
    predictions: Annotated[
        list[Path] | None,
        typer.Option(
            help="Predictions of a run, .../backbone/target/selection/recipe/seedN/predictions.parquet; "
            "repeat it."
        ),
    ] = None,
    metrics: Annotated[
        list[Path] | None, typer.Option(help="Metrics of a run, in such a folder; repeat it.")
    ] = None,
    timings: Annotated[
        list[Path] | None, typer.Option(help="Timings of a run, in such a folder; repeat it.")
    ] = None,
    first_stage: Annotated[
        list[Path] | None,
        typer.Option(help="Timings of the stage before a run with --timings; repeat it."),
    ] = None,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Answer claims about runs, from the test images that each gets right, metrics and timings."""
    with begin("pipeline.claims", settings, code) as step:
        from pipeline.claims.answer import answer_all, write
        from pipeline.claims.outcomes import Outcomes
        from pipeline.claims.text import claims_text
        from pipeline.claims.values import Values
        from pipeline.tables import atomic_write

        tables = {
            "predictions": predictions or [],
            "metrics": metrics or [],
            "timings": timings or [],
            "first_stage": first_stage or [],
        }
        values = Values(tables["metrics"], tables["timings"], tables["first_stage"])
        answered = answer_all(step.settings, Outcomes(tables["predictions"]), values)
        inputs = {
            f"{kind}_{number}": path for kind, paths in tables.items() for number, path in enumerate(paths)
        }
        write(claims, answered, step.provenance(**inputs))
        atomic_write(text, claims_text(answered, step.settings))


if __name__ == "__main__":
    run_command(main)
