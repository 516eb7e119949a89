"""``python -m pipeline.gathering``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, begin, run_command


def main(
    output: Annotated[Path, typer.Argument(help="The table to write.")],
    shards: Annotated[list[Path], typer.Argument(help="Its shards, in order.")],
    table: Annotated[str, typer.Option(help="What they hold: features or hashes.")] = "features",
    code: CodeOption = "",
) -> None:
    """Join shards of a table; the number of shards changes nothing in the result."""
    with begin("pipeline.gathering", "{}", code):
        from pipeline.gathering.gather import gather

        gather(shards, output, table)


if __name__ == "__main__":
    run_command(main)
