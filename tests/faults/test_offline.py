"""`--offline` opens no connection: in processes where the attempt is noted, and ends in an error.

What is noted: names that are looked up, connections, and packets. (When urllib3 is imported it binds a socket
to the loopback to learn whether there is IPv6; nothing is sent.)
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Answer, start
from tests.commands import snnbench as here
from tests.tiny_data import write_dataset

QUICK = ("--set", "model.hidden=[16]", "--set", "train.epochs=1", "--set", "train.batch_size=32")
SERVER = "http://127.0.0.1:9"
"""Nobody listens there; who tries is noted."""

HOOK = """
import os, sys

def forbid(event, arguments):
    names = ("connect", "getaddrinfo", "gethostbyname", "gethostbyaddr", "sendto", "sendmsg")
    of_this_machine = event == "socket.connect" and isinstance(arguments[1], str)
    if event.removeprefix("socket.") in names and not of_this_machine:
        with open(os.environ["SOCKETS_SEEN"], "a") as file:
            file.write(f"{event} {arguments}\\n")
        raise PermissionError(f"a socket was asked for: {event}")

sys.addaudithook(forbid)
"""
"""As sitecustomize.py it runs first in every Python process, those of workers too."""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in which a process started meanwhile notes its sockets."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(HOOK)
    path = tmp_path / "sockets-seen"
    monkeypatch.setenv("SOCKETS_SEEN", str(path))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path / "hook"), os.environ.get("PYTHONPATH", "")])
    )
    return path


def forbidden(*arguments: object) -> Answer:
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return Answer(process.returncode, out, err)


def test_the_hook_sees_sockets(seen: Path):
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "a socket was asked for" in done.stderr
    assert "getaddrinfo" in seen.read_text()


def test_a_download_says_what_is_missing(seen: Path, monkeypatch: pytest.MonkeyPatch):
    for offline in (["--offline", "data", "get", "shd"], ["data", "get", "shd", "--offline"]):
        done = forbidden(*offline)
        assert done.code == 1
        assert "shd: not all is in" in done.err
        assert "shd_train.h5" in done.err
        assert "nothing is fetched offline" in done.err
    assert not seen.exists()
    # without the option it would have tried
    monkeypatch.setenv("SNNBENCH_OFFLINE", "0")
    assert forbidden("data", "get", "shd").code == 1
    assert seen.exists()


def test_a_bench_with_workers_and_a_server_far_away(
    seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SNNBENCH_OFFLINE", "0")  # put back afterwards: --offline sets it
    data = write_dataset(tmp_path / "data.h5")
    arguments = ["bench", "hd", "ff-lif", "--data", data, "--seeds", 2, "--workers", 2, *QUICK]
    done = forbidden("--offline", *arguments, "--tracking-uri", SERVER, "--out", tmp_path / "runs")
    assert done.code == 0, done.err
    assert f"MLflow at {SERVER}: " in done.err
    assert "offline (--offline or SNNBENCH_OFFLINE), no connection is opened" in done.err
    assert "snnbench track sync" in done.err
    runs = sorted((tmp_path / "runs").iterdir())
    assert [(run / "record.json").is_file() for run in runs] == [True, True]
    assert [(run / "unsent.jsonl").is_file() for run in runs] == [True, True]
    refused = here("--offline", "track", "sync", tmp_path / "runs")
    assert (refused.code, "no connection is opened" in refused.err) == (1, True)
    assert not seen.exists(), seen.read_text()


@pytest.mark.slow
def test_what_follows_a_bench(seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SNNBENCH_OFFLINE", "1")
    data, runs = write_dataset(tmp_path / "data.h5"), tmp_path / "runs"
    train = ("train", "hd", "ff-lif", "--data", data, *QUICK, "--out", runs)
    assert forbidden(*train).code == 0  # MLflow's database is a file
    [run] = runs.iterdir()
    assert forbidden("eval", run, "--data", data).code == 0
    assert forbidden("models", "plot", run, "--data", data).code == 0
    added = forbidden("board", "add", run, "--provisional", "--board", tmp_path / "board")
    assert added.code == 0, added.err
    assert forbidden("board", "verify", "--board", tmp_path / "board").code == 0
    assert forbidden("board", "build", "--out", tmp_path / "page").code == 0
    refused = forbidden("track", "import", run, "--tracking-uri", SERVER)
    assert (refused.code, "offline" in refused.err) == (1, True)
    assert not seen.exists(), seen.read_text()
