"""Several processes and one sweep: in a SQLite file one after another, on a PostgreSQL server together."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snnbench.errors import SnnbenchError, UsageError
from snnbench.study_store import checked_storage, read_study, running_study, study_names
from snnbench.sweep import Progress
from tests.commands import snnbench
from tests.postgres_server import PostgresServer, programs
from tests.sweep_process import HANGS, SWEEP, said, start
from tests.test_sweep import by_number, run, toy_sweep

PASSWORD = "kept-to-myself"


def end(processes: list[Any], folder: Path) -> None:
    """Wait until all have ended well."""
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0] * len(processes), said(folder)


def until(condition: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, said(folder)
        time.sleep(0.1)


@pytest.mark.parametrize(("n", "each"), [(3, 3), pytest.param(8, 50, marks=pytest.mark.slow)])
def test_processes_with_one_file(n: int, each: int, tmp_path: Path) -> None:
    """Each wants some trials more than the one before, and waits for its turn."""
    end([start(tmp_path, each * (i + 1), wait=True) for i in range(n)], tmp_path)
    study = read_study(tmp_path, SWEEP.name)
    assert study.states == {"complete": n * each}
    assert [t.number for t in by_number(study)] == list(range(n * each))
    alone = by_number(run(SWEEP, tmp_path / "one", 2 * each, sampler="random"))
    assert by_number(study)[: 2 * each] == alone


def test_without_waiting_a_second_process_is_told(tmp_path: Path) -> None:
    refused: list[str] = []

    def second(progress: Progress) -> None:
        if not refused:
            with pytest.raises(SnnbenchError) as error:
                run(SWEEP, tmp_path, 99)
            refused.append(str(error.value))

    run(SWEEP, tmp_path, 1, on_progress=second)
    assert "another process is running this sweep; --wait waits until it has ended" in refused[0]


# --- on a server


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg", reason="needs psycopg, snnbench[postgres]")
    if programs() is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    server = PostgresServer(PASSWORD)
    yield server
    server.close()


def test_several_coordinators(server: PostgresServer, tmp_path: Path) -> None:
    """One is killed with a trial that never ends; others do all that is left, that one, too."""
    storage = checked_storage(server.url)

    def states() -> dict[str, int]:
        return read_study(tmp_path, SWEEP.name, storage).states

    doomed = start(tmp_path, 20, storage=storage, hang=2)
    until((tmp_path / HANGS).exists, tmp_path)
    others = [start(tmp_path, 20, storage=storage) for _ in range(2)]
    until(lambda: states()["complete"] >= 19, tmp_path)
    # its heart beats: for longer than the others would wait for a dead one, it is left alone
    time.sleep(4)
    assert states() == {"complete": 19, "running": 1}
    doomed.kill()
    end(others, tmp_path)
    assert PASSWORD not in said(tmp_path)

    study = read_study(tmp_path, SWEEP.name, storage)
    assert study.states == {"complete": 20, "stopped": 1}
    assert [t.number for t in by_number(study)] == list(range(21))
    params = Counter(str(t.params) for t in study.trials if t.state == "complete")
    assert set(params.values()) == {1}
    [stopped] = [t for t in study.trials if t.state == "stopped"]
    [again] = [t for t in study.trials if t.params == stopped.params and t.state == "complete"]
    assert again.number == 20
    # values, seeds and so results are those of one process on one file
    alone = by_number(run(SWEEP, tmp_path / "one", 20, sampler="random"))
    assert [
        t._replace(number=0) for t in by_number(study) if t.number not in (stopped.number, 20)
    ] == [t._replace(number=0) for t in alone if t.number != stopped.number]
    assert again.accuracy == alone[stopped.number].accuracy
    assert list(tmp_path.glob("*.db")) == []


@pytest.mark.slow
def test_eight_coordinators(server: PostgresServer, tmp_path: Path) -> None:
    storage = checked_storage(server.url)
    end([start(tmp_path, 400, storage=storage) for _ in range(8)], tmp_path)
    study = read_study(tmp_path, SWEEP.name, storage)
    assert study.states == {"complete": 400}
    assert [t.number for t in by_number(study)] == list(range(400))
    assert len({str(t.params) for t in study.trials}) == 400


def test_commands_on_a_server(server: PostgresServer, tmp_path: Path) -> None:
    name = "digits-synthetic-none-0123456789"
    assert name not in study_names(tmp_path, checked_storage(server.url))
    for arguments in (["show", name], ["show"], ["export", name, "--out", tmp_path / "t.csv"]):
        done = snnbench("sweep", *arguments, "--storage", server.url)
        assert done.code == (0 if arguments == ["show"] else 2)
        assert PASSWORD not in done.out + done.err
    wrong = snnbench("sweep", "show", "--storage", server.url.replace(PASSWORD, "guessed"))
    assert wrong.code == 1
    assert f"postgresql://127.0.0.1:{server.port}/studies: cannot be used as a study: " in wrong.err
    assert "password authentication failed" in wrong.err
    assert "guessed" not in wrong.err


def test_a_server_that_is_gone_for_a_while(
    server: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sweep waits with a message, and goes on as if nothing had been."""
    storage = checked_storage(server.url)

    sweep, restarts = toy_sweep(train__epochs=2, train__lr=0.01), []

    def stop(progress: Progress) -> None:
        if (progress.finished, progress.epoch) == (1, 1):
            server.stop()
            restarts.append(threading.Timer(1.5, server.start))
            restarts[0].start()

    study = run(sweep, tmp_path, 3, storage=storage, sampler="random", on_progress=stop)
    restarts[0].join()
    assert study.states == {"complete": 3}
    assert [m for m in caplog.messages if "does not answer; waiting for it" in m]
    assert PASSWORD not in caplog.text
    alone = by_number(run(sweep, tmp_path / "one", 3, sampler="random"))
    assert by_number(study) == alone


def test_a_trial_without_a_single_heartbeat_is_done_again(
    server: PostgresServer, tmp_path: Path
) -> None:
    """Of a process that was killed at the moment between."""
    import optuna

    sweep, storage = toy_sweep(train__epochs=1, train__lr=0.02), checked_storage(server.url)
    with running_study(tmp_path, sweep.name, storage, objectives=1):
        pass
    store = optuna.storages.RDBStorage(storage)
    optuna.load_study(storage=store, study_name=sweep.name).ask()
    store.remove_session()
    store.engine.dispose()
    study = run(sweep, tmp_path, 1, storage=storage, heartbeat_s=1, grace_s=1, timeout_s=60)
    assert study.states == {"stopped": 1, "complete": 1}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///studies.db", r"--storage sqlite:///studies\.db: several processes can share"),
        ("mysql://me:kept-to-myself@host/d", r"--storage mysql://host/d: several processes"),
        ("postgresql://me:kept-to-myself@host", r"--storage postgresql://host/: several"),
        ("kept-to-myself", "--storage: is not an address such as postgresql://USER@HOST"),
    ],
)
def test_another_address_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        checked_storage(url)
    assert PASSWORD not in str(error.value)


def test_a_server_that_was_never_there(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="needs psycopg, snnbench[postgres]")
    done = snnbench("sweep", "show", "--storage", f"postgresql://me:{PASSWORD}@127.0.0.1:9/x")
    assert done.code == 1
    assert "postgresql://127.0.0.1:9/x: cannot be used as a study" in done.err
    assert PASSWORD not in done.err
