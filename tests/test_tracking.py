"""MLflow through a real SQLite store, and without a server that answers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snnbench import tracking
from snnbench.record import write_record
from snnbench.tracking import NullTracker, Tracker, send_spool
from snnbench.tracking_spool import SPOOL_FILE
from snnbench.tracking_store import SETTINGS, make_client
from tests.factories import make_record


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch is sent at once, however short."""
    monkeypatch.setattr(tracking, "SEND_EVERY_S", 0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for the tests of this file: a new one costs a second of migrations."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def _tracker(uri: str | None, run_dir: Path, **keys: Any) -> Tracker:
    arguments = {"experiment": "hd", "run_name": "a-run", "params": {"train.lr": 1e-3}, **keys}
    return Tracker(tracking_uri=uri, run_dir=run_dir, **arguments)


def _read(uri: str, run_id: str | None) -> Any:
    return make_client(uri).get_run(run_id)


def _epoch_then(error: type[BaseException], tracker: Tracker) -> None:
    with tracker:
        tracker.epoch(1, {"loss": 1.0})
        raise error


def test_default_store_holds_params_metrics_and_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = tmp_path / "a home, ü"
    monkeypatch.setenv("SNNBENCH_HOME", str(home))
    record = make_record()
    write_record(tmp_path / "record.json", record)
    params = tracking.flat_params(record.spec)
    with Tracker(
        experiment="hd",
        run_name=record.run_id,
        params=params,
        tags={"kind": "test"},
        run_dir=tmp_path,
    ) as tracker:
        for epoch in (1, 2, 3):
            tracker.epoch(epoch, {"loss": 3.0 / epoch, "rate_hz.hidden_1": 7.0})
        tracker.finish(record)

    uri = f"sqlite:///{home}/mlflow.db"
    assert (home / "mlflow.db").is_file()
    assert tracking.ui_command() == f"mlflow ui --backend-store-uri '{uri}'"
    client = make_client(uri)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == record.run_id
    assert client.get_experiment(run.info.experiment_id).name == "hd"
    assert run.data.params == params
    assert params["train.lr"] == "0.001"
    assert params["model.neuron.tau_mem_s"] == "0.02"
    assert [(m.step, m.value) for m in client.get_metric_history(tracker.run_id, "loss")] == [
        (1, 3.0),
        (2, 1.5),
        (3, 1.0),
    ]
    assert record.test is not None
    assert run.data.metrics["test_accuracy"] == record.test.accuracy
    assert run.data.metrics["spikes_per_sample"] == 500.0
    assert run.data.tags["kind"] == "test"
    assert run.data.tags["data_fingerprint"] == record.data.fingerprint
    assert [f.path for f in client.list_artifacts(tracker.run_id)] == ["record.json"]
    (stored,) = (home / "mlartifacts" / "hd").rglob("record.json")
    assert stored.read_bytes() == (tmp_path / "record.json").read_bytes()


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (ValueError, "FAILED")],
)
def test_interrupted_run_has_its_state(
    store: str, error: type[BaseException], status: str, tmp_path: Path
) -> None:
    tracker = _tracker(store, tmp_path)
    with pytest.raises(error):
        _epoch_then(error, tracker)
    run = _read(store, tracker.run_id)
    assert run.info.status == status
    assert {k: v for k, v in run.data.metrics.items() if "system/" not in k} == {"loss": 1.0}


