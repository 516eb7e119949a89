"""``python -m pipeline.initialisation``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    manifest: Annotated[Path, typer.Argument(help="The target's manifest.")],
    images: Annotated[Path, typer.Argument(help="Its decoded images (.npy).")],
    weights: Annotated[Path, typer.Argument(help="The backbone to start from.")],
    folder: Annotated[Path, typer.Argument(help="Gets weights, history and timings.")],
    originals: Annotated[Path | None, typer.Option(help="The images at their own sizes.")] = None,
    chosen: Annotated[list[Path] | None, typer.Option(help="A search that decides some settings.")] = None,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Run the stage before fine-tuning; a killed run resumes from its last epoch."""
    with begin("pipeline.initialisation", settings, code) as step:
        from pipeline.initialisation.initialise import initialise
        from pipeline.tables.chosen import with_chosen

        step, searches = with_chosen(step, chosen or [])
        provenance = step.provenance(manifest=manifest, weights=weights, **searches)
        initialise(manifest, images, weights, folder, step.settings, provenance, originals)


if __name__ == "__main__":
    run_command(main)
