"""MLflow as a view of runs: parameters, metrics per epoch, the record and pictures.

The record in the run folder is the truth; nothing here may stop a training run. Where MLflow fails
(no server, locked or broken store) one warning is logged, metrics wait in memory and are sent when
it answers again. This is the only module that imports mlflow, and it does so late.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel

from snnbench.paths import home_dir, write_text
from snnbench.record import RunRecord

log = logging.getLogger(__name__)

RUN_FILE = "mlflow.json"
"""In the run folder: which MLflow run shows it, so that a resumed run continues there."""

RETRY_AFTER_S = 60.0
"""After a failure, epochs are kept for so long before MLflow is asked again."""

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what it raises is told once, by us
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for answers
    # mlflow's own defaults keep a training run waiting for minutes when the server is gone
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_STORE_WAIT_S = 30.0
_PARAMS_PER_REQUEST, _METRICS_PER_REQUEST = 100, 1000  # mlflow's limits

_T = TypeVar("_T")


class NullTracker:
    """Tracks nothing: what `--no-track` gives."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one epoch (from 1)."""

    def finish(self, record: RunRecord, artifacts: Sequence[Path] = ()) -> None:
        """Log the record's figures and copy files."""


class Tracker(NullTracker):
    """One MLflow run, as a context manager.

    Leaving it normally marks the run FINISHED, or FAILED where the record says `diverged`; an
    exception marks it FAILED, Ctrl-C or a requested exit KILLED.

    Parameters
    ----------
    experiment
        The MLflow experiment: the task's name.
    run_name
        The run's id, see `RunSpec.run_id`.
    params
        Flat parameters; `flat_params` makes them from a spec.
    tags
        MLflow tags; `mlflow.parentRunId` makes a child run.
    run_dir
        The run folder. Where it holds `mlflow.json`, the MLflow run named there is continued.
    tracking_uri
        Where MLflow keeps runs; `default_uri()` where None.
    """

    def __init__(
        self,
        *,
        experiment: str,
        run_name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str] = {},
        run_dir: Path | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        self._uri = tracking_uri or default_uri()
        self._experiment = experiment
        self._run_name = run_name
        self._params = {key: str(value) for key, value in params.items()}
        self._tags = dict(tags)
        self._run_file = None if run_dir is None else run_dir / RUN_FILE
        self._client: Any = None
        self._run_id: str | None = None
        self._waiting: list[tuple[str, float, int, int]] = []  # key, value, time in ms, step
        self._asked_again_at = 0.0
        self._warned = False
        self._status = "FINISHED"

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None while MLflow could not be reached."""
        return self._run_id

    def __enter__(self) -> Self:
        self._attempt(self._send)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            stopped = issubclass(kind, KeyboardInterrupt | SystemExit)
            self._status = "KILLED" if stopped else "FAILED"
        self._attempt(self._close)

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one epoch (from 1)."""
        self._keep(metrics, step)
        if time.monotonic() >= self._asked_again_at:
            self._attempt(self._send)

    def finish(self, record: RunRecord, artifacts: Sequence[Path] = ()) -> None:
        """Log the record's figures and copy files (the record itself, pictures, weights)."""
        if record.status == "diverged":
            self._status = "FAILED"
        self._keep(_summary(record), record.epochs_run)
        tags = {
            "status": record.status,
            "data_fingerprint": record.data.fingerprint,
            "commit": record.environment.commit or "unknown",
        }

        def send() -> None:
            self._send()
            for key, value in tags.items():
                self._client.set_tag(self._run_id, key, value)
            for path in artifacts:
                self._client.log_artifact(self._run_id, str(path))

        self._attempt(send)

    def _keep(self, metrics: Mapping[str, float], step: int) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._waiting += [(key, float(value), now_ms, step) for key, value in metrics.items()]

    def _attempt(self, action: Callable[[], None]) -> None:
        # mlflow and what lies below raise their own errors, sqlalchemy's, requests' and OSError: any
        # of them costs the view of a run, never the run
        try:
            action()
        except Exception as error:
            self._asked_again_at = time.monotonic() + RETRY_AFTER_S
            if not self._warned:
                self._warned = True
                first_line = (str(error).splitlines() or [""])[0]
                log.warning(
                    "MLflow at %s: %s: %s; the run goes on and its record will be complete",
                    _without_password(self._uri),
                    type(error).__name__,
                    _without_password(first_line)[:300],
                )

    def _open(self) -> None:
        """Create the MLflow run, or take up the one in the run folder; does nothing when open."""
        if self._run_id is not None:
            return
        with warnings.catch_warnings():
            # mlflow 3 configures its tables with an option that SQLAlchemy 2.1 deprecates
            warnings.filterwarnings(
                "ignore", message="The ``noload`` loader strategy", category=DeprecationWarning
            )
            self._client = _client(self._uri)
        run_id = self._earlier_run()
        if run_id is None:
            experiment_id = _experiment_id(self._client, self._experiment, self._uri)
            run_id = self._client.create_run(
                experiment_id, run_name=self._run_name, tags=self._tags
            ).info.run_id
            if self._run_file is not None:
                where = {"tracking_uri": _without_password(self._uri), "run_id": run_id}
                write_text(self._run_file, json.dumps(where, indent=1) + "\n")
        else:
            self._client.update_run(run_id, status="RUNNING")
        self._run_id = run_id

    def _earlier_run(self) -> str | None:
        """Id of the MLflow run in the run folder, where this store still has it."""
        if self._run_file is None or not self._run_file.is_file():
            return None
        from mlflow.exceptions import MlflowException

        try:
            where = json.loads(self._run_file.read_text("utf-8"))
            if where["tracking_uri"] != _without_password(self._uri):
                return None
            info = self._client.get_run(where["run_id"]).info
        except (ValueError, KeyError, TypeError):
            return None  # not a file of ours: the new run's replaces it
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return str(info.run_id) if info.lifecycle_stage == "active" else None

    def _send(self) -> None:
        """Send everything that waits; what was sent waits no longer, also where a later part fails."""
        self._open()
        from mlflow.entities import Metric, Param

        for names in _parts(list(self._params), _PARAMS_PER_REQUEST):
            self._client.log_batch(
                self._run_id, params=[Param(name, self._params[name]) for name in names]
            )
            for name in names:
                del self._params[name]
        for part in _parts(self._waiting, _METRICS_PER_REQUEST):
            self._client.log_batch(self._run_id, metrics=[Metric(*metric) for metric in part])
            del self._waiting[: len(part)]

    def _close(self) -> None:
        self._send()
        self._client.set_terminated(self._run_id, self._status)


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite store in snnbench's home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _local_uri()


