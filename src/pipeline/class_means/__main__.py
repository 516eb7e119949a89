"""``python -m pipeline.class_means``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    means: Annotated[Path, typer.Argument(help="A Parquet file with a row for each class.")],
    units: Annotated[Path, typer.Argument(help="The units table to write.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Check class means that were made elsewhere, and write them as units."""
    with begin("pipeline.class_means", settings, code) as step:
        from pipeline.class_means.read import read

        # The backbone is known by its name alone; means of two of them are not to be compared.
        backbone = step.settings.get("backbone")
        provenance = step.provenance(means=means, **({"backbone": backbone} if backbone else {}))
        read(means, units, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
