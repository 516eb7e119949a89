"""``python -m pipeline.features``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    manifest: Annotated[Path, typer.Argument(help="Table of images.")],
    images: Annotated[Path, typer.Argument(help="Its decoded images (.npy).")],
    weights: Annotated[Path, typer.Argument(help="The backbone.")],
    output: Annotated[Path, typer.Argument(help="The features table to write.")],
    shard: Annotated[int, typer.Option(help="Number of the shard, from 0.")] = 0,
    shards: Annotated[int, typer.Option(help="How many shards there are.")] = 1,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Write the features of one shard of a manifest."""
    with begin("pipeline.features", settings, code) as step:
        from pipeline.features.extract import extract

        provenance = step.provenance(manifest=manifest, weights=weights)
        extract(manifest, images, weights, output, (shard, shards), step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
