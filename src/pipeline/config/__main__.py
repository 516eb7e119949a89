"""``python -m pipeline.config``: check a config, and write what is made from the models."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import new_app, run_app

app = new_app()


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The config.")] = Path("config.yaml"),
) -> None:
    """Check a config, and say how many runs it means, or selections where nothing is fine-tuned."""
    from pipeline.config.loading import load_config

    config = load_config(file)
    only = [experiment for experiment in config.experiments if not experiment.recipes]
    selections = {ranking for experiment in only for ranking in config.rankings_of(experiment)}
    made = [_counted(len(config.runs()), "run")] if config.runs() else []
    made += [_counted(len(selections), "selection")] if selections else []
    experiments = _counted(len(config.experiments), "experiment")
    typer.echo(f"{file} is valid: {' and '.join(made)} in {experiments}")
    for experiment in config.experiments:
        crossed = config.runs_of(experiment) if experiment.recipes else config.rankings_of(experiment)
        typer.echo(f"{len(set(crossed)):6}  {experiment.name}")


@app.command()
def docs(
    root: Annotated[Path, typer.Argument(help="The folder of config.yaml.")] = Path("."),
) -> None:
    """Write config/schema.json and docs/config.md from the models."""
    from pipeline.config.documentation import write

    for path in write(root):
        typer.echo(path)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


if __name__ == "__main__":
    run_app(app)
