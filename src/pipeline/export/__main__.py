"""``python -m pipeline.export``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import run_command


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or the model in it.")],
    folder: Annotated[Path, typer.Argument(help="Gets model.safetensors, README.md and model.onnx.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write model.onnx, and compare it.")] = False,
) -> None:
    """Take a model away: its weights, a model card, and the model as ONNX if asked for."""
    from pipeline.export.export import export

    for path in export(run, folder, onnx):
        typer.echo(path)


if __name__ == "__main__":
    run_command(main)
