"""``python -m pipeline.leakage.hashes``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, begin, run_command


def main(
    manifest: Annotated[Path, typer.Argument(help="Table of images.")],
    output: Annotated[Path, typer.Argument(help="The hashes table to write.")],
    shard: Annotated[int, typer.Option(help="Number of the shard, from 0.")] = 0,
    shards: Annotated[int, typer.Option(help="How many shards there are.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads that decode and hash.")] = 1,
    code: CodeOption = "",
) -> None:
    """Write the hashes of one shard of a manifest."""
    with begin("pipeline.leakage.hashes", "{}", code) as step:
        from pipeline.leakage.hashes.hashing import hash_images

        hash_images(manifest, output, (shard, shards), threads, step.provenance(manifest=manifest))


if __name__ == "__main__":
    run_command(main)
