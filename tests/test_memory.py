"""The estimate of memory against what training really takes, and what is said where it does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from snnbench import memory
from snnbench.checkpoint import build_for
from snnbench.data_prep.loader import SpikeLoader
from snnbench.errors import SnnbenchError
from snnbench.memory import (
    ENGINES,
    estimate_memory,
    estimate_training,
    require_memory,
    size_text,
)
from snnbench.models import scan_cpu
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
model = settings.pop("model", "rec-lif")
train(toy_spec(model, train__recompute_steps=settings.get("train__recompute_steps")), 8)
print(json.dumps(train(toy_spec(model, **settings), 256)))
"""


@pytest.mark.parametrize(
    ("engine", "changes"),
    [
        ("auto", {"model__hidden": [128, 384]}),
        ("auto", {"model__neuron__reset": "zero", "model__neuron__gradient_through_reset": True}),
        ("auto", {"train__recompute_steps": 50}),
        ("auto", {"model": "lstm", "model__hidden": [128]}),
        (
            "auto",
            {
                "model": "cnn",
                "model__channels": [32, 32],
                "model__kernel": [5, 3],
                "model__stride": [1, 2],
            },
        ),
        ("reference", {}),
    ],
)
def test_the_estimate_is_near_what_training_takes(engine: Engine, changes: dict[str, Any]):
    wide = {k: v for k, v in WIDE.items() if changes.get("model") != "cnn" or k != "model__hidden"}
    run = json.dumps([resolve_engine(engine, CPU), {**wide, **changes}])
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
    # the gradients, and eight shares of each
    assert estimate.gradients == 9 * 4 * n_weights
    assert estimate.optimiser == 2 * 4 * n_weights
    step = 4 * 20 * 32
    # membranes; of the readout nothing but the largest
    assert estimate.activations == {"hidden1": step * 16}
    # gradients of both layers' drive
    assert estimate.passing == step * (16 + 3)
    assert estimate.batches == 2 * 32 * (2 * 48 + 8 * 20)
    # what the readout receives
    assert estimate.validation == 4 * 20 * 256 * 3 + 2 * 256 * (2 * 48 + 8 * 20)
    assert estimate.total == 4 * 13 * n_weights + max(estimate.step, estimate.validation)


def test_the_formula_in_stretches_by_hand():
    # 20 steps in stretches of 8, 8 and 4
    estimate = estimate_memory(toy_spec(train__recompute_steps=8), input_spikes=48)
    each, step = 4 * 32, 4 * 8 * 32
    assert estimate.activations == {
        # current, membrane and spikes so far, twice; membranes of a stretch
        "hidden1": 2 * each * 3 * 16 + step * 16,
        "readout": 2 * each * 3 * 3,  # current, membrane, largest membrane
    }
    assert estimate.passing == step * (2 * 16 + 3)
    assert estimate.batches == 3 * 32 * (2 * 48 + 8 * 20)
    assert estimate.validation == 4 * 8 * 256 * 3 + 2 * 256 * (2 * 48 + 8 * 20)


@pytest.mark.parametrize(
    ("reset", "through", "kept"),
    [("subtract", False, 1), ("subtract", True, 1), ("zero", False, 1), ("zero", True, 2)],
)
def test_what_the_adjoint_reads_is_kept(reset: str, through: bool, kept: int):
    changes: dict[str, Any] = {
        "model__neuron__reset": reset,
        "model__neuron__gradient_through_reset": through,
    }
    estimate = estimate_memory(toy_spec(**changes), input_spikes=48)
    # membranes; and the current where the reset's gradient is a product with it
    assert estimate.activations == {"hidden1": kept * 4 * 20 * 32 * 16}


