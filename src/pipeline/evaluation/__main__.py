"""``python -m pipeline.evaluation``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    predictions: Annotated[Path, typer.Argument(help="The run's predictions.")],
    features: Annotated[Path, typer.Argument(help="Features of the predicted images.")],
    manifest: Annotated[Path, typer.Argument(help="The target's manifest.")],
    metrics: Annotated[Path, typer.Argument(help="The metrics table to write.")],
    per_class: Annotated[Path, typer.Argument(help="The table of classes to write.")],
    confusion: Annotated[Path, typer.Argument(help="The confusion of classes to write.")],
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Write the metrics of one run, in all and by class."""
    with begin("pipeline.evaluation", settings, code) as step:
        from pipeline.evaluation.metrics import Outputs, evaluate

        provenance = step.provenance(predictions=predictions, features=features, manifest=manifest)
        outputs = Outputs(metrics, per_class, confusion)
        evaluate(predictions, features, manifest, outputs, step.settings, provenance)


if __name__ == "__main__":
    run_command(main)
