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
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Run the stage before fine-tuning; a killed run resumes from its last epoch."""
    with begin("pipeline.initialisation", settings, code) as step:
        from pipeline.initialisation.initialise import initialise

        provenance = step.provenance(manifest=manifest, weights=weights)
        initialise(manifest, images, weights, folder, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
