"""MLflow as a view of runs: parameters, figures per epoch, the record, pictures and weights.

The record in the run folder is the truth; nothing here may stop or slow a training run. Where MLflow
fails (no server, locked or broken store) the user is told once, and everything from there on waits in
the run folder for `snnbench track sync`. docs/tracking.md says what is shown and where it waits.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import logging
import math
import os
import re
import resource
import shlex
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import unquote

from pydantic import BaseModel

from snnbench.errors import SnnbenchError, UsageError
from snnbench.paths import file_sha256, write_text
from snnbench.record import RunRecord
from snnbench.spec import RunSpec
from snnbench.tracking_spool import (
    SPOOL_FILE,
    Begin,
    End,
    Event,
    Files,
    Metrics,
    Parent,
    Spool,
    Tags,
    open_spool,
)
from snnbench.tracking_store import RECORD, Store, local_uri

log = logging.getLogger(__name__)

RUN_FILE = "mlflow.json"
"""In the run folder: which MLflow run shows it, so that a resumed run continues there."""

SYSTEM_FILE = "system.csv"
"""In the run folder: memory and processor time per epoch."""

SHOWN_FILES = ("record.json", "history.csv", "predictions.npz", "model.safetensors")
"""Of a run folder, besides pictures: what MLflow shows. Nothing of it is a pickle."""

SEND_EVERY_S = 2.0
"""Epochs shorter than this are sent together, so that a quick run is not slowed."""

RETRY_AFTER_S = 60.0
"""A run that ends so long after a failure tries once to send what waits."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


