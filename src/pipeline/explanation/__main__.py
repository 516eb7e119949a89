"""``python -m pipeline.explanation``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    selection: Annotated[Path, typer.Argument(help="The selection.")],
    source: Annotated[Path, typer.Argument(help="The units of the source that it ranks.")],
    target: Annotated[Path, typer.Argument(help="The units of the target.")],
    features: Annotated[Path, typer.Argument(help="The target's features, to draw its images again.")],
    folder: Annotated[Path, typer.Argument(help="Gets the tables plan, margin and stability.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Explain a selection by its plan, its margin and its stability.

    Settings are those of `explanation` in the config; how units are scored is in the selection's record.
    """
    with begin("pipeline.explanation", settings, code, "explanation") as step:
        from pipeline.explanation.explain import Explained, explain

        files = Explained(selection, source, target, features)
        provenance = step.provenance(selection=selection, source=source, target=target, features=features)
        explain(files, folder, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
