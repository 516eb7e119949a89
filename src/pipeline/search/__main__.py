"""``python -m pipeline.search``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    output: Annotated[Path, typer.Argument(help="The search table to write.")],
    predictions: Annotated[list[Path], typer.Argument(help="Predictions of each trial, in their order.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Rank the trials of a recipe by the validation part, and mark the best."""
    with begin("pipeline.search", settings, code) as step:
        from pipeline.search.choose import choose

        inputs = {f"trial{number}": path for number, path in enumerate(predictions)}
        choose(predictions, output, step.settings, step.provenance(**inputs))


if __name__ == "__main__":
    run_command(main)
