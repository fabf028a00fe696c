"""Events of a run into an MLflow store. This is the only module that imports mlflow, and it does so late.

Whatever is sent twice is there once: a run and its parent are found by a tag before they are made, a
parameter or tag has one value, a figure has one value at a step, a file one content.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from snnbench.errors import SnnbenchError
from snnbench.metrics import summarise
from snnbench.paths import home_dir, offline
from snnbench.tracking_spool import Begin, End, Event, Files, Metrics, Parent, Tags

TOKEN, PARENT_KEY, RUN_ID = "snnbench.token", "snnbench.parent", "snnbench.run_id"
RECORD = "snnbench.record_sha256"
"""Tag that is set last: a run with it shows the whole record of that digest."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what it raises is told once, by us
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for answers
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # mlflow's own defaults keep a training run waiting for minutes when the server is gone
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
_STORE_WAIT_S = 30.0
_PARAMS_PER_REQUEST, _METRICS_PER_REQUEST = 100, 1000  # mlflow's limits
_PAGE = 1000

_T = TypeVar("_T")


class RunLost(SnnbenchError):
    """The store no longer has a run that was begun in it."""


class Store:
    """A connection to an MLflow store that shows one run at a time, and what can be asked of it.

    mlflow and what lies below raise errors of their own, sqlalchemy's, requests' and OSError; none is
    caught here.

    Parameters
    ----------
    uri
        Address of a server or database, with a password where it needs one.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client = make_client(uri)
        self.run_id: str | None = None
        """MLflow's id of the run that was begun."""
        self._folder = Path()
        self._parent: tuple[Parent, str, str] | None = None  # with its run and experiment
        self._there: set[tuple[int, str]] | None = (
            None  # figures of a run taken up; None: of a new one
        )

    def begin(self, begin: Begin, folder: Path, *, run_id: str | None = None) -> str:
        """Make the MLflow run, or take up the one with this token, and return its id.

        Parameters
        ----------
        begin : the run.
        folder : where its files are.
        run_id : MLflow's id of the run in this store, where it is known.

        Raises
        ------
        RunLost
            `begin.begun` says that the run was there, and it is not.
        """
        experiment_id = _experiment_id(self.client, begin.experiment, self.uri)
        self._folder = folder
        self._parent = None
        with _one_process(home_dir() / "mlflow-parent.lock"):  # two seeds have one parent
            if begin.parent:
                self._parent = (
                    begin.parent,
                    self._parent_run(begin.parent, experiment_id, begin.time_ms),
                    experiment_id,
                )
        found = run_id or self._find(experiment_id, TOKEN, begin.token)
        if found is None and begin.begun:
            raise RunLost(
                f"{folder}: its view is no longer in this MLflow store, so the rest has no place;"
                f" `snnbench track import {folder}` makes the view of a finished run anew"
            )
        self._there = None
        if found is None:
            tags = {**begin.tags, TOKEN: begin.token, RUN_ID: begin.run_name}
            if self._parent:
                tags["mlflow.parentRunId"] = self._parent[1]
            self.run_id = str(
                self.client.create_run(
                    experiment_id, begin.time_ms, tags, begin.run_name
                ).info.run_id
            )
        else:
            self.run_id = found
            if run_id is not None:
                self.client.set_tag(found, TOKEN, begin.token)
            self.client.update_run(found, status="RUNNING")
            self._there = self._figures(found)
        self._send_params(self.run_id, begin.params)
        if self._parent:
            self.client.update_run(self._parent[1], status="RUNNING")
        return self.run_id

    def send(self, *events: Event) -> None:
        """Show what happened in the run that was begun, in this order; figures in a row go together."""
        for kind, group in itertools.groupby(events, type):
            if kind is Metrics:
                self._send_metrics([event for event in group if isinstance(event, Metrics)])
            else:
                for event in group:
                    self._send_one(event)

    def _send_one(self, event: Event) -> None:
        if isinstance(event, Tags):
            self._send_tags(event)
        elif isinstance(event, Files):
            for name in event.names:
                place = Path(name).parent.as_posix()
                self.client.log_artifact(
                    self.run_id, str(self._folder / name), None if place == "." else place
                )
        elif isinstance(event, End):
            self.client.set_terminated(self.run_id, event.status, event.time_ms)
            if self._parent:
                self._summarise(*self._parent, event.time_ms)

    def has_run(self, run_id: str) -> bool:
        """Whether the run with MLflow's id is there, and not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_run(run_id).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return False

    def run_of_record(self, experiment: str, run_name: str, record_sha256: str) -> str | None:
        """MLflow's id of the run that shows the whole record of this digest; None where none does."""
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            return None
        run_id = self._find(found.experiment_id, RECORD, record_sha256)
        return run_id if run_id and self._tag(run_id, RUN_ID) == run_name else None

    def show_in_parent(self, key: str, paths: Sequence[Path], place: str) -> bool:
        """Put files to the run above others that has this key; returns whether there is one."""
        ids = [str(found.experiment_id) for found in self.client.search_experiments()]
        runs = self.client.search_runs(ids, f"tags.`{PARENT_KEY}` = '{key}'", max_results=1)
        for run in runs:
            for path in paths:
                self.client.log_artifact(run.info.run_id, str(path), place)
        return bool(runs)

    def _tag(self, run_id: str, name: str) -> str | None:
        value: str | None = self.client.get_run(run_id).data.tags.get(name)
        return value

    def _find(self, experiment_id: str, tag: str, value: str) -> str | None:
        runs = self.client.search_runs(
            [experiment_id],
            f"tags.`{tag}` = '{value}'",
            max_results=1,
            order_by=["attributes.start_time"],
        )
        return str(runs[0].info.run_id) if runs else None

    def _figures(self, run_id: str) -> set[tuple[int, str]]:
        """(step, key) of all that the run shows already."""
        keys = self.client.get_run(run_id).data.metrics
        return {
            (metric.step, key)
            for key in keys
            for metric in self.client.get_metric_history(run_id, key)
        }

    def _send_params(self, run_id: str, params: Any) -> None:
        from mlflow.entities import Param

        for part in _parts(list(params.items()), _PARAMS_PER_REQUEST):
            self.client.log_batch(run_id, params=[Param(*item) for item in part])

    def _send_metrics(self, events: Sequence[Metrics]) -> None:
        from mlflow.entities import Metric

        there = self._there or ()
        new = [
            Metric(key, value, event.time_ms, event.step)
            for event in events
            for key, value in event.values.items()
            if (event.step, key) not in there
        ]
        for part in _parts(new, _METRICS_PER_REQUEST):
            self.client.log_batch(self.run_id, metrics=part)
            if self._there is not None:
                self._there.update((metric.step, metric.key) for metric in part)

    def _send_tags(self, event: Tags) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(
            self.run_id, tags=[RunTag(key, value) for key, value in event.values.items()]
        )

    def _parent_run(self, parent: Parent, experiment_id: str, time_ms: int) -> str:
        found = self._find(experiment_id, PARENT_KEY, parent.key)
        if found is None:
            tags = {PARENT_KEY: parent.key, "kind": parent.kind}
            found = str(
                self.client.create_run(experiment_id, time_ms, tags, parent.name).info.run_id
            )
        self._send_params(found, parent.params)
        return found

    def _summarise(self, parent: Parent, run_id: str, experiment_id: str, time_ms: int) -> None:
        """Show in the parent what its finished children come to; it is finished when they all are."""
        from mlflow.entities import Metric

        with _one_process(home_dir() / "mlflow-parent.lock"):
            children = self._children(experiment_id, run_id)
            step, figures = _summary(parent, children)
            there = self._figures(run_id)
            new = {key: value for key, value in figures.items() if (step, key) not in there}
            if new:
                metrics = [Metric(key, value, time_ms, step) for key, value in new.items()]
                self.client.log_batch(run_id, metrics=metrics)
            if all(child.info.status != "RUNNING" for child in children):
                self.client.set_terminated(run_id, "FINISHED", time_ms)

    def _children(self, experiment_id: str, run_id: str) -> list[Any]:
        children: list[Any] = []
        token = None
        while True:
            page = self.client.search_runs(
                [experiment_id],
                f"tags.`mlflow.parentRunId` = '{run_id}'",
                max_results=_PAGE,
                page_token=token,
            )
            children += page
            token = page.token
            if not token:
                return children


