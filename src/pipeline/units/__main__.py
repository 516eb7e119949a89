"""``python -m pipeline.units``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    manifest: Annotated[Path, typer.Argument(help="The dataset's manifest.")],
    features: Annotated[Path, typer.Argument(help="Its features.")],
    units: Annotated[Path, typer.Argument(help="The units table to write.")],
    membership: Annotated[Path, typer.Argument(help="The membership table to write.")],
    concepts: Annotated[
        Path | None, typer.Option(help="CSV file with a concept of each class (class_name, concept).")
    ] = None,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Write the units of a dataset (classes, clusters or images) and which image is in which."""
    with begin("pipeline.units", settings, code) as step:
        from pipeline.units.backbone import backbone_digest
        from pipeline.units.summarise import summarise

        named = {"concepts": concepts} if concepts else {}
        provenance = step.provenance(features=features, **backbone_digest(features), **named)
        summarise(manifest, features, units, membership, step.settings, provenance, concepts)


if __name__ == "__main__":
    run_command(main)
