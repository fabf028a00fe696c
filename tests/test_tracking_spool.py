"""What waits in a run folder: whole lines, one user at a time, sent once however often it is tried."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from snnbench.errors import SnnbenchError
from snnbench.record import read_record, write_record
from snnbench.tracking import Tracker
from snnbench.tracking_spool import SPOOL_FILE, Begin, End, Event, Files, Metrics, open_spool
from snnbench.tracking_store import PARENT_KEY, make_client
from snnbench.tracking_view import import_folder, sync_folder
from tests.commands import ROOT, snnbench, strict_json
from tests.factories import make_run_folder
from tests.test_tracking import _closed_port

BEGIN = Begin(
    tracking_uri="http://127.0.0.1:9",
    experiment="hd",
    run_name="a-run",
    token="0" * 32,
    params={"train.lr": "0.001"},
    tags={},
    time_ms=1_000,
)
EVENTS: list[Event] = [
    BEGIN,
    *(
        Metrics(step=n, time_ms=1_000 + n, values={"loss": 1 / n, "bad": float("nan")})
        for n in (1, 2)
    ),
    Files(names=("history.csv",)),
    End(status="FINISHED", time_ms=3_000),
]


def fill(folder: Path, events: list[Event] = EVENTS) -> Path:
    """A run folder in which these wait."""
    folder.mkdir(exist_ok=True)
    (folder / "history.csv").write_text("epoch,loss\n1,1\n2,0.5\n")
    with open_spool(folder, create=True) or contextlib.nullcontext() as spool:
        assert spool is not None
        for event in events:
            spool.append(event)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    with open_spool(fill(tmp_path)) or contextlib.nullcontext() as spool:
        assert spool is not None
        assert repr(spool.read()) == repr(EVENTS)  # nan is not equal to itself


def test_a_torn_last_line_is_dropped_and_the_next_event_is_whole(tmp_path: Path) -> None:
    path = fill(tmp_path) / SPOOL_FILE
    path.write_bytes(path.read_bytes()[:-5])
    with open_spool(tmp_path) or contextlib.nullcontext() as spool:
        assert spool is not None
        spool.append(EVENTS[-1])
        assert repr(spool.read()) == repr(EVENTS)


def test_one_process_uses_a_spool_at_a_time(tmp_path: Path, store: str) -> None:
    with open_spool(fill(tmp_path)) or contextlib.nullcontext():
        with pytest.raises(BlockingIOError):
            open_spool(tmp_path)
        assert sync_folder(tmp_path, store).state == "busy"
    assert sync_folder(tmp_path, store).state == "sent"
    assert open_spool(tmp_path) is None


@pytest.mark.parametrize(
    ("line", "damaged", "told"),
    [
        (2, b"garbage", "line 2: Invalid JSON"),
        (
            3,
            b'{"kind":"metrics","step":1,"time_ms":1,"values":{"loss":"x"}}',
            "line 3, values, loss",
        ),
        (2, b'{"kind":"unheard"}', "line 2: Input tag 'unheard'"),
        (1, EVENTS[1].model_dump_json().encode(), "line 1: a run begins in line 1"),
        (4, BEGIN.model_dump_json().encode(), "line 4: a run begins in line 1"),
        (4, b'{"kind":"files","names":["../../secret"]}', "is not in the run folder"),
        (4, b"\xff\xfe", "line 4"),
    ],
)
def test_a_damaged_spool_is_named_and_kept(
    line: int, damaged: bytes, told: str, tmp_path: Path
) -> None:
    path = fill(tmp_path / "home") / SPOOL_FILE
    lines = path.read_bytes().splitlines()
    lines[line - 1] = damaged
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    done = snnbench("track", "sync", tmp_path)
    assert done.code == 1
    assert f"{path}: not what snnbench wrote" in done.err
    assert told in done.err
    assert path.read_bytes() == before


def test_what_cannot_be_sent_is_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://127.0.0.1:{_closed_port()}"
    fill(tmp_path, [BEGIN.model_copy(update={"tracking_uri": uri}), *EVENTS[1:]])
    done = snnbench("track", "sync", tmp_path)
    assert done.code == 1
    assert f"{tmp_path / SPOOL_FILE}: not sent, and kept: Connection refused" in done.err
    assert len((tmp_path / SPOOL_FILE).read_bytes().splitlines()) == len(EVENTS)


def test_a_run_that_the_store_has_lost_is_not_shown_by_halves(tmp_path: Path, store: str) -> None:
    lost = BEGIN.model_copy(update={"begun": True, "token": "lost"})
    sent = sync_folder(fill(tmp_path, [lost, *EVENTS[1:]]), store)
    assert sent.state == "failed"
    assert "snnbench track import" in sent.problem


KILLED = """
import os, signal, sys
from pathlib import Path
from snnbench.tracking_spool import Spool
from snnbench.tracking_store import Store
from snnbench.tracking_view import sync_folder

left = int(sys.argv[1])
send, remove = Store.send, Spool.remove

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def counted(store, *events):
    global left
    for event in events:
        send(store, event)
        left -= 1
        if left == 0:
            die()