def make_client(uri: str) -> Any:
    """An MLflow client of the store, whose tables are made first where it is new.

    Raises
    ------
    ConnectionError
        Offline, for everything but a database in a file.
    """
    if offline() and not uri.startswith("sqlite:///"):
        raise ConnectionError("offline (--offline or SNNBENCH_OFFLINE), no connection is opened")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # mlflow 3 configures its tables with an option that SQLAlchemy 2.1 deprecates
        warnings.filterwarnings(
            "ignore", message="The ``noload`` loader strategy", category=DeprecationWarning
        )
        from mlflow.tracking import MlflowClient

        logging.getLogger("urllib3.connectionpool").setLevel(
            logging.ERROR
        )  # each retry is a warning
        if not uri.startswith("sqlite:///"):
            return MlflowClient(uri)
        path = _database(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_process(path.with_name(f"{path.name}.lock")):
            # mlflow retries for 100 s to open a file that cannot be opened: find out first
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
            return MlflowClient(uri)


def store_is_there(uri: str) -> bool:
    """Whether there is a store that may have runs: of a SQLite file, the file."""
    return not uri.startswith("sqlite:///") or _database(uri).is_file()


def local_uri() -> str:
    """The SQLite store in snnbench's home."""
    # SQLAlchemy reads % and ? of a path as part of the address
    path = str((home_dir() / "mlflow.db").absolute()).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}"


