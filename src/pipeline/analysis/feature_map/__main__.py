"""``python -m pipeline.analysis.feature_map``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    features: Annotated[Path, typer.Argument(help="Features of a run, or of the untouched backbone.")],
    manifest: Annotated[Path, typer.Argument(help="The target's manifest.")],
    output: Annotated[Path, typer.Argument(help="The feature_map table to write.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Put the features of test images into the plane."""
    with begin("pipeline.analysis.feature_map", settings, code) as step:
        from pipeline.analysis.feature_map.place import write_map

        provenance = step.provenance(features=features, manifest=manifest)
        write_map(features, manifest, output, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