@pytest.mark.parametrize("hidden", [[16], [24, 40]])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_autograd_holds_what_is_estimated(hidden: list[int], reset: str):
    through: dict[str, Any] = {
        "model__neuron__reset": reset,
        "model__neuron__gradient_through_reset": True,
    }
    spec = toy_spec("rec-lif", model__hidden=hidden, **through)
    network = build_for(spec, torch.Generator().manual_seed(0))
    batch = SpikeLoader(toy_split(32, seed=1), spec, CPU).event_batch(torch.arange(32))
    held: dict[int, int] = {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.float32 and tensor.dim() >= 3:  # sequences, no weights
            held[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        network(batch)
    estimate = estimate_memory(spec, input_spikes=48)
    assert sum(held.values()) == sum(estimate.activations.values()) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"model__norm": "batch"},
        {"model__norm": "layer"},
        *({"model__readout": {"reduce": r}} for r in ("last", "sum", "mean", "softmax-sum")),
        {"model__readout": {"kind": "spike-count"}},
        {"model__readout": {"kind": "first-spike"}},
        {"model__norm": "batch", "model__readout": {"kind": "first-spike"}},
        {"model__neuron": {"kind": "lif-delta"}},
        {"model__neuron": {"kind": "se-adlif"}},
        {"model__neuron": {"refractory_s": 0.02}},
        {"model__neuron": {"tau_mem_s": {"low": 0.02, "high": 0.1}}},
        {"model__neuron": {"tau_syn_s": {"low": 0.02, "high": 0.1, "learned": True}}},
        {"model__neuron": {"kind": "adlif", "a": {"low": 0.0, "high": 1.0, "learned": True}}},
        {
            "model__neuron": {
                "kind": "adlif",
                "tau_mem_s": {"low": 0.02, "high": 0.1, "learned": True},
            }
        },
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_autograd_holds_what_is_estimated_of_every_kind(changes: dict[str, Any]):
    spec = toy_spec(model__recurrent=True, model__hidden=[24, 40], **changes)
    network = build_for(spec, torch.Generator().manual_seed(0))
    batch = SpikeLoader(toy_split(32, seed=1), spec, CPU).event_batch(torch.arange(32))
    held: dict[int, int] = {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.float32 and tensor.numel() >= 20 * 32 * 3:  # of all steps
            held[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        network(batch)
    estimate = estimate_memory(spec, input_spikes=48, engine=resolve_engine("auto", CPU))
    assert sum(held.values()) == sum(estimate.activations.values()) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"model__delays": {"max_s": 0.05}},
        {"model__delays": {"max_s": 0.05, "where": "input"}, "model__norm": "batch"},
        {"model__delays": {"max_s": 0.05, "where": "hidden"}},
        {"model__delays": {"kind": "fixed", "taps_s": [0.0, 0.02, 0.05]}},
        {
            "model__delays": {"kind": "fixed", "taps_s": [0.0, 0.02], "where": "hidden"},
            "model__conv": {"kernels": [5], "strides": [2]},
        },
        {"model__conv": {"kernels": [5, 3], "strides": [2, 1]}},
        {"model__conv": {"kernels": [5, 3], "strides": [2, 1], "recurrent_kernel": 3}},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_autograd_holds_what_is_estimated_of_delays_and_convolutions(changes: dict[str, Any]):
    spec = toy_spec(model__recurrent=True, model__hidden=[24, 40], **changes)
    network = build_for(spec, torch.Generator().manual_seed(0))
    batch = SpikeLoader(toy_split(32, seed=1), spec, CPU).event_batch(torch.arange(32))
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    held: dict[int, int] = {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if tensor.dtype == torch.float32 and tensor.dim() >= 2 and pointer not in parameters:
            held[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        network(batch)
    found = sum(held.values())
    estimate = estimate_memory(spec, input_spikes=48, engine=resolve_engine("auto", CPU))
    assert found == pytest.approx(sum(estimate.activations.values()), rel=0.02)


def test_kernels_share_gradients_out_as_estimated():
    assert (memory._SHARES, memory._SHARED_WEIGHTS, memory._VECTOR) == (
        scan_cpu._SHARES,
        scan_cpu._SHARED_WEIGHTS,
        scan_cpu._VECTOR,
    )


def test_a_large_weight_has_one_sum_for_its_gradient():
    def sums(*hidden: int) -> int:
        estimate = estimate_memory(toy_spec("rec-lif", model__hidden=hidden), input_spikes=48)
        return (estimate.gradients - estimate.optimiser // 2) // 4

    # eight shares of the gradients by input, recurrent and outgoing weights
    assert sums(512) == 8 * 512 * (12 + 512 + 3)
    # 513 * 513 weights are too many, and those to the readout are summed beside them
    assert sums(513) == 8 * 513 * 12 + 513 * (513 + 3)
    # one layer at a time
    assert sums(16, 512) == 8 * 512 * (512 + 3)


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
