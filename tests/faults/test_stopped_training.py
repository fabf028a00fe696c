"""Training that is killed, or stopped by SIGTERM, ends with the bits of training that was left alone."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import snnbench.train
from snnbench.checkpoint import load_tensors
from snnbench.preemption import Preempted, noticed
from snnbench.record import read_record
from snnbench.train import MODEL_FILE, RESUME_FILE, best_so_far, fit
from tests.commands import snnbench as command
from tests.commands import start, wait_for
from tests.faults.fuzz import ROOT
from tests.faults.training import SPEC, STEPS, TRAIN, VALID
from tests.tiny_data import make_samples, write_dataset

CPU = torch.device("cpu")


def outcome(folder: Path) -> tuple[bytes, list[list[str]], dict[str, Any]]:
    """Best weights, figures of every epoch but times, and the whole last state."""
    with open(folder / "history.csv", newline="") as file:
        rows = [
            [value for name, value in row.items() if "second" not in name and "per_s" not in name]
            for row in csv.DictReader(file)
        ]
    state = load_tensors(folder / RESUME_FILE).tensors
    values = {name: t.numpy().tobytes() for name, t in state.items()}
    return (folder / MODEL_FILE).read_bytes(), rows, values


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    fit(SPEC, TRAIN, VALID, folder=folder, device=CPU)
    return folder


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, undisturbed: Path, kills: int):
    draw, done, killed = random.Random(1), 0, 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.training", str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        # no finished epoch is lost: at most the one that was under way
        assert process.stdout.readline().split() == ["begins", str(done)]
        left = draw.randrange(1, 2 * STEPS) if killed < kills else -1
        for line in process.stdout:
            if line.startswith("epoch"):
                done = int(line.split()[1])
            left -= line == "step\n"
            if left == 0:
                time.sleep(draw.uniform(0, 0.01))
                process.kill()
                killed += 1
        process.stdout.close()
        if process.wait() == 0:
            break
        # what was told before the kill is on disk; what was saved after it counts, too
        if (tmp_path / RESUME_FILE).exists():
            saved = len(load_tensors(tmp_path / RESUME_FILE).extra["history"])
            assert done <= saved <= done + 1
            done = saved
        if done == SPEC.train.epochs and killed < kills:
            # begin again, so that all kills meet a training
            assert outcome(tmp_path) == outcome(undisturbed)
            for path in tmp_path.iterdir():
                path.unlink()
            done = 0
    assert killed == kills
    assert outcome(tmp_path) == outcome(undisturbed)
    assert not list(tmp_path.glob("*.tmp*"))


def stopped(folder: Path, after: int, what: Callable[[], None]) -> None:
    """Train on, doing `what` after so many steps."""
    steps = iter(range(1, 10**6))
    fit(
        SPEC,
        TRAIN,
        VALID,
        folder=folder,
        device=CPU,
        resume=True,
        on_batch=lambda report: what() if next(steps) == after else None,
    )


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 20))]
)
def test_sigterm_stops_after_the_step(tmp_path: Path, undisturbed: Path, seed: int):
    """Again and again, until nothing is left: after 1 to 7 steps each."""
    draw, total = random.Random(seed), 0
    while total < STEPS * SPEC.train.epochs - 7:
        steps = draw.randrange(1, STEPS + 2)
        with noticed(), pytest.raises(Preempted):
            stopped(tmp_path, steps, lambda: signal.raise_signal(signal.SIGTERM))
        total += steps
        saved = load_tensors(tmp_path / RESUME_FILE).extra
        under_way = saved["pass"]["steps"] if saved["pass"] else 0
        assert len(saved["history"]) * STEPS + under_way == total, "a step was lost"
    fit(SPEC, TRAIN, VALID, folder=tmp_path, device=CPU, resume=True)
    assert outcome(tmp_path) == outcome(undisturbed)


def test_sigterm_during_validation_loses_no_step(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
):
    real = snnbench.train.predict_loader

    def stopped_here(*arguments: Any) -> Any:
        monkeypatch.setattr(snnbench.train, "predict_loader", real)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(snnbench.train, "predict_loader", stopped_here)
    with noticed(), pytest.raises(Preempted):
        fit(SPEC, TRAIN, VALID, folder=tmp_path, device=CPU)
    saved = load_tensors(tmp_path / RESUME_FILE).extra
    assert (saved["history"], saved["pass"]["steps"]) == ([], STEPS)
    with pytest.raises(snnbench.train.SnnbenchError, match="has no finished epoch yet"):
        best_so_far(tmp_path)
    fit(SPEC, TRAIN, VALID, folder=tmp_path, device=CPU, resume=True)
    assert outcome(tmp_path) == outcome(undisturbed)


def test_a_long_epoch_is_saved_on_the_way(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(snnbench.train, "_SAVE_EVERY_S", 0.0)

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        stopped(tmp_path, STEPS + 3, kill)
    # the third step of the second epoch was told before it could be saved
    assert load_tensors(tmp_path / RESUME_FILE).extra["pass"]["steps"] == 2
    fit(SPEC, TRAIN, VALID, folder=tmp_path, device=CPU, resume=True)
    assert outcome(tmp_path) == outcome(undisturbed)


# ---------------------------------------------------------------- the commands

QUICK = ("--set", "model.hidden=[16]", "--set", "train.epochs=8", "--set", "train.batch_size=16")


def data_file(folder: Path) -> Path:
    splits = {
        "train": [*make_samples("train", 100, 0), *make_samples("more", 100, 1)],
        "valid": make_samples("valid", 20, 2),
        "test": make_samples("test", 20, 3),
    }
    return write_dataset(folder / "data.h5", splits)


def assert_stopped_by_sigterm(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, ""), err
    assert err.rstrip().endswith("stopped by SIGTERM; run the same command again to continue")
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", ["train", "bench"])
def test_the_same_command_goes_on_after_sigterm(tmp_path: Path, verb: str):
    data, runs = data_file(tmp_path), tmp_path / "runs"
    many = ("--seeds", 2, "--workers", 2) if verb == "bench" else ()
    arguments = [verb, "hd", "ff-lif", "--data", data, *many, *QUICK, "--no-track", "--out"]
    process = start(*arguments, runs)
    n = 2 if many else 1
    wait_for(lambda: len(list(runs.glob("*/history.csv"))) == n, process)
    os.kill(process.pid, signal.SIGTERM)
    assert_stopped_by_sigterm(process)
    assert not list(runs.glob("*/record.json"))
    assert not [p for p in runs.rglob("*") if ".tmp" in p.name]
    assert command(*arguments, runs).code == 0
    assert command(*arguments, tmp_path / "undisturbed").code == 0
    folders = sorted(runs.iterdir())
    assert len(folders) == n
    for folder in folders:
        other = tmp_path / "undisturbed" / folder.name
        assert outcome(folder) == outcome(other)
        records = [read_record(f / "record.json") for f in (folder, other)]
        assert records[0].predictions_sha256 == records[1].predictions_sha256


def test_sigterm_stops_a_conversion(tmp_path: Path):
    out = tmp_path / "randman.h5"
    process = start("data", "convert", "randman", "--out", out, "--workers", 2)
    wait_for(lambda: any("randman" in p.name for p in tmp_path.iterdir()), process)
    os.killpg(process.pid, signal.SIGTERM)  # as a batch system does: to everybody
    assert_stopped_by_sigterm(process)
    assert not out.exists()
