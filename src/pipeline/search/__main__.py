"""``python -m pipeline.search``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    output: Annotated[Path, typer.Argument(help="The search table to write.")],
    predictions: Annotated[list[Path], typer.Argument(help="Predictions of each trial, in their order.")],
    before: Annotated[Path | None, typer.Option(help="The rung before, which chose the trials.")] = None,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Rank the trials of a recipe by the validation part, and mark the best."""
    with begin("pipeline.search", settings, code) as step:
        from pipeline.search.choose import choose

        inputs = {f"trial{number}": path for number, path in enumerate(predictions)}
        inputs |= {"before": before} if before else {}
        choose(predictions, output, step.settings, step.provenance(**inputs), before)


if __name__ == "__main__":
    run_command(main)
