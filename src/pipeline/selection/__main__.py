"""``python -m pipeline.selection``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    source: Annotated[Path, typer.Argument(help="Units of the source.")],
    target: Annotated[Path, typer.Argument(help="Units of the target.")],
    output: Annotated[Path, typer.Argument(help="The selection table to write.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Rank the source's units for one target and mark the selected ones.

    Takes any two units tables. Settings are an entry of `selections` without its units, such as
    '{"method": "uot", "count": 20}'; those left out have the paper's values.
    """
    with begin("pipeline.selection", settings, code, "selections", without="units") as step:
        from pipeline.selection.select import select

        mapping = step.settings.get("mapping")
        named = {"mapping": Path(mapping)} if mapping else {}
        provenance = step.provenance(source=source, target=target, **named)
        select(source, target, output, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
