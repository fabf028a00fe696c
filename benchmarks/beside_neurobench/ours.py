"""Small networks of ours on spikes at random, and what we count."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snnbench.checkpoint import build_for
from snnbench.data_prep.loader import SpikeLoader
from snnbench.data_prep.store import SpikeSplit
from snnbench.evaluate import Evaluation, predict_loader
from snnbench.models.network import SpikingNetwork
from snnbench.models.network_base import Network
from snnbench.spec import RunSpec, make_run_spec

N_SAMPLES = 10
N_STEPS = 20
N_INPUTS = 20
HIDDEN = (16, 16)
N_CLASSES = 5
SPIKES_PER_SAMPLE = 100
DT_S = 0.01
LAYERS = ("hidden1", "hidden2", "readout")


class Counted(NamedTuple):
    """A network of ours, what it was given, and what was counted."""

    network: SpikingNetwork
    spikes: list[Tensor]
    """Of the input and of each hidden layer, each of shape (time, batch, unit)."""
    evaluation: Evaluation


def some_spikes() -> SpikeSplit:
    """Spikes at random, among them several of one unit in one bin."""
    rng = np.random.default_rng(0)
    shape = N_SAMPLES, SPIKES_PER_SAMPLE
    times = np.sort(rng.uniform(0, N_STEPS * DT_S - DT_S / 2, shape), axis=1)
    return SpikeSplit(
        times=times.ravel().astype(np.float32),
        units=rng.integers(N_INPUTS, size=shape).ravel().astype(np.uint16),
        offsets=np.arange(N_SAMPLES + 1, dtype=np.int64) * SPIKES_PER_SAMPLE,
        labels=rng.integers(N_CLASSES, size=N_SAMPLES).astype(np.uint16),
        groups=np.zeros(N_SAMPLES, dtype=np.uint16),
        source_ids=[f"sample-{i}" for i in range(N_SAMPLES)],
    )


def run_spec(*, model: str = "rec-lif", bin_mode: str = "clip", **of_model: Any) -> RunSpec:
    """A run on those spikes; `of_model` are keys of the model."""
    return make_run_spec(
        "digits-synthetic",
        model,
        seed=0,
        data_fingerprint="drawn in benchmarks/beside_neurobench",
        overrides={
            "task.n_units": N_INPUTS,
            "task.n_classes": N_CLASSES,
            "task.duration_s": N_STEPS * DT_S,
            "train.dt_s": DT_S,
            "train.units_per_channel": 1,
            "train.bin_mode": bin_mode,
            "model.dropout": 0.0,
            **{f"model.{key}": value for key, value in of_model.items()},
        },
    )


def count(*, recurrent: bool, bin_mode: str = "clip", pruned: bool = False) -> Counted:
    """Build a network of ours, perhaps with every other weight 0, and let it count."""
    spec = run_spec(
        bin_mode=bin_mode,
        hidden=list(HIDDEN),
        recurrent=recurrent,
        neuron={"kind": "lif-delta", "tau_mem_s": 0.02},
        input_gain=6.0,
    )
    network = build_for(spec, torch.Generator().manual_seed(0))
    assert isinstance(network, SpikingNetwork)
    if pruned:
        with torch.no_grad():
            for weight in network.parameters():
                weight.view(-1)[::2] = 0.0
    loader = SpikeLoader(some_spikes(), spec, torch.device("cpu"))
    (batch,) = loader.batches(N_SAMPLES)
    with torch.no_grad():
        hidden = network.hidden_spikes(batch.spikes)
    spikes = [batch.spikes.clone(), *hidden]
    return Counted(network, spikes, predict_loader(network, loader))


def baseline(model: str, **of_model: Any) -> tuple[Network, Evaluation, Tensor]:
    """A network of ours without spiking neurons, what was counted, and its inputs."""
    spec = run_spec(model=model, **of_model)
    network = build_for(spec, torch.Generator().manual_seed(0)).eval()
    loader = SpikeLoader(some_spikes(), spec, torch.device("cpu"))
    (batch,) = loader.batches(N_SAMPLES)
    return network, predict_loader(network, loader), batch.spikes.clone()
