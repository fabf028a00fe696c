"""A clock that is a day off, or jumps: the same order, the same results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snnbench.record import read_record
from tests.commands import ROOT
from tests.tiny_data import write_dataset

SHIM = """
import os, time

real, off, started = time.time, float(os.environ["CLOCK_OFF_S"]), time.time()

def wrong():
    # jumps back by a day half a second after the start
    now = real()
    return now + off - (86_400 if os.environ["CLOCK_JUMPS"] == "1" and now > started + 0.5 else 0)

time.time, time.time_ns = wrong, lambda: int(wrong() * 1e9)
"""
"""As sitecustomize.py it runs first in every Python process. The monotonic clock stays right."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim/sitecustomize.py").write_text(SHIM)
    return write_dataset(tmp_path / "data.h5")


def bench(data: Path, out: Path, off_s: int, *, jumps: bool = False, faketime: bool = False) -> str:
    arguments = ["bench", "hd", "ff-lif", "--data", data, "--seeds", 1, "--out", out, "--json"]
    quick = ("--set", "model.hidden=[16]", "--set", "train.epochs=2")
    path = os.pathsep.join([str(data.parent / "shim"), os.environ.get("PYTHONPATH", "")])
    clock = {"CLOCK_OFF_S": str(off_s), "CLOCK_JUMPS": str(int(jumps)), "PYTHONPATH": path}
    under = ["faketime", "-f", f"{off_s:+d}"] if faketime else []
    env = {**os.environ, **({} if faketime else clock)}
    python = [*under, sys.executable]
    told = subprocess.run(
        [*python, "-c", "import time; print(time.time())"], env=env, capture_output=True, text=True
    )
    assert abs(float(told.stdout) - time.time() - off_s) < 60, "the clock is right"
    done = subprocess.run(
        [*python, "-m", "snnbench", *map(str, [*arguments, *quick])],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    [run] = out.iterdir()
    record = read_record(run / "record.json")
    assert record.wall_s > 0
    assert all(epoch.seconds > 0 for epoch in record.history)
    weights = (run / "model.safetensors").read_bytes()
    facts = (record.test, record.validation, record.chosen_epoch, record.predictions_sha256)
    return repr((weights, facts, [e.loss for e in record.history], run.name))


def test_the_clock_is_a_day_ahead_and_jumps_back(data: Path, tmp_path: Path):
    right = bench(data, tmp_path / "right", 0)
    assert bench(data, tmp_path / "ahead", 86_400, jumps=True) == right


@pytest.mark.slow
@pytest.mark.parametrize("off_s", [86_400, -86_400])
def test_the_clock_of_all_libraries_is_a_day_off(data: Path, tmp_path: Path, off_s: int):
    if not shutil.which("faketime"):
        pytest.skip("needs faketime (Debian: apt install faketime)")
    right = bench(data, tmp_path / "right", 0)
    assert bench(data, tmp_path / "off", off_s, faketime=True) == right
