"""``python -m pipeline.analysis.feature_map_figures``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    panels: Annotated[Path, typer.Argument(help="The table of panels to write.")],
    figures: Annotated[Path, typer.Argument(help="The folder of figures to write.")],
    maps: Annotated[list[Path], typer.Argument(help="Feature maps, in the order of the settings' panels.")],
    metrics: Annotated[list[Path], typer.Option(help="Metrics of a run; repeat it.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Draw a figure for each backbone and target, with a panel for each model."""
    with begin("pipeline.analysis.feature_map_figures", settings, code) as step:
        from pipeline.analysis.feature_map_figures.figures import draw
        from pipeline.analysis.feature_map_figures.panels import read_panels, write_panels

        inputs = {f"map{number}": path for number, path in enumerate(maps)}
        inputs |= {f"metrics{number}": path for number, path in enumerate(metrics)}
        found = read_panels(maps, metrics, step.settings)
        write_panels(panels, found, step.provenance(**inputs))
        draw(figures, found)


if __name__ == "__main__":
    run_command(main)
