"""``python -m pipeline.floors.interpolation``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    manifest: Annotated[Path, typer.Argument(help="The target's manifest.")],
    images: Annotated[Path, typer.Argument(help="Its decoded images (.npy).")],
    weights: Annotated[Path, typer.Argument(help="The backbone.")],
    head: Annotated[Path, typer.Argument(help="The linear probe of its features.")],
    model: Annotated[Path, typer.Argument(help="The fine-tuned model.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write to.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Mix a backbone and a fine-tuned model, and classify a target by the best mixture."""
    with begin("pipeline.floors.interpolation", settings, code) as step:
        from pipeline.floors.interpolation.interpolate import Ends, interpolate

        provenance = step.provenance(manifest=manifest, weights=weights, head=head, model=model)
        interpolate(manifest, images, Ends(weights, head, model), folder, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
