"""The estimate of memory against what training really takes, and what is said where it does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from snnbench.errors import SnnbenchError
from snnbench.memory import (
    ENGINES,
    estimate_memory,
    estimate_training,
    require_memory,
    size_text,
)
from snnbench.models.engines import ENGINES as ENGINE_NAMES
from snnbench.models.engines import Engine, resolve_engine
from tests.commands import ROOT
from tests.toy_spikes import toy_spec, toy_split

CPU = torch.device("cpu")
WIDE: dict[str, Any] = {
    "model__hidden": [512],
    "train__dt_s": 0.001,
    "train__batch_size": 256,
    "train__epochs": 2,
}

# Linux forgets the peak of a process's memory when 5 is written to clear_refs
MEASURE = """
import json, sys, tempfile
from pathlib import Path
import torch
from snnbench.memory import estimate_training
from snnbench.train import fit
from tests.toy_spikes import toy_spec, toy_split

def memory(key):
    [line] = [l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key)]
    return 1024 * int(line.split()[1])

def train(spec, n):
    train, valid = toy_split(n, seed=1), toy_split(n, seed=2)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with tempfile.TemporaryDirectory() as folder:
        fit(spec, train, valid, folder=Path(folder), device=torch.device("cpu"), engine=engine)
    return memory("VmHWM") - before, estimate_training(spec, train, valid, "cpu", engine).total

engine, settings = json.loads(sys.argv[1])
# what is loaded and compiled once belongs to no run
train(toy_spec("rec-lif", train__recompute_steps=settings.get("train__recompute_steps")), 8)
print(json.dumps(train(toy_spec("rec-lif", **settings), 256)))
"""


@pytest.mark.parametrize(
    ("engine", "changes"),
    [
        ("auto", {"model__hidden": [128, 384]}),
        ("auto", {"train__recompute_steps": 50}),
        ("reference", {}),
    ],
)
def test_the_estimate_is_near_what_training_takes(engine: Engine, changes: dict[str, Any]):
    run = json.dumps([resolve_engine(engine, CPU), {**WIDE, **changes}])
    # a process of its own: one that has trained before has memory at hand
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, run], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    taken, estimated = json.loads(done.stdout)
    assert taken > 20 * 2**20  # more than noise
    assert 1 / 1.5 < taken / estimated < 1.5


def test_the_formula_by_hand():
    # 12 inputs, 16 units, 3 classes, 20 steps of 10 ms, batches of 32
    estimate = estimate_memory(toy_spec(), input_spikes=48)
    n_weights = 12 * 16 + 16 * 3
    assert estimate.weights == 2 * 4 * n_weights
    # the gradients, and eight shares of that of the larger layer, 12 * 16 weights
    assert estimate.gradients == 4 * n_weights + 8 * 4 * 12 * 16
    assert estimate.optimiser == 2 * 4 * n_weights
    step = 4 * 20 * 32
    # membranes of both
    assert estimate.activations == {"hidden1": step * 16, "readout": step * 3}
    # gradients of both layers' drive
    assert estimate.passing == step * (16 + 3)
    assert estimate.batches == 2 * 32 * (2 * 48 + 8 * 20)
    assert estimate.validation == 4 * 20 * 256 * (3 + 3) + 2 * 256 * (2 * 48 + 8 * 20)
    assert estimate.total == 4 * (5 * n_weights + 8 * 12 * 16) + max(
        estimate.step, estimate.validation
    )


def test_larger_runs_take_more_and_recomputation_takes_less():
    base = estimate_memory(toy_spec(**WIDE), input_spikes=48).step
    for change in ({"train__batch_size": 512}, {"model__hidden": [1024]}, {"train__dt_s": 5e-4}):
        larger = estimate_memory(toy_spec(**{**WIDE, **change}), input_spikes=48).step
        assert 1.8 * base < larger < 2.1 * base
    some = estimate_memory(toy_spec(**WIDE, train__recompute_steps=20), input_spikes=48).step
    assert some < 0.25 * base


def test_on_a_gpu_spikes_and_saving_are_the_hosts():
    spec, train, valid = toy_spec(), toy_split(90, seed=1), toy_split(41, seed=2)
    host, gpu = (estimate_training(spec, train, valid, kind, "cpp") for kind in ("cpu", "cuda"))
    assert host.spikes > 2 * (train.n_spikes + valid.n_spikes)
    assert (gpu.spikes, gpu.saving) == (0, 0)
    assert gpu.activations == host.activations


def test_every_engine_has_its_numbers():
    assert set(ENGINES) == set(ENGINE_NAMES) - {"auto"}


def test_what_does_not_fit_is_refused_with_figures_and_advice():
    spec = toy_spec(model__hidden=[100_000], train__batch_size=100_000)
    estimate = estimate_memory(spec, input_spikes=48)
    with pytest.raises(SnnbenchError) as caught:
        require_memory(estimate, spec, CPU)
    message = str(caught.value)
    assert f"training takes about {size_text(estimate.total)} (activations" in message
    for advice in ("train.batch_size (now 100000)", "train.recompute_steps=4", "another --device"):
        assert advice in message
    small = estimate_memory(toy_spec(), input_spikes=48)
    require_memory(small, toy_spec(), CPU)
    with pytest.raises(SnnbenchError, match="fewer --workers"):
        require_memory(small, toy_spec(), CPU, at_once=10_000_000)


def test_sizes_for_reading():
    assert [size_text(n << 20) for n in (1, 12, 999, 1331)] == [
        "1.0 MiB",
        "12 MiB",
        "999 MiB",
        "1.3 GiB",
    ]
