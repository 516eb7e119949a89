"""``python -m pipeline.comparison``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    joined: Annotated[Path, typer.Argument(help="The metrics table of all runs to write.")],
    joined_floors: Annotated[Path, typer.Argument(help="That of all floors, to write.")],
    comparison: Annotated[Path, typer.Argument(help="The comparison table to write.")],
    text: Annotated[Path, typer.Argument(help="The comparison as text, to write.")],
    metrics: Annotated[list[Path], typer.Argument(help="Metrics of single runs.")],
    floor: Annotated[list[Path] | None, typer.Option(help="Metrics of a floor; repeat it.")] = None,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Join the metrics of all runs and summarise them over seeds."""
    with begin("pipeline.comparison", settings, code) as step:
        from pipeline.comparison.compare import Outputs, compare

        inputs = {f"metrics_{number}": path for number, path in enumerate(metrics)}
        inputs |= {f"floor_{number}": path for number, path in enumerate(floor or [])}
        provenance = step.provenance(**inputs)
        main_metric, baselines = step.settings["main_metric"], step.settings["baselines"]
        outputs = Outputs(joined, joined_floors, comparison, text)
        compare(metrics, floor or [], outputs, main_metric, provenance, baselines)


if __name__ == "__main__":
    run_command(main)
