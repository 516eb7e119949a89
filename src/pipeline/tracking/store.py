"""All that is said to MLflow. Nothing else imports it."""

import getpass
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.tracking.locks import writer_lock
from pipeline.tracking.reading import Point
from pipeline.tracking.states import Input
from pipeline.tracking.view import VIEW, VIEW_TAG, saved_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run

WORKFLOW, KEY, CONTENT = "graftune.workflow", "graftune.key", "graftune.content"
STATUS = {
    "submitted": "SCHEDULED",
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
# Read by MLflow when it is imported. A server that does not answer must not be waited for: the
# follower tries again by itself, and nothing is lost meanwhile.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# Answers that trying again does not mend.
REFUSALS = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
SQLITE = "sqlite:///"


class StoreAwayError(PipelineError):
    """MLflow cannot be reached now."""


class StoreRefusedError(PipelineError):
    """MLflow refused what it was told."""


@dataclass
class Logged:
    """A run as MLflow has it.

    Attributes:
        run_id: MLflow's id.
        status: MLflow's status.
        tags, params: What it holds.
    """

    run_id: str
    status: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)


class Store:
    """An MLflow experiment, made where it does not exist.

    Args:
        uri: MLflow's tracking URI.
        experiment: The experiment's name.
        beat: Called after everything that was logged.

    Raises:
        StoreAwayError: If it cannot be reached.
    """

    def __init__(self, uri: str, experiment: str, beat: Callable[[], None] = lambda: None):
        self.uri, self.beat = uri, beat
        with self._calling(), _creation_lock(uri):
            self.client = _client(uri)
            self.experiment = self._experiment(experiment)

    def runs(self, workflow: str) -> list[Logged]:
        """Every run of a results folder, oldest first."""
        found: list[Run] = []
        token = None
        while True:
            with self._calling():
                page = self.client.search_runs(
                    [self.experiment],
                    f"tags.`{WORKFLOW}` = '{workflow}'",
                    max_results=1000,
                    order_by=["attributes.start_time ASC"],
                    page_token=token,
                )
            found.extend(page)
            token = page.token
            if not token:
                return [
                    Logged(run.info.run_id, run.info.status, dict(run.data.tags), dict(run.data.params))
                    for run in found
                ]

    def create(self, name: str, tags: Mapping[str, str], started: int) -> Logged:
        """Start a run."""
        tags = _cut_tags({"mlflow.user": _user(), "mlflow.source.type": "JOB", **tags})
        with self._calling():
            run = self.client.create_run(self.experiment, started, tags, name)
        return Logged(run.info.run_id, run.info.status, dict(tags))

    def log(self, run: Logged, points: Sequence[Point], params: Mapping[str, str]) -> None:
        """Add metrics and parameters, in the largest pieces that MLflow takes."""
        from mlflow.entities import Metric, Param
        from mlflow.utils.validation import (
            MAX_METRICS_PER_BATCH,
            MAX_PARAM_VAL_LENGTH,
            MAX_PARAMS_TAGS_PER_BATCH,
        )

        for names in _pieces(list(params), MAX_PARAMS_TAGS_PER_BATCH):
            values = [Param(_key(name), params[name][:MAX_PARAM_VAL_LENGTH]) for name in names]
            with self._calling():
                self.client.log_batch(run.run_id, params=values)
        for piece in _pieces(points, MAX_METRICS_PER_BATCH):
            metrics = [Metric(_key(point.name), point.value, point.time, point.epoch) for point in piece]
            with self._calling():
                self.client.log_batch(run.run_id, metrics)

    def log_inputs(self, run: Logged, inputs: Mapping[str, Input]) -> None:
        """Note what a run was made from, by role, without reading it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        datasets = [
            DatasetInput(
                Dataset(given.name, given.digest[:36], "local", role),
                [InputTag("mlflow.data.context", role)],
            )
            for role, given in inputs.items()
        ]
        with self._calling():
            self.client.log_inputs(run.run_id, datasets)

    def log_figure(self, run: Logged, figure: "Figure", name: str) -> None:
        """Keep a figure with a run."""
        with self._calling():
            self.client.log_figure(run.run_id, figure, name)

    def log_file(self, run: Logged, path: Path) -> None:
        """Keep a file with a run."""
        with self._calling():
            self.client.log_artifact(run.run_id, str(path))

    def tag(self, run: Logged, tags: Mapping[str, str]) -> None:
        """Set those tags that differ."""
        from mlflow.entities import RunTag

        tags = _cut_tags(tags)
        changed = {name: value for name, value in tags.items() if run.tags.get(name) != value}
        if changed:
            with self._calling():
                self.client.log_batch(run.run_id, tags=[RunTag(*tag) for tag in changed.items()])
            run.tags.update(changed)

    def set_outcome(self, run: Logged, outcome: str, ended: int) -> None:
        """Set the status that stands for an outcome, where it differs."""
        status = STATUS[outcome]
        if run.status == status:
            return
        with self._calling():
            if outcome in ("submitted", "running"):
                self.client.update_run(run.run_id, status=status)
            else:
                self.client.set_terminated(run.run_id, status, ended)
        run.status = status

    def delete(self, run: Logged) -> None:
        """Remove a run from view."""
        with self._calling():
            self.client.delete_run(run.run_id)

    def address(self, host: str) -> str:
        """Where a server at `host` shows the experiment's runs."""
        query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
        return f"{host}/#/experiments/{self.experiment}/runs?{query}"

    def _experiment(self, name: str) -> str:
        """The id of the experiment `name`."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                place = _artifacts(self.uri)
                return self.client.create_experiment(name, place, tags={VIEW_TAG: saved_view()})
            except MlflowException as error:
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise error
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        if VIEW_TAG not in found.tags:
            self.client.set_experiment_tag(found.experiment_id, VIEW_TAG, saved_view())
        return str(found.experiment_id)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Turn what MLflow raises into `StoreAwayError` or `StoreRefusedError`."""
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except MlflowException as error:
            kind = StoreRefusedError if error.error_code in REFUSALS else StoreAwayError
            raise kind(f"{self.uri}: {str(error).splitlines()[0][:200]}") from error
        except (RequestException, SQLAlchemyError, OSError) as error:
            raise StoreAwayError(f"{self.uri}: {error}") from error
        self.beat()


def _client(uri: str) -> "MlflowClient":
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(uri, uri)


def _database(uri: str) -> Path | None:
    """The file behind a SQLite URI."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def _creation_lock(uri: str) -> AbstractContextManager[None]:
    """MLflow fails where two processes make the tables of one SQLite file at once."""
    database = _database(uri)
    return writer_lock(database.with_name(f"{database.name}.lock")) if database else nullcontext()


def _artifacts(uri: str) -> str | None:
    """Where figures and files go: beside a SQLite file, else where the server says."""
    database = _database(uri)
    return (database.parent / "mlartifacts").resolve().as_uri() if database else None


def _key(name: str) -> str:
    """`name` with what MLflow does not allow in keys replaced, and cut to its length."""
    return re.sub(r"[^\w./: -]", "_", name)[:250]


def _cut_tags(tags: Mapping[str, str]) -> dict[str, str]:
    from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

    return {name: value[:MAX_TAG_VAL_LENGTH] for name, value in tags.items()}


def _pieces(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
