"""``python -m pipeline.evaluation``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    predictions: Annotated[Path, typer.Argument(help="The run's predictions.")],
    output: Annotated[Path, typer.Argument(help="The metrics table to write.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Write the metrics of one run."""
    with begin("pipeline.evaluation", settings, code) as step:
        from pipeline.evaluation.metrics import evaluate

        provenance = step.provenance(predictions=predictions)
        evaluate(predictions, output, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
