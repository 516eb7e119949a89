"""``python -m pipeline.backbones``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, new_app, run_app

app = new_app()


@app.command()
def fetch(
    output: Annotated[Path, typer.Argument(help="The weight file to write.")],
    settings: SettingsOption,
    code: CodeOption = "",
) -> None:
    """Fetch and check the weights of a backbone; downloads are kept in .downloads, two folders up."""
    with begin("pipeline.backbones", settings, code) as step:
        from pipeline.backbones.fetch import fetch as fetch_backbone
        from pipeline.backbones.files import save_backbone

        backbone, sha256 = fetch_backbone(step.settings, output.parent.parent / ".downloads")
        save_backbone(output, backbone, step.provenance(weights=sha256))


@app.command()
def kept_epoch(
    checkpoints: Annotated[Path, typer.Argument(help="Folder of the epochs that pre-training kept.")],
    output: Annotated[Path, typer.Argument(help="The weight file to write.")],
    settings: SettingsOption,
    code: CodeOption = "",
) -> None:
    """Take the backbone as it was after an earlier epoch."""
    with begin("pipeline.backbones", settings, code) as step:
        from pipeline.backbones.fetch import kept_epoch as read_epoch
        from pipeline.backbones.files import save_backbone

        backbone, path = read_epoch(checkpoints, step.settings)
        save_backbone(output, backbone, step.provenance(weights=path))


if __name__ == "__main__":
    run_app(app)