def ui_command() -> str:
    """The shell command that shows the runs in a browser; for a server, its address.

    A password in MLFLOW_TRACKING_URI is left out.
    """
    uri = _without_password(default_uri())
    if uri.startswith(("http://", "https://")):
        return uri
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def flat_params(spec: BaseModel) -> dict[str, str]:
    """A spec's values under dotted keys, as `--set` names them: {"train.lr": "0.001", ...}."""

    def walk(prefix: str, value: object) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            yield prefix, str(value)

    return dict(walk("", spec.model_dump(mode="json")))


def _summary(record: RunRecord) -> dict[str, float]:
    """The figures by which runs are compared in MLflow's table."""
    figures: dict[str, float] = {
        "epochs_run": record.epochs_run,
        "n_parameters": record.n_parameters,
        "wall_s": record.wall_s,
        "seconds_per_epoch": record.seconds_per_epoch,
    }
    if record.test is not None:
        figures["test_accuracy"] = record.test.accuracy
    if record.validation is not None:
        figures["chosen_valid_accuracy"] = record.validation.accuracy
    if record.chosen_epoch is not None:
        figures["chosen_epoch"] = record.chosen_epoch
    if record.operations is not None:
        if record.operations.spikes:
            figures["spikes_per_sample"] = sum(record.operations.spikes.values())
        figures["dense_macs"] = record.operations.dense_macs
        figures["effective_acs"] = record.operations.effective_acs
    return figures


def _local_uri() -> str:
    # SQLAlchemy reads % and ? of a path as part of the address
    path = str((home_dir() / "mlflow.db").absolute()).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}"


def _client(uri: str) -> Any:
    """A client of the store, whose tables are made first where it is new."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each retry is a warning
    if not uri.startswith("sqlite:///"):
        return MlflowClient(uri)
    path = Path(unquote(uri.removeprefix("sqlite:///").split("?")[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _one_process(path.with_name(f"{path.name}.lock")):
        # mlflow retries for 100 s to open a file that cannot be opened: find out first
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")
        return MlflowClient(uri)


@contextlib.contextmanager
def _one_process(lock: Path) -> Iterator[None]:
    """Let one process at a time create a store: mlflow's own start is not safe for two."""
    import fcntl

    deadline = time.monotonic() + _STORE_WAIT_S
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
    local = home_dir().absolute() / "mlartifacts" / name if uri == _local_uri() else None
    try:
        return str(client.create_experiment(name, local.as_uri() if local else None))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return str(client.get_experiment_by_name(name).experiment_id)  # another process was first


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def _parts(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
