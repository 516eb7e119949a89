"""``python -m pipeline.report``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    output: Annotated[Path, typer.Argument(help="The HTML page to write.")],
    comparison: Annotated[Path, typer.Option(help="The comparison of all runs.")],
    metrics: Annotated[Path, typer.Option(help="The metrics of all runs.")],
    dataset: Annotated[list[Path], typer.Option(help="Folder of a dataset; repeat it.")],
    backbone: Annotated[list[Path], typer.Option(help="Folder of a backbone; repeat it.")],
    run: Annotated[list[Path], typer.Option(help="Folder of a run; repeat it.")],
    images: Annotated[list[Path] | None, typer.Option(help="Decoded images of a dataset; repeat it.")] = None,
    units: Annotated[list[Path] | None, typer.Option(help="Folder of units; repeat it.")] = None,
    selection: Annotated[list[Path] | None, typer.Option(help="A selection table; repeat it.")] = None,
    leaks: Annotated[list[Path] | None, typer.Option(help="A leaks table; repeat it.")] = None,
    explanation: Annotated[
        list[Path] | None, typer.Option(help="Folder that explains a selection; repeat it.")
    ] = None,
    floor: Annotated[list[Path] | None, typer.Option(help="Folder of a floor; repeat it.")] = None,
    search: Annotated[
        list[Path] | None, typer.Option(help="Folder of a search, with its trials; repeat it.")
    ] = None,
    recall: Annotated[Path | None, typer.Option(help="The recall of concepts.")] = None,
    recall_figures: Annotated[Path | None, typer.Option(help="Folder of its figures.")] = None,
    claims: Annotated[Path | None, typer.Option(help="The claims.")] = None,
    domain_gap: Annotated[Path | None, typer.Option(help="The gap_and_accuracy table.")] = None,
    feature_maps: Annotated[Path | None, typer.Option(help="The feature_maps table.")] = None,
    feature_map_figures: Annotated[Path | None, typer.Option(help="Folder of its figures.")] = None,
    initialisation: Annotated[
        list[Path] | None, typer.Option(help="Folder of a first stage at one seed; repeat it.")
    ] = None,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Write the report: one page that needs no other file and no network."""
    with begin("pipeline.report", settings, code) as step:
        from pipeline.report.data import Inputs
        from pipeline.report.page import write_report

        inputs = Inputs(
            comparison,
            metrics,
            datasets=dataset,
            images=images or [],
            backbones=backbone,
            units=units or [],
            selections=selection or [],
            leaks=leaks or [],
            explanations=explanation or [],
            initialisations=initialisation or [],
            runs=run,
            floors=floor or [],
            searches=search or [],
            recall=recall,
            recall_figures=recall_figures,
            claims=claims,
            domain_gap=domain_gap,
            feature_maps=feature_maps,
            feature_map_figures=feature_map_figures,
        )
        write_report(inputs, output, step.settings)


if __name__ == "__main__":
    run_command(main)
