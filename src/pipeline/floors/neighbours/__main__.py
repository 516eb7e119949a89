"""``python -m pipeline.floors.neighbours``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    manifest: Annotated[Path, typer.Argument(help="The target's manifest.")],
    features: Annotated[Path, typer.Argument(help="Penultimate features of its images.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write to.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Classify a target by its nearest training images."""
    with begin("pipeline.floors.neighbours", settings, code) as step:
        from pipeline.floors.neighbours.classify import neighbours

        provenance = step.provenance(manifest=manifest, features=features)
        neighbours(manifest, features, folder, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