Store.send, Spool.remove = counted, die
sync_folder(Path(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.parametrize("after", [1, 99])
def test_a_sync_that_is_killed_is_done_again_without_anything_twice(
    after: int, tmp_path: Path, store: str
) -> None:
    """Killed after so many events; 99: after all, before the spool is removed."""
    token = f"killed-{after}"
    fill(tmp_path, [BEGIN.model_copy(update={"token": token}), *EVENTS[1:]])
    make_client(store)  # its tables
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(after), str(tmp_path), store], cwd=ROOT
    )
    assert killed.returncode == -signal.SIGKILL
    assert sync_folder(tmp_path, store).state == "sent"
    assert sync_folder(tmp_path, store).state == "there"
    client = make_client(store)
    experiment = client.get_experiment_by_name("hd").experiment_id
    [run] = client.search_runs([experiment], f"tags.`snnbench.token` = '{token}'")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [(1, 1.0, 1_001), (2, 0.5, 1_002)]
    assert len(client.get_metric_history(run.info.run_id, "bad")) == 2
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["history.csv"]
    assert (run.info.status, run.info.end_time) == ("FINISHED", 3_000)


def test_an_unfinished_import_is_completed(tmp_path: Path, store: str) -> None:
    folder = make_run_folder(tmp_path)
    (folder / "history.csv").write_text("epoch,loss,seconds\n1,0.5,2\n2,nan,2\n")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.svg").symlink_to("nothing")  # it ends here, half-way
    done = snnbench("track", "import", folder, "--tracking-uri", store)
    assert (done.code, "a.svg" in done.err) == (1, True)
    (folder / "pictures" / "a.svg").unlink()
    assert import_folder(folder, store).state == "sent"
    assert import_folder(folder, store).state == "there"
    client = make_client(store)
    experiment = client.get_experiment_by_name("hd").experiment_id
    [run] = client.search_runs([experiment], f"tags.`snnbench.run_id` = '{folder.name}'")
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [m.step for m in history] == [1, 2]
    assert history[1].timestamp - history[0].timestamp == 2_000


def test_another_record_of_the_same_run_is_another_view(tmp_path: Path, store: str) -> None:
    folder = make_run_folder(tmp_path, model="rec-lif")
    assert import_folder(folder, store).state == "sent"
    record = read_record(folder / "record.json")
    write_record(folder / "record.json", record.model_copy(update={"wall_s": 1.0}))
    assert import_folder(folder, store).state == "sent"
    client = make_client(store)
    experiment = client.get_experiment_by_name("hd").experiment_id
    assert len(client.search_runs([experiment], f"tags.`snnbench.run_id` = '{folder.name}'")) == 2
    [parent] = client.search_runs([experiment], f"tags.`{PARENT_KEY}` LIKE 'hd-rec-lif-%'")
    assert parent.data.metrics["seeds"] == 1  # the same seed twice is one seed


def test_import_refuses_what_is_not_a_finished_run(tmp_path: Path, store: str) -> None:
    done = snnbench("track", "import", tmp_path, "--tracking-uri", store)
    assert (done.code, "not a finished run folder" in done.err) == (1, True)
    folder = make_run_folder(tmp_path)
    with open(folder / "predictions.npz", "ab") as file:
        file.write(b"x")
    done = snnbench("track", "import", folder, "--tracking-uri", store)
    assert (done.code, f"{folder}/predictions.npz: sha256" in done.err) == (1, True)
    fresh = make_run_folder(tmp_path, seed=5)
    (fresh / "history.csv").write_text("epoch,loss\n1,much\n")
    with pytest.raises(SnnbenchError, match=r"history\.csv: not a table of epochs"):
        import_folder(fresh, store)


def test_sync_looks_below_home_and_finds_nothing(tmp_path: Path) -> None:
    done = snnbench("track", "sync", "--json")
    assert (done.code, strict_json(done.out)) == (0, [])
    assert "nothing waits" in done.err


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("localhost:5000", "is not the address of an MLflow store"),
        ("ftp://host/x", "is not the address of an MLflow store"),
        ("https//host", "is not the address of an MLflow store"),
        ("sqlite:///", "is written sqlite:///FOLDER/FILE"),
        ("sqlite://x.db", "is written sqlite:///FOLDER/FILE"),
    ],
)
def test_a_wrong_address_is_wrong_usage(uri: str, told: str) -> None:
    done = snnbench("track", "sync", "--tracking-uri", uri)
    assert done.code == 2
    assert told in done.err


def test_the_command_that_a_tracker_tells_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = tmp_path / "a run, ü"
    uri = f"http://127.0.0.1:{_closed_port()}"
    with Tracker(
        experiment="hd", run_name="r", params={}, run_dir=folder, tracking_uri=uri
    ) as tracker:
        tracker.epoch(1, {"loss": 1.0})
    [message] = caplog.messages
    words = shlex.split(message.partition("snnbench track sync ")[2])
    assert Path(words[0]) == folder
    assert snnbench("track", "sync", words[0], "--tracking-uri", store).code == 0
    assert not (folder / SPOOL_FILE).exists()