class SystemUse:
    """Memory and processor time of this process, from one look to the next."""

    def __init__(self) -> None:
        self._cpu_s = time.process_time()

    def since(self) -> dict[str, float]:
        """The peak so far, and processor time since the last look."""
        before, self._cpu_s = self._cpu_s, time.process_time()
        return {
            "system/peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "system/cpu_seconds": self._cpu_s - before,
        }


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
        """Show the metrics of one epoch (from 1)."""

    def finish(self, record: RunRecord) -> None:
        """Show the record's figures, and the files of the run folder."""

    def finish_trial(
        self, state: str, figures: Mapping[str, float], step: int, message: str = ""
    ) -> None:
        """Show how a trial of a sweep ended, and the files of its folder."""


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
    run_dir
        The run folder. Where it holds `mlflow.json`, the MLflow run named there is continued.
    tags
        MLflow tags.
    parent
        The MLflow run above this one, which is made where it is not there.
    tracking_uri
        Where MLflow keeps runs; `default_uri()` where None.
    temporary
        Whether the folder has no purpose but to wait, once the run has ended.
    elsewhere
        Whether another process computes, which tells its own memory and processor time with its metrics.
    """

    def __init__(
        self,
        *,
        experiment: str,
        run_name: str,
        params: Mapping[str, object],
        run_dir: Path,
        tags: Mapping[str, str] = {},
        parent: Parent | None = None,
        tracking_uri: str | None = None,
        temporary: bool = False,
        elsewhere: bool = False,
    ) -> None:
        self._uri = tracking_uri or default_uri()
        self._folder = run_dir
        self._begin = Begin(
            tracking_uri=without_password(self._uri),
            experiment=experiment,
            run_name=run_name,
            token=uuid.uuid4().hex,
            params={key: str(value) for key, value in params.items()},
            tags=dict(tags),
            time_ms=_now_ms(),
            parent=parent,
            temporary=temporary,
        )
        self._store: Store | None = None
        self._spool: Spool | None = None
        self._epochs: list[Metrics] = []  # not sent yet
        self._sent_at = -math.inf
        self._failed_at: float | None = None
        self._warned = self._lost = False
        self._status: Status = "FINISHED"
        self._use = None if elsewhere else SystemUse()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None while MLflow could not be reached."""
        return self._store.run_id if self._store else None

    def __enter__(self) -> Self:
        try:
            self._send_what_waits()
            self._store = self._open()
        except Exception as error:
            self._fail(error)
        if self._use is not None:
            self._use = SystemUse()
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
        self._send(End(status=self._status, time_ms=_now_ms()))
        if self._spool is not None:
            self._spool.close()
            self._spool = None
            if time.monotonic() - (self._failed_at or 0) >= RETRY_AFTER_S:
                try:
                    self._send_what_waits()
                except Exception as failure:
                    log.warning("MLflow at %s: %s", without_password(self._uri), in_a_line(failure))
        elif self._begin.temporary and self._failed_at is None:
            remove_temporary(self._folder)

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of one epoch (from 1), and what the process has used of the machine."""
        system = self._use.since() if self._use is not None else {}
        if system:
            self._keep_system(step, system)
        self._epochs.append(Metrics(step=step, time_ms=_now_ms(), values={**metrics, **system}))
        if time.monotonic() - self._sent_at >= SEND_EVERY_S:
            self._send()

    def finish(self, record: RunRecord) -> None:
        """Show the record's figures, and the files of the run folder."""
        if record.status == "diverged":
            self._status = "FAILED"
        self._send(*record_events(record, self._folder, _now_ms()))
        if (self._folder / "record.json").is_file():
            self._send(record_tag(self._folder))

    def finish_trial(
        self, state: str, figures: Mapping[str, float], step: int, message: str = ""
    ) -> None:
        """Show how a trial of a sweep ended, and the files of its folder."""
        if figures:
            self._send(Metrics(step=step, time_ms=_now_ms(), values=figures))
        if state not in ("complete", "pruned"):
            self._status = "FAILED"
        told = {"message": message} if message else {}
        self._send(Tags(values={"status": state, **told}))
        self._send(Files(names=shown_files(self._folder)))

    def _open(self) -> Store:
        """Make the MLflow run, or take up the one in the run folder."""
        store = Store(self._uri)
        earlier, run_id = run_file(self._folder), None
        if earlier.get("tracking_uri") == self._begin.tracking_uri:
            if token := earlier.get("token"):
                self._begin = self._begin.model_copy(update={"token": token})
            run_id = earlier.get("run_id")
            if run_id is not None and not store.has_run(run_id):
                run_id = None
        if run_id is None:
            # the token first: a process that is killed now finds its MLflow run by it
            write_run_file(self._folder, self._begin, None)
        run_id = store.begin(self._begin, self._folder, run_id=run_id)
        write_run_file(self._folder, self._begin, run_id)
        self._begin = self._begin.model_copy(update={"begun": True})
        return store

    def _send(self, *events: Event) -> None:
        """Send epochs that are kept back, and these events; what cannot be sent goes into the spool."""
        waiting: list[Event] = [*self._epochs, *events]
        self._epochs = []
        # mlflow and what lies below raise their own errors, sqlalchemy's, requests' and OSError: any
        # of them costs the view of a run, never the run
        if self._failed_at is None and self._store is not None:
            try:
                self._store.send(*waiting)
                self._sent_at = time.monotonic()
                return
            except Exception as error:
                self._fail(error)
        if self._spool is not None:
            try:
                for event in waiting:
                    self._spool.append(event)
            except OSError as error:
                self._lose(error)

    def _fail(self, error: Exception) -> None:
        """From here on, events go into the run folder."""
        self._failed_at = time.monotonic()
        folder = shlex.quote(str(self._folder))
        self._warn(error, f"what it should show waits there: snnbench track sync {folder} sends it")
        if self._spool is not None:
            return
        try:
            self._spool = open_spool(self._folder, create=True)
            if self._spool is not None and self._spool.is_empty:
                self._spool.append(self._begin)
        except Exception as failure:
            self._lose(failure)

    def _send_what_waits(self) -> None:
        if (self._folder / SPOOL_FILE).exists():
            send_spool(self._folder, self._uri)

    def _lose(self, error: Exception) -> None:
        if not self._lost:
            self._lost, self._warned = True, False
            folder = shlex.quote(str(self._folder))
            self._warn(error, f"snnbench track import {folder} shows it when it has finished")

    def _warn(self, error: Exception, consequence: str) -> None:
        if self._warned:
            return
        self._warned = True
        log.warning(
            "MLflow at %s: %s; the run goes on and its record will be complete; %s",
            without_password(self._uri),
            in_a_line(error),
            consequence,
        )

    def _keep_system(self, step: int, system: Mapping[str, float]) -> None:
        path = self._folder / SYSTEM_FILE
        try:
            with open(path, "a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if file.tell() == 0:
                    writer.writerow(["epoch", *system])
                writer.writerow([step, *(f"{value:.6g}" for value in system.values())])
        except OSError as error:
            self._warn(error, "memory and processor time are lost")


def send_spool(folder: Path, uri: str) -> int:
    """Send what waits in a run folder and remove the spool; returns the number of events, 0 without one.

    A call that is killed leaves the spool, and the next one sends nothing twice.

    Raises
    ------
    BlockingIOError
        Another process uses the spool.
    SnnbenchError
        It is damaged, or the store has lost the run.
    Exception
        Whatever MLflow raises.
    """
    spool = open_spool(folder)
    if spool is None:
        return 0
    with spool:
        events = spool.read()
        temporary = False
        if events:
            store, (begin, *rest) = Store(uri), events
            assert isinstance(begin, Begin)  # as read() has found
            temporary = begin.temporary
            run_id = store.begin(begin, folder)
            if not temporary:
                here = begin.model_copy(update={"tracking_uri": without_password(uri)})
                write_run_file(folder, here, run_id)
            store.send(*rest)
        spool.remove()
        if temporary:
            remove_temporary(folder)
    return len(events)


def record_events(record: RunRecord, folder: Path, time_ms: int) -> Iterator[Event]:
    """What MLflow is told of a finished run, but for its epochs, its end and its `record_tag`."""
    yield Metrics(step=record.epochs_run, time_ms=time_ms, values=_summary(record))
    yield Tags(
        values={
            "status": record.status,
            "data_fingerprint": record.data.fingerprint,
            "commit": record.environment.commit or "unknown",
        }
    )
    yield Files(names=shown_files(folder))


def record_tag(folder: Path) -> Tags:
    """The record's digest, which comes last: a run that has it shows the whole record."""
    return Tags(values={RECORD: file_sha256(folder / "record.json")})


def shown_files(folder: Path) -> tuple[str, ...]:
    """Files of a run folder that MLflow shows, by their path in it."""
    pictures = sorted(
        path.relative_to(folder).as_posix()
        for path in (folder / "pictures").glob("*")
        if path.suffix in (".svg", ".png") and not path.name.startswith(".")
    )
    return (*(name for name in SHOWN_FILES if (folder / name).is_file()), *pictures)


def remove_temporary(folder: Path) -> None:
    """Remove a trial's folder, but for files that were not written there by a trial."""
    for name in (*shown_files(folder), "resume.safetensors", SYSTEM_FILE, RUN_FILE):
        (folder / name).unlink(missing_ok=True)
    for place in (folder / "pictures", folder, folder.parent):
        with contextlib.suppress(OSError):  # not there, or not empty
            place.rmdir()


def bench_parent(spec: RunSpec) -> Parent:
    """The MLflow run above all seeds of this run."""
    params = flat_params(spec)
    del params["seed"]
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:16]
    name = f"{spec.task.name}-{spec.model.name}"
    return Parent(kind="bench", key=f"{name}-{digest}", name=name, params=params)