def test_diverged_run_is_failed(store: str, tmp_path: Path) -> None:
    with _tracker(store, tmp_path) as tracker:
        tracker.epoch(1, {"loss": float("nan")})
        tracker.finish(make_record(status="diverged"))
    run = _read(store, tracker.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["status"] == "diverged"
    assert "test_accuracy" not in run.data.metrics


def test_resumed_run_continues_the_same_mlflow_run(store: str, tmp_path: Path) -> None:
    first = _tracker(store, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _epoch_then(KeyboardInterrupt, first)
    with _tracker(store, tmp_path) as second:
        assert _read(store, second.run_id).info.status == "RUNNING"
        second.epoch(2, {"loss": 0.5})
    assert second.run_id == first.run_id
    assert json.loads((tmp_path / "mlflow.json").read_text())["run_id"] == first.run_id
    assert _read(store, first.run_id).info.status == "FINISHED"
    history = make_client(store).get_metric_history(first.run_id, "loss")
    assert [m.step for m in history] == [1, 2]


@pytest.mark.parametrize("what", ["deleted", "unknown", "garbage", "other store"])
def test_lost_mlflow_run_is_replaced(store: str, tmp_path: Path, what: str) -> None:
    with _tracker(store, tmp_path) as first:
        pass
    file = tmp_path / "mlflow.json"
    if what == "deleted":
        make_client(store).delete_run(first.run_id)
    elif what == "unknown":
        where = {**json.loads(file.read_text()), "run_id": "0" * 32, "token": "1" * 32}
        file.write_text(json.dumps(where))
    elif what == "garbage":
        file.write_text("[1")
    else:
        file.write_text(file.read_text().replace("sqlite", "postgresql"))
    with _tracker(store, tmp_path) as second:
        pass
    assert second.run_id not in (None, first.run_id)
    assert json.loads(file.read_text())["run_id"] == second.run_id


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_unreachable_server_costs_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with _tracker(f"http://user:secret@127.0.0.1:{_closed_port()}", tmp_path) as tracker:
        for epoch in range(1, 4):
            tracker.epoch(epoch, {"loss": 1.0})
        tracker.finish(make_record())
    assert tracker.run_id is None
    (warning,) = (r for r in caplog.records if r.levelno >= logging.WARNING)
    assert "Connection refused; the run goes on" in warning.getMessage()
    assert f"snnbench track sync {tmp_path} sends it" in warning.getMessage()
    assert "secret" not in warning.getMessage() + (tmp_path / SPOOL_FILE).read_text()


@pytest.mark.parametrize("broken", ["not a database", "a folder", "no permission"])
def test_broken_store_does_not_stop_training(
    broken: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    store = tmp_path / "mlflow.db"
    if broken == "not a database":
        store.write_bytes(b"not a database, but of some length" * 100)
    elif broken == "a folder":
        store.mkdir()
    else:
        (tmp_path / "file").touch()
        store = tmp_path / "file" / "mlflow.db"
    with _tracker(f"sqlite:///{store}", tmp_path / "run") as tracker:
        tracker.epoch(1, {"loss": 1.0})
        tracker.finish(make_record())
    assert tracker.run_id is None
    assert (tmp_path / "run" / SPOOL_FILE).is_file()
    assert [r.name for r in caplog.records] == ["snnbench.tracking"]


@contextlib.contextmanager
def _broken(store: str) -> Iterator[None]:
    """A store that fails at once; an engine waits 20 s for a lock."""
    path = store.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE metrics RENAME TO away")
        yield
        database.execute("ALTER TABLE away RENAME TO metrics")


def _losses(store: str, tracker: Tracker) -> list[tuple[int, float]]:
    history = make_client(store).get_metric_history(tracker.run_id, "loss")
    return [(m.step, m.value) for m in history]


@pytest.mark.parametrize("later", [False, True])
def test_epochs_wait_after_a_failure_and_are_sent_in_the_end_where_it_is_long_ago(
    later: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    store: str,
    tmp_path: Path,
    every_epoch: None,
) -> None:
    if later:
        monkeypatch.setattr(tracking, "RETRY_AFTER_S", 0.0)
    with _tracker(store, tmp_path) as tracker:
        tracker.epoch(1, {"loss": 3.0})
        with _broken(store):
            tracker.epoch(2, {"loss": 2.0})
        assert [r.name for r in caplog.records] == ["snnbench.tracking"]
        tracker.epoch(3, {"loss": 1.0})
        assert _losses(store, tracker) == [(1, 3.0)]
    expected = [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert _losses(store, tracker) == (expected if later else expected[:1])
    assert (tmp_path / SPOOL_FILE).exists() == (not later)
    assert send_spool(tmp_path, store) == (0 if later else 4)
    assert _losses(store, tracker) == expected
    assert _read(store, tracker.run_id).info.status == "FINISHED"


def test_short_epochs_are_sent_together_and_none_is_lost(store: str, tmp_path: Path) -> None:
    with _tracker(store, tmp_path) as tracker:
        for epoch in range(1, 4):
            tracker.epoch(epoch, {"loss": 1 / epoch})
        assert _losses(store, tracker) == [(1, 1.0)]
    assert _losses(store, tracker) == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


def test_a_resumed_run_sends_what_waits_before_it_goes_on(store: str, tmp_path: Path) -> None:
    first = _tracker(store, tmp_path)
    with _broken(store), pytest.raises(KeyboardInterrupt):
        _epoch_then(KeyboardInterrupt, first)
    assert (tmp_path / SPOOL_FILE).exists()
    with _tracker(store, tmp_path) as second:
        assert not (tmp_path / SPOOL_FILE).exists()
        assert _losses(store, second) == [(1, 1.0)]
        second.epoch(2, {"loss": 0.5})
    assert second.run_id == first.run_id
    assert _losses(store, second) == [(1, 1.0), (2, 0.5)]


def test_a_run_that_is_resumed_without_its_store_waits_in_one_spool(
    store: str, tmp_path: Path
) -> None:
    first = _tracker(store, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _epoch_then(KeyboardInterrupt, first)
    for epoch in (2, 3):
        with _broken(store), _tracker(store, tmp_path) as again:
            again.epoch(epoch, {"loss": 1 / epoch})
    assert send_spool(tmp_path, store)
    assert _losses(store, first) == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
    assert _read(store, first.run_id).info.status == "FINISHED"


def test_more_params_than_one_request_takes(store: str, tmp_path: Path) -> None:
    params = {f"key.{i}": i for i in range(250)}
    with _tracker(store, tmp_path, params=params) as tracker:
        pass
    assert _read(store, tracker.run_id).data.params == {k: str(v) for k, v in params.items()}


def test_no_track_does_nothing(tmp_path: Path) -> None:
    with NullTracker() as tracker:
        tracker.epoch(1, {"loss": 1.0})
        tracker.finish(make_record())
    assert list(tmp_path.iterdir()) == []


def test_ui_command_for_a_server_hides_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host:5000/x")
    assert tracking.ui_command() == "https://host:5000/x"


PROCESS = """
import sys, logging
asked = []
sys.addaudithook(lambda event, _: asked.append(event) if event in
                 ("socket.connect", "socket.getaddrinfo", "socket.sendto") else None)
from snnbench.tracking import Tracker
assert "mlflow" not in sys.modules
sys.stdin.readline()
from pathlib import Path
with Tracker(experiment="hd", run_name="r", params={"a": 1}, run_dir=Path(sys.argv[1])) as tracker:
    tracker.epoch(1, {"loss": 1.0})
assert tracker.run_id is not None
assert not asked, asked
"""


def test_processes_may_create_the_store_together_and_touch_no_network(tmp_path: Path) -> None:
    # outside pytest and CI, where mlflow would send its telemetry
    unset = ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST", "MLFLOW_TRACKING_URI")
    env = {k: v for k, v in os.environ.items() if k not in (*unset, *SETTINGS)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path / f"run-{i}")], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == (0, "", "")
    client = make_client(tracking.default_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'hd'")
    assert len(client.search_runs([experiment.experiment_id])) == 2
