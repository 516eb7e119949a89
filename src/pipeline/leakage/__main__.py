"""``python -m pipeline.leakage``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    source_hashes: Annotated[Path, typer.Argument(help="Hashes of the source.")],
    target_hashes: Annotated[Path, typer.Argument(help="Hashes of the target.")],
    source_features: Annotated[Path, typer.Argument(help="Features of the source.")],
    target_features: Annotated[Path, typer.Argument(help="Features of the target.")],
    output: Annotated[Path, typer.Argument(help="The leaks table to write.")],
    settings: SettingsOption,
    code: CodeOption = "",
) -> None:
    """List the source's training images that are in the target's validation or test part."""
    with begin("pipeline.leakage", settings, code) as step:
        from pipeline.leakage.audit import audit
        from pipeline.leakage.sides import SideFiles

        source = SideFiles(source_hashes, source_features)
        target = SideFiles(target_hashes, target_features)
        provenance = step.provenance(
            source_hashes=source_hashes,
            target_hashes=target_hashes,
            source_features=source_features,
            target_features=target_features,
        )
        audit(source, target, output, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
