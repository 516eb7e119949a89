"""``python -m pipeline.floors.linear_probe``."""

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
    """Classify a target by a linear function of its features."""
    with begin("pipeline.floors.linear_probe", settings, code) as step:
        from pipeline.floors.linear_probe.fit import linear_probe

        provenance = step.provenance(manifest=manifest, features=features)
        linear_probe(manifest, features, folder, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