def _summary(parent: Parent, children: Sequence[Any]) -> tuple[int, dict[str, float]]:
    """How many children have ended with a result, and what they come to together."""
    if parent.kind == "sweep":
        return _summary_of_trials(children)
    results: dict[str, float] = {}  # by run: the same run shown twice counts once
    for child in children:
        figures, tags = child.data.metrics, child.data.tags
        if "test_accuracy" in figures:
            results[tags.get(RUN_ID, "")] = figures["test_accuracy"]
        elif tags.get("status") == "diverged":
            results[tags.get(RUN_ID, "")] = 0.0  # without a correct prediction
    n = len(results)
    if n == 0:
        return 0, {}
    # in an order that does not depend on which seed was there first
    found = summarise([results[name] for name in sorted(results)])
    figures = {"seeds": float(n), "test_accuracy_mean": found.mean, "test_accuracy_sd": found.sd}
    return n, {key: value for key, value in figures.items() if value == value}


def _summary_of_trials(children: Sequence[Any]) -> tuple[int, dict[str, float]]:
    """Trials that ended by themselves, each with a status of its own, and the best accuracy of them."""
    ended = {c.data.tags.get(RUN_ID, ""): c for c in children if "status" in c.data.tags}
    figures = {"trials": float(len(ended))}
    found = [c.data.metrics.get("chosen_valid_accuracy") for c in ended.values()]
    if accuracies := [accuracy for accuracy in found if accuracy is not None]:
        figures["best_valid_accuracy"] = max(accuracies)
    return len(ended), figures if ended else {}


@contextlib.contextmanager
def _one_process(lock: Path) -> Iterator[None]:
    """Let one process at a time do what is not safe for two: mlflow's own start, making a parent."""
    import fcntl

    deadline = time.monotonic() + _STORE_WAIT_S
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process holds {lock}") from None
                time.sleep(0.05)
        yield


def _experiment_id(client: Any, name: str, uri: str) -> str:
    """Id of the experiment called `name`, which is created where there is none."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    # a local store keeps files beside it; a server knows better where its own go
    local = _beside(uri) / name if uri.startswith("sqlite:///") else None
    try:
        return str(client.create_experiment(name, local.as_uri() if local else None))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return str(client.get_experiment_by_name(name).experiment_id)  # another process was first


def _beside(uri: str) -> Path:
    return _database(uri).absolute().parent / "mlartifacts"


def _database(uri: str) -> Path:
    return Path(unquote(uri.removeprefix("sqlite:///").split("?")[0]))


def _parts(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