def seed_tracker(spec: RunSpec, folder: Path, tracking_uri: str | None = None) -> Tracker:
    """The tracker of one seed."""
    return Tracker(
        experiment=spec.task.name,
        run_name=spec.run_id,
        params=flat_params(spec),
        run_dir=folder,
        tags=seed_tags(spec),
        parent=bench_parent(spec),
        tracking_uri=tracking_uri,
    )


def seed_tags(spec: RunSpec) -> dict[str, str]:
    """Tags of a seed's MLflow run from its beginning."""
    return {"kind": "seed", "synthetic": str(spec.task.synthetic)}


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite store in snnbench's home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or local_uri()


def checked_uri(uri: str) -> str:
    """A tracking address as a user gives it, a database file's path made absolute.

    Raises
    ------
    UsageError
        It is not an address that MLflow knows.
    """
    scheme, colon, rest = uri.partition("://")
    dialect = scheme.partition("+")[0]
    if not colon or dialect not in ("http", "https", "sqlite", "postgresql", "mysql", "mssql"):
        raise UsageError(
            f"--tracking-uri {without_password(uri)}: is not the address of an MLflow store; it begins"
            " with http:// or https:// (a server), sqlite:/// (a file), postgresql://, mysql:// or mssql://"
        )
    if scheme == "sqlite":
        path, mark, options = rest.removeprefix("/").partition("?")
        if not rest.startswith("/") or not unquote(path):
            raise UsageError(
                f"--tracking-uri {uri}: a database file is written sqlite:///FOLDER/FILE"
            )
        return f"sqlite:///{Path(path).absolute()}{mark}{options}"
    return uri


def ui_command() -> str:
    """The shell command that shows the runs in a browser; for a server, its address.

    A password in MLFLOW_TRACKING_URI is left out.
    """
    uri = without_password(default_uri())
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


def run_file(folder: Path) -> dict[str, str | None]:
    """Content of a run folder's mlflow.json: tracking_uri, token, run_id; empty without a readable one."""
    try:
        content = json.loads((folder / RUN_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}  # not a file of ours: the new run's replaces it
    return {str(k): v for k, v in content.items() if isinstance(v, str)}


def write_run_file(folder: Path, begin: Begin, run_id: str | None) -> None:
    """Note in a run folder which MLflow run shows it."""
    content = {"tracking_uri": begin.tracking_uri, "token": begin.token, "run_id": run_id}
    write_text(folder / RUN_FILE, json.dumps(content, indent=1) + "\n")


def without_password(text: str) -> str:
    """An address, or a text with addresses, without user and password."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def in_a_line(error: BaseException) -> str:
    """An error of whatever library in one line, without a password; where the system refused, its word."""
    if isinstance(error, SnnbenchError):
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            named = f"{cause.filename}: " if cause.filename else ""
            return f"{named}{cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    first = (str(error).splitlines() or [""])[0]
    return without_password(f"{type(error).__name__}: {first}")[:300]


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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
