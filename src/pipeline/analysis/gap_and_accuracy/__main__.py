"""``python -m pipeline.analysis.gap_and_accuracy``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    gaps: Annotated[Path, typer.Argument(help="The table of all gaps to write.")],
    summary: Annotated[Path, typer.Argument(help="The gap_and_accuracy table to write.")],
    figures: Annotated[Path, typer.Argument(help="The folder of figures to write.")],
    measured: Annotated[list[Path], typer.Argument(help="Domain gaps of each run.")],
    metrics: Annotated[list[Path], typer.Option(help="Metrics of a run; repeat it.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Gather domain gaps, set them beside test accuracy, and draw both."""
    with begin("pipeline.analysis.gap_and_accuracy", settings, code) as step:
        from pipeline.analysis.gap_and_accuracy.figures import draw
        from pipeline.analysis.gap_and_accuracy.summarise import gathered, summarise
        from pipeline.tables import write_table

        inputs = {f"gap{number}": path for number, path in enumerate(measured)}
        inputs |= {f"metrics{number}": path for number, path in enumerate(metrics)}
        provenance = step.provenance(**inputs)
        table = gathered(measured)
        found = summarise(table.to_pylist(), metrics, step.settings["main_metric"])
        write_table("domain_gap", gaps, table, provenance)
        columns = {name: [row[name] for row in found] for name in found[0]}
        write_table("gap_and_accuracy", summary, columns, provenance)
        draw(figures, found, step.settings["main_metric"])


if __name__ == "__main__":
    run_command(main)
