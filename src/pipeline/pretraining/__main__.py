"""``python -m pipeline.pretraining``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    manifest: Annotated[Path, typer.Argument(help="The source's manifest.")],
    images: Annotated[Path, typer.Argument(help="Its decoded images (.npy).")],
    folder: Annotated[Path, typer.Argument(help="Gets weights, history, timings and checkpoints.")],
    originals: Annotated[Path | None, typer.Option(help="The images at their own sizes.")] = None,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Pre-train a backbone on the source; a killed run resumes from its last epoch."""
    with begin("pipeline.pretraining", settings, code) as step:
        from pipeline.pretraining.pretrain import pretrain

        provenance = step.provenance(manifest=manifest)
        pretrain(manifest, images, folder, step.settings, provenance, originals)


if __name__ == "__main__":
    run_command(main)
