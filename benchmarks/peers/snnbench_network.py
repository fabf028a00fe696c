"""Ours: the network that `snnbench.models.network.build` makes, on events in CSR form."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from peers.contender import (
    N_CLASSES,
    N_INPUTS,
    RECURRENT_GAIN,
    SPIKES_PER_SAMPLE,
    SURROGATE_SLOPE,
    TAU_MEM_S,
    TAU_SYN_S,
    Case,
    Contender,
    Data,
    Options,
)
from peers.torch_step import torch_contender
from snnbench.data_prep.batch import EventBatch, event_batch
from snnbench.data_prep.binning import BinnedSpikes
from snnbench.model_spec import ModelSpec
from snnbench.models.network import NetworkOutput, SpikingNetwork, build
from snnbench.models.scan_replicas import scan_replicas

CSR_REPEATS = 21


def recurrent_lif(case: Case, data: Data, options: Options) -> Contender:
    """Time of a step on one batch; that of making such a batch is measured by the way."""
    batch, csr_ms = csr_batch(case, data)
    batch = batch._replace(
        **{name: getattr(batch, name).to(options.device) for name in ("indptr", "channels")}
    )
    labels = torch.from_numpy(data.labels).to(options.device)
    if options.replicas == 1:
        network = our_network(case, options).to(options.device)
        contender = torch_contender(
            lambda batch: rates_beside_logits(network(batch), case),
            list(network.parameters()),
            batch,
            labels,
            input_weight=network.layers[0].weight,
            graphed=options.graphed,
        )
    else:
        replicas = Replicas(case, options).to(options.device)
        contender = torch_contender(
            replicas,
            list(replicas.parameters()),
            batch,
            labels.repeat(options.replicas),
            input_weight=replicas.input,
            graphed=options.graphed,
        )
    return replace(contender, csr_ms=csr_ms)


def rates_beside_logits(output: NetworkOutput, case: Case) -> tuple[Tensor, Tensor]:
    """What a contender's network returns."""
    return output.logits, output.spike_counts[0] / case.steps


class Replicas(nn.Module):
    """Networks that differ in their first weights, trained at once on the same batch."""

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        networks = [our_network(case, options, seed) for seed in range(options.replicas)]
        layers, readouts = [n.layers[0] for n in networks], [n.readout for n in networks]
        self.input = stacked([layer.weight for layer in layers])
        self.recurrent = stacked([layer.recurrent_weight for layer in layers])
        self.output = stacked([readout.weight for readout in readouts])
        self.cell, self.readout_cell = layers[0].cell, readouts[0].cell
        self.engine, self.steps = options.engine, case.steps

    def forward(self, batch: EventBatch) -> tuple[Tensor, Tensor]:
        """Logits (replica * batch, class) and hidden rates (replica, batch, unit)."""
        hidden = scan_replicas(
            batch,
            self.input,
            self.recurrent,
            self.cell,
            outgoing_weight=self.output,
            engine=self.engine,
        )
        readout = scan_replicas(
            hidden.projected, None, None, self.readout_cell, keep_peaks=True, engine=self.engine
        )
        return readout.peaks.flatten(0, 1), hidden.counts / self.steps


def stacked(weights: list[Tensor]) -> nn.Parameter:
    """Weights of replicas as one parameter, (replica, ...)."""
    return nn.Parameter(torch.stack(weights).detach())


def our_network(case: Case, options: Options, seed: int = 1) -> SpikingNetwork:
    """The network with the constants of all contenders; `seed` draws its weights."""
    taus = {"tau_mem_s": TAU_MEM_S, "tau_syn_s": TAU_SYN_S}
    spec = ModelSpec.model_validate(
        {
            "name": "benchmark",
            "hidden": [case.hidden],
            "recurrent": True,
            "recurrent_gain": RECURRENT_GAIN,
            "neuron": taus,
            "readout": taus,
            "surrogate": {"slope": SURROGATE_SLOPE},
        }
    )
    network = build(
        spec,
        N_INPUTS,
        N_CLASSES,
        case.dt_s,
        torch.Generator().manual_seed(seed),
        recompute_steps=options.recompute_steps,
    )
    network.engine = options.engine
    return network


def csr_batch(case: Case, data: Data) -> tuple[EventBatch, float]:
    """The batch as events, and milliseconds to gather one from twice as many samples in memory."""
    spikes = binned(case, data)
    labels = torch.from_numpy(data.labels)
    order = np.random.default_rng(0)
    times_ms = []
    for _ in range(CSR_REPEATS):
        chosen = order.permutation(2 * case.batch)[: case.batch]
        started = time.perf_counter()
        event_batch(spikes, chosen)
        times_ms.append((time.perf_counter() - started) * 1e3)
    indptr, channels = event_batch(spikes, np.arange(case.batch))
    batch = EventBatch(
        torch.from_numpy(indptr),
        torch.from_numpy(channels),
        labels,
        torch.arange(case.batch),
        case.steps,
        N_INPUTS,
    )
    return batch, statistics.median(times_ms[1:])  # the first one compiles


def binned(case: Case, data: Data) -> BinnedSpikes:
    """The samples, each there twice, as the loader holds them in memory."""
    cells = np.concatenate([data.cells, data.cells])
    edges = np.arange(case.steps + 1) * N_INPUTS
    rows = np.stack([np.searchsorted(of_sample, edges) for of_sample in cells])
    return BinnedSpikes(
        (cells % N_INPUTS).astype(np.uint16).ravel(),
        np.arange(len(cells) + 1) * SPIKES_PER_SAMPLE,
        rows.astype(np.int32),
    )
