"""``python -m pipeline.recall``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    recall: Annotated[Path, typer.Argument(help="The recall table to write.")],
    text: Annotated[Path, typer.Argument(help="The same as text, to write.")],
    figures: Annotated[Path, typer.Argument(help="The folder of figures to write.")],
    selections: Annotated[list[Path], typer.Argument(help="Selections, .../backbone/source/target/name.")],
    units: Annotated[list[Path], typer.Option(help="Units of a source, with concepts; repeat it.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Count how many units of a concept each selection finds, and draw what it picks."""
    with begin("pipeline.recall", settings, code) as step:
        from pipeline.recall.figures import draw
        from pipeline.recall.measure import experiments_of, rankings_of, write
        from pipeline.recall.text import recall_text
        from pipeline.tables import atomic_write

        rankings = rankings_of(selections, units)
        experiments = experiments_of(step.settings, rankings)
        inputs = {f"selection_{number}": path for number, path in enumerate(selections)}
        write(recall, experiments, step.provenance(**inputs))
        atomic_write(text, recall_text(experiments))
        draw(figures, experiments)


if __name__ == "__main__":
    run_command(main)
