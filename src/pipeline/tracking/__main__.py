"""``python -m pipeline.tracking``: show the results in MLflow."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import new_app, run_app

app = new_app()

Results = Annotated[Path, typer.Option(help="The results folder.")]
Uri = Annotated[
    str | None,
    typer.Option(envvar="GRAFTUNE_TRACKING_URI", help="MLflow's tracking URI; by default the last one used."),
]
ExperimentName = Annotated[
    str | None,
    typer.Option(
        envvar="GRAFTUNE_TRACKING_EXPERIMENT", help="MLflow's experiment; by default the last one used."
    ),
]
Port = Annotated[int, typer.Option(help="Port on 127.0.0.1.")]


@app.command()
def sync(results: Results = Path("results"), uri: Uri = None, experiment: ExperimentName = None) -> None:
    """Make MLflow equal to the results on disk. A second time changes nothing."""
    from pipeline.tracking.sync import sync
    from pipeline.tracking.workflow import tracking_target

    target = tracking_target(results, uri, experiment)
    summary = sync(results, target)
    print(
        f"{target.uri}: logged {summary.logged} runs, left {summary.unchanged} as they were, "
        f"removed {summary.removed}"
    )


@app.command()
def follow(results: Results = Path("results"), uri: Uri = None, experiment: ExperimentName = None) -> None:
    """Log running workflows until they end. Snakemake's logger plugin starts this."""
    from pipeline.tracking.follower import follow
    from pipeline.tracking.workflow import tracking_target

    follow(results, tracking_target(results, uri, experiment))


@app.command()
def ui(
    results: Results = Path("results"), uri: Uri = None, experiment: ExperimentName = None, port: Port = 5000
) -> None:
    """Open MLflow's UI on 127.0.0.1, or say where the team's server shows the runs."""
    from pipeline.tracking.store import Store
    from pipeline.tracking.workflow import tracking_target

    target = tracking_target(results, uri, experiment)
    store = Store(*target)
    if target.uri.startswith("http"):
        print(store.address(target.uri.rstrip("/")))
        return
    print(f"Open {store.address(f'http://127.0.0.1:{port}')}")
    print("The server starts in a few seconds; Ctrl-C ends it.", flush=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # none of its jobs is used here
    server = ["--backend-store-uri", target.uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *server])


if __name__ == "__main__":
    run_app(app)
