"""Decode all images of a manifest into one file: python -m pipeline.images MANIFEST OUTPUT."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    manifest: Annotated[Path, typer.Argument(help="The manifest of a dataset.")],
    output: Annotated[Path, typer.Argument(help="The .npy file to write; of originals an .arrow file.")],
    settings: SettingsOption,
    code: CodeOption = "",
    threads: Annotated[int, typer.Option(min=1, help="Threads that decode.")] = 1,
) -> None:
    """Decode the images of MANIFEST, in its order, to squares of `size` pixels; null leaves their sizes."""
    with begin("pipeline.images", settings, code) as step:
        from pipeline.images.cache import write_images
        from pipeline.images.originals import write_originals

        if step.settings["size"] is None:
            write_originals(manifest, output, threads)
        else:
            write_images(manifest, output, step.settings["size"], threads)


if __name__ == "__main__":
    run_command(main)
