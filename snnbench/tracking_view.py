"""MLflow's view of runs made after the fact: what waits is sent, and run folders are shown anew."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from snnbench.bench import PREDICTIONS_FILE, RECORD_FILE, read_history
from snnbench.errors import SnnbenchError
from snnbench.paths import file_sha256
from snnbench.record import RunRecord, read_record
from snnbench.tracking import (
    SYSTEM_FILE,
    bench_parent,
    default_uri,
    flat_params,
    in_a_line,
    record_events,
    record_tag,
    run_file,
    seed_tags,
    send_spool,
    without_password,
)
from snnbench.tracking_spool import SPOOL_FILE, Begin, End, Metrics, open_spool
from snnbench.tracking_store import Store


class Sent(NamedTuple):
    """What became of one run folder."""

    folder: Path
    state: Literal["sent", "there", "busy", "failed"]
    """`there`: MLflow shows it already; `busy`: the run goes on, or another process sends it."""
    events: int
    problem: str = ""
    """Of a failed one, in words."""


def sync_folder(folder: Path, uri: str | None = None) -> Sent:
    """Send what waits in a run folder, to the store that it was meant for unless one is named.

    The folder keeps what could not be sent; calling again sends nothing twice.
    """
    try:
        n = send_spool(folder, uri or meant_for(folder))
    except BlockingIOError:
        return Sent(folder, "busy", 0)
    except SnnbenchError as error:
        return Sent(folder, "failed", 0, str(error))
    except Exception as error:  # whatever mlflow and what lies below raise
        problem = f"{folder / SPOOL_FILE}: not sent, and kept: {in_a_line(error)}"
        return Sent(folder, "failed", 0, problem)
    return Sent(folder, "sent" if n else "there", n)


def meant_for(folder: Path) -> str:
    """Address of the store that a run folder's spool is for, with a password where we know it.

    Raises
    ------
    SnnbenchError
        The spool is damaged.
    BlockingIOError
        Another process uses it.
    """
    spool = open_spool(folder)
    if spool is None:
        return default_uri()
    with spool:
        events = spool.read()
    begin = events[0] if events else None
    usual = default_uri()
    if not isinstance(begin, Begin) or without_password(usual) == begin.tracking_uri:
        return usual
    return begin.tracking_uri


def import_folder(folder: Path, uri: str) -> Sent:
    """Show a finished run from its folder: record, history, pictures, weights.

    A run that is shown with this record already is left alone; one that is shown in part is completed.

    Raises
    ------
    SnnbenchError
        The folder holds no finished run, or a file that is not its record's.
    Exception
        Whatever MLflow raises.
    """
    from snnbench.train import HISTORY_FILE

    record = read_finished(folder)
    digest = file_sha256(folder / RECORD_FILE)
    store = Store(uri)
    if store.run_of_record(record.spec.task.name, record.run_id, digest):
        return Sent(folder, "there", 0)
    begin = _begin(record, folder, uri, digest)
    end_ms = begin.time_ms + round(1000 * record.wall_s)
    events = [
        *_epochs(folder / HISTORY_FILE, begin.time_ms),
        *_epochs(folder / SYSTEM_FILE, begin.time_ms),
        *record_events(record, folder, end_ms),
        End(status="FAILED" if record.status == "diverged" else "FINISHED", time_ms=end_ms),
        record_tag(folder),
    ]
    store.begin(begin, folder)
    store.send(*events)
    return Sent(folder, "sent", len(events) + 1)


def read_finished(folder: Path) -> RunRecord:
    """The record of a finished run folder whose predictions and weights are the record's.

    Raises
    ------
    SnnbenchError
        There is no record, or a file beside it is another one's.
    """
    from snnbench.train import MODEL_FILE

    if not (folder / RECORD_FILE).is_file():
        raise SnnbenchError(f"{folder}: not a finished run folder, there is no {RECORD_FILE} in it")
    record = read_record(folder / RECORD_FILE)
    expected = {PREDICTIONS_FILE: record.predictions_sha256, MODEL_FILE: record.checkpoint_sha256}
    for name, digest in expected.items():
        path = folder / name
        if path.is_file() and digest is not None and file_sha256(path) != digest:
            raise SnnbenchError(
                f"{path}: sha256 {file_sha256(path)} is not the record's, {digest}; put the run's own"
                " file there"
            )
    return record


def _begin(record: RunRecord, folder: Path, uri: str, digest: str) -> Begin:
    shown = without_password(uri)
    earlier = run_file(folder)
    # a view that was begun while the run went on is completed
    token = earlier.get("token") if earlier.get("tracking_uri") == shown else None
    started = datetime.datetime.fromisoformat(record.started_at)
    return Begin(
        tracking_uri=shown,
        experiment=record.spec.task.name,
        run_name=record.run_id,
        token=token or f"record-{digest}",
        params=flat_params(record.spec),
        tags=seed_tags(record.spec),
        time_ms=round(1000 * started.timestamp()),
        parent=bench_parent(record.spec),
    )


def _epochs(path: Path, started_ms: int) -> Iterator[Metrics]:
    """The rows of a table with a column `epoch`; without `seconds`, times are the start."""
    if not path.is_file():
        return
    try:
        columns = read_history(path)
        epochs = columns.pop("epoch", [])
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise SnnbenchError(f"{path}: not a table of epochs: {error}") from None
    seconds = 0.0
    for row, epoch in enumerate(epochs):
        seconds += columns["seconds"][row] if "seconds" in columns else 0.0
        yield Metrics(
            step=int(epoch),
            time_ms=started_ms + round(1000 * seconds),
            values={name: values[row] for name, values in columns.items()},
        )
