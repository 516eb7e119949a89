"""``python -m pipeline.predict``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import run_command
from pipeline.errors import PipelineError

CORES = os.cpu_count() or 1


def main(
    model: Annotated[Path, typer.Argument(help="A model as a run writes it (model.safetensors).")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    output: Annotated[
        Path | None, typer.Option(help="Write a table (.parquet or .csv) and print none.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that decode and compute.")] = CORES,
) -> None:
    """Classify images: on the first GPU where there is one, else on the CPU.

    What is no readable image is reported and the rest goes on; the status is then 1.
    """
    from pipeline.predict.classify import classify
    from pipeline.predict.output import as_text, require_format, write_predictions

    if output is not None:
        require_format(output)
    found = classify(model, images, threads)
    if output is not None:
        write_predictions(output, found)
    elif found.files:
        typer.echo("\n".join(as_text(found)))
    for failure in found.failures:
        typer.echo(f"error: {failure}", err=True)
    if found.failures:
        total = len(found.files) + len(found.failures)
        raise PipelineError(f"{len(found.failures)} of {total} could not be classified")


if __name__ == "__main__":
    run_command(main)
