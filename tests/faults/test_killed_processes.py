"""Processes killed with `kill -9`, and one command many times at once: nothing is lost, nothing twice."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from snnbench.record import read_record
from snnbench.study_store import Study, read_study
from tests.commands import start
from tests.faults.test_stopped_training import data_file

SMALL = ("--set", "model.hidden=[8]", "--set", "train.epochs=10", "--no-track")
TRIALS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_file(tmp_path_factory.mktemp("data"))


def bench(data: Path, runs: Path) -> list[object]:
    seeds = ("--seeds", 2, "--workers", 2)
    return ["bench", "hd", "ff-lif", "--data", data, *SMALL, *seeds, "--out", runs]


def sweep(data: Path, studies: Path) -> list[object]:
    # random, so that a trial's values do not depend on which others have ended
    how = ("--sampler", "random", "--pruner", "none", "--trials", TRIALS, "--workers", 2)
    return ["sweep", "run", "hd", "ff-lif", "--data", data, *SMALL, *how, "--out", studies]


def to_its_end(arguments: list[object]) -> float:
    """Seconds that the command takes; it must end well."""
    begun = time.monotonic()
    process = start(*arguments)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return time.monotonic() - begun


def kill_until_done(
    arguments: list[object], span: float, kills: int, after_each: Callable[[], Any]
) -> None:
    """Start the command again and again, and kill it at random moments of the time that it takes, all of
    its processes or the coordinator alone, until it has ended after so many kills."""
    moments = random.Random(3)
    for number in range(kills):
        process = start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=moments.uniform(0.3, 0.9) * span)
        except subprocess.TimeoutExpired:
            if number % 2:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        after_each()
    to_its_end(arguments)


def results(runs: Path) -> dict[int, tuple[Any, ...]]:
    """What does not depend on how often a seed was begun."""
    records = [read_record(path) for path in runs.glob("*/record.json")]
    return {r.spec.seed: (r.test, r.predictions_sha256, r.checkpoint_sha256) for r in records}


def complete(study: Study | None) -> dict[int, tuple[Any, ...]]:
    """Of complete trials, what they tried and came to."""
    return (
        {}
        if study is None
        else {t.number: (t.params, t.accuracy) for t in study.trials if t.state == "complete"}
    )


def study_in(folder: Path) -> Study | None:
    names = [path.stem for path in folder.glob("*.db")]
    return read_study(folder, names[0]) if names else None


class Undisturbed(NamedTuple):
    """What a command comes to that nobody disturbs."""

    seconds: float
    results: dict[int, tuple[Any, ...]]


@pytest.fixture(scope="module")
def bench_alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    runs = tmp_path_factory.mktemp("bench") / "runs"
    seconds = to_its_end(bench(data, runs))
    assert sorted(results(runs)) == [0, 1]
    return Undisturbed(seconds, results(runs))


@pytest.fixture(scope="module")
def sweep_alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    studies = tmp_path_factory.mktemp("sweep")
    seconds = to_its_end(sweep(data, studies))
    found = complete(study_in(studies))
    assert sorted(found) == list(range(TRIALS))
    return Undisturbed(seconds, found)


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_bench_goes_on(
    data: Path, bench_alone: Undisturbed, tmp_path: Path, kills: int
) -> None:
    seen: dict[int, Any] = {}

    def nothing_is_lost() -> None:
        now = results(tmp_path)
        assert seen.items() <= now.items()
        seen.update(now)

    kill_until_done(bench(data, tmp_path), bench_alone.seconds, kills, nothing_is_lost)
    assert results(tmp_path) == bench_alone.results
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_sweep_goes_on(
    data: Path, sweep_alone: Undisturbed, tmp_path: Path, kills: int
) -> None:
    seen: dict[int, Any] = {}

    def nothing_is_lost() -> None:
        now = complete(study_in(tmp_path))
        assert seen.items() <= now.items()
        seen.update(now)

    kill_until_done(sweep(data, tmp_path), sweep_alone.seconds, kills, nothing_is_lost)
    study = study_in(tmp_path)
    assert study is not None
    assert len(complete(study)) == TRIALS == study.finished
    # at most those that ran are begun again, and no trial runs for ever
    assert study.states.get("stopped", 0) <= 2 * kills
    assert set(study.states) <= {"complete", "stopped"}


def workers_of(coordinator: subprocess.Popen[str]) -> list[int]:
    """Its worker processes, as Linux's /proc has them."""
    children = Path(f"/proc/{coordinator.pid}/task/{coordinator.pid}/children")
    found = []
    for pid in children.read_text().split():
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"spawn_main" in command:
            found.append(int(pid))
    return found


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="children are found in Linux's /proc"
)
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", ["bench", "sweep"])
def test_killed_workers_are_replaced(
    data: Path, tmp_path: Path, verb: str, rounds: int, request: pytest.FixtureRequest
) -> None:
    """In each round two workers die under the command; a third might be the last attempt of one job."""
    alone = request.getfixturevalue(f"{verb}_alone")
    for number in range(rounds):
        folder = tmp_path / str(number)
        process = start(*(bench if verb == "bench" else sweep)(data, folder))
        assert kill_workers(process, 2, random.Random(number))
        found = results(folder) if verb == "bench" else complete(study_in(folder))
        assert found == alone.results


def kill_workers(process: subprocess.Popen[str], kills: int, moments: random.Random) -> int:
    """Kill so many workers of a command, at random moments; how many there were when it had ended, well."""
    ended = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < kills and not ended.wait(moments.uniform(1.0, 2.0)):
            if alive := [] if process.poll() is not None else workers_of(process):
                victim = moments.choice(alive)
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        _, err = process.communicate(timeout=300)
    finally:
        ended.set()
        thread.join()
    assert process.returncode == 0, err
    return len(killed)


@pytest.mark.parametrize("n", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_that_begin_the_same_bench_share_its_seeds(
    data: Path, bench_alone: Undisturbed, tmp_path: Path, n: int
) -> None:
    processes = [start(*bench(data, tmp_path)) for _ in range(n)]
    told = [process.communicate(timeout=300) for process in processes]
    assert [p.returncode for p in processes] == [0] * n, told
    assert results(tmp_path) == bench_alone.results
    # no epoch was trained twice: the last states of all bars add up to two seeds of ten epochs
    bars = [re.findall(r"(\d+)/20 ", err) for _, err in told]
    assert sum(int(bar[-1]) for bar in bars if bar) == 20
