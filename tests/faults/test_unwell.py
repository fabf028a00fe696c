"""Training that goes wrong by itself: infinite loss, dead and saturated networks, no memory left."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from snnbench.cli.run import summary_facts
from snnbench.memory import OutOfMemory, out_of_memory_told
from snnbench.models.network_base import Network
from snnbench.record import read_record
from snnbench.train import BatchReport, fit
from tests.commands import ROOT, snnbench
from tests.factories import make_record
from tests.tiny_data import write_dataset
from tests.toy_spikes import toy_spec, toy_split

CPU = torch.device("cpu")
TRAIN, VALID = toy_split(90, 1), toy_split(40, 2)
QUICK = ("--set", "model.hidden=[16]", "--set", "train.batch_size=20", "--no-track")


@pytest.mark.parametrize("model", ["ff-lif", "lstm"])
def test_training_diverges_within_a_step(tmp_path: Path, model: str):
    """Weights are no numbers after the second step: the third one ends the run."""
    steps: list[BatchReport] = []

    def spoil(report: BatchReport) -> None:
        steps.append(report)
        if len(steps) == 2:
            network = next(
                o for o in gc.get_objects() if issubclass(type(o), Network) and o.training
            )
            next(network.parameters()).data.fill_(math.nan)

    result = fit(toy_spec(model), TRAIN, VALID, folder=tmp_path, device=CPU, on_batch=spoil)
    assert (result.status, result.epochs_run) == ("diverged", 0)
    assert len(steps) == 2


def test_a_diverged_seed_is_told_and_counted(tmp_path: Path):
    data = write_dataset(tmp_path / "data.h5")
    strong = ("train.activity.upper_strength=3e38", "train.activity.upper=0.0")
    wild = [
        part
        for key in (*strong, "train.epochs=2", "model.input_gain=100")
        for part in ("--set", key)
    ]
    arguments = ["bench", "hd", "ff-lif", "--data", data, "--seeds", 2, "--workers", 1, *QUICK]
    done = snnbench(*arguments, *wild, "--out", tmp_path / "runs")
    assert done.code == 0, done.err
    assert done.err.count("it counts as a seed without a correct prediction") == 2
    assert "A lower train.lr" in done.err
    assert "test accuracy 0.00%" in done.out
    assert "2 seeds" in done.out
    for run in (tmp_path / "runs").iterdir():
        record = read_record(run / "record.json")
        assert (record.status, record.test, record.test_reads) == ("diverged", None, 0)


def test_a_diverged_seed_lowers_the_mean():
    good, bad = make_record(seed=0, accuracy=0.8), make_record(seed=1, status="diverged")
    facts = summary_facts([good, bad])
    assert facts["seeds"] == 2
    assert facts["accuracy"]["mean"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("gain", "told", "remedy"),
    [
        (1e-6, "units are dead", "raise model.input_gain"),
        (1e6, "units are saturated", "lower model.input_gain"),
    ],
)
def test_dead_and_saturated_layers_are_told_once(
    tmp_path: Path, gain: float, told: str, remedy: str
):
    data = write_dataset(tmp_path / "data.h5")
    arguments = ["train", "hd", "ff-lif", "--data", data, *QUICK, "--set", "train.epochs=3"]
    settings = ("--set", f"model.input_gain={gain}", "--set", "model.neuron.threshold=0.1")
    done = snnbench(*arguments, *settings, "--out", tmp_path / "runs")
    assert done.code == 0, done.err
    assert done.err.count(told) == 1
    assert "seed 0, epoch " in done.err
    assert remedy in done.err


# ---------------------------------------------------------------- memory

WITHOUT_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from snnbench.errors import SnnbenchError
from snnbench.train import fit
from tests.toy_spikes import toy_spec, toy_split

def limit(report):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now, now))

spec = toy_spec("rec-lif", model__hidden=[1024], train__batch_size=64, train__dt_s=0.001)
try:
    # none is left when training has begun, as where another process has taken it
    fit(spec, toy_split(64, 1), toy_split(3000, 2), folder=Path(sys.argv[1]),
        device=torch.device("cpu"), on_batch=limit)
except SnnbenchError as error:
    print(type(error).__name__, error)
"""


def test_memory_that_runs_out_while_training_is_told(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(
        "OutOfMemory rec-lif on digits-synthetic: out of memory on cpu, with "
    )
    assert "in use at the peak; training was thought to take " in done.stdout
    assert "--set train.batch_size=32 takes about " in done.stdout


@pytest.mark.parametrize(
    "huge",
    [
        lambda: torch.empty(1 << 60, dtype=torch.uint8),
        lambda: bytearray(1 << 60),
        lambda: torch.zeros(1 << 45),
    ],
)
def test_what_cannot_be_allocated_is_told(huge: Any):
    spec = toy_spec()
    with (
        pytest.raises(OutOfMemory, match=r"out of memory on cpu, with .* in use at the peak"),
        out_of_memory_told(spec, TRAIN, VALID, CPU, "cpp"),
    ):
        huge()


def test_other_errors_are_none_of_memory():
    with (
        pytest.raises(RuntimeError, match="shapes"),
        out_of_memory_told(toy_spec(), TRAIN, VALID, CPU, "cpp"),
    ):
        raise RuntimeError("shapes do not fit")


@pytest.mark.gpu
def test_memory_of_a_gpu_that_runs_out_is_told():
    device = torch.device("cuda")
    with (
        pytest.raises(OutOfMemory, match="out of memory on cuda"),
        out_of_memory_told(toy_spec(), TRAIN, VALID, device, "triton"),
    ):
        torch.empty(1 << 45, device=device)


def test_a_limit_of_the_shell_is_known_beforehand(tmp_path: Path):
    data = write_dataset(tmp_path / "data.h5")
    code = (
        "import resource, sys; from snnbench.cli import main; import torch, numba, h5py, snnbench.train\n"
        "from pathlib import Path\n"
        "now = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 29), now + (1 << 29)))\n"
        "sys.argv = ['snnbench', *sys.argv[1:]]\nmain()"
    )
    large = ("--set", "train.batch_size=4000", "--set", "model.hidden=[512]")
    arguments = ["train", "hd", "ff-lif", "--data", data, "--no-track", *large, "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 1
    assert "free on cpu; take a smaller train.batch_size" in done.stderr
    assert "Traceback" not in done.stderr
