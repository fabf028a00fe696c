"""Networks of one model in one forward pass: seeds, each with its own weights and its own batch.

A small layer leaves most of a GPU idle, and a step of a small network is bound by the host, which launches
it. So the scans of all networks are one (`snnbench.models.scan_replicas`). All else a network does alone, as
in a pass of its own: the products with its input, delays, convolutions and normalisations, and its logits.

    drive of each -> (replica, time, batch, unit) -> scan of all -> apart again -> drive of each -> ...

Stacking and taking apart are differentiable, and no weight is in two networks: the backward pass of the sum
of all losses gives each the gradient that it would have alone. With the engine `reference` it is the same to
the bit. On a GPU products of stacked matrices may be cut up otherwise than those of one, and so round
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from snnbench.data_prep.batch import EventBatch
from snnbench.errors import SnnbenchError
from snnbench.models.network import SpikingNetwork
from snnbench.models.network_base import Network, NetworkOutput
from snnbench.models.readout import LeakyReadout, SpikingReadout
from snnbench.models.scan import drive
from snnbench.models.scan_replicas import scan_replicas
from snnbench.models.scan_types import Cell, ScanResult

STACKING = ("triton", "reference")
"""Engines of a stack: those that compute drives as one dense product, stacked or not."""


def why_not_stacked(network: Network, engine: str) -> str | None:
    """Why networks like this one have no common forward pass with this engine; None where they have."""
    if not isinstance(network, SpikingNetwork):
        return "its layers do not spike, so there is no scan to share"
    if network.recompute_steps is not None:
        return "train.recompute_steps computes stretches of time anew, each network for itself"
    if engine not in STACKING:
        return f"engine {engine} computes one network at a time"
    return None


def forward_together(
    networks: Sequence[Network],
    batches: Sequence[EventBatch],
    dropouts: Sequence[torch.Generator | None],
) -> list[NetworkOutput]:
    """What each network makes of its batch; parameters and results as in `Network.forward`.

    Batches may differ in size (the last one of an epoch does): those of one size are computed together.

    Raises
    ------
    SnnbenchError
        Several networks, and `why_not_stacked` has a reason.
    """
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, batch in enumerate(batches):
        by_size.setdefault((batch.n_steps, batch.n_samples), []).append(i)
    outputs: dict[int, NetworkOutput] = {}
    for chosen in by_size.values():
        if len(chosen) == 1:
            [i] = chosen
            outputs[i] = networks[i](batches[i], dropouts[i])
            continue
        found = _together(
            [_spiking(networks[i]) for i in chosen],
            [batches[i] for i in chosen],
            [dropouts[i] for i in chosen],
        )
        outputs.update(zip(chosen, found, strict=True))
    return [outputs[i] for i in range(len(networks))]


def _spiking(network: Network) -> SpikingNetwork:
    if reason := why_not_stacked(network, network.engine):
        raise SnnbenchError(f"networks cannot be computed together: {reason}")
    assert isinstance(network, SpikingNetwork)
    return network


def _together(
    networks: Sequence[SpikingNetwork],
    batches: Sequence[EventBatch],
    dropouts: Sequence[torch.Generator | None],
) -> list[NetworkOutput]:
    n_steps, n_batch = batches[0].n_steps, batches[0].n_samples
    engine, precision = networks[0].engine, networks[0].precision
    gates = [n.draw_gates(n_batch, d) for n, d in zip(networks, dropouts, strict=True)]
    weights = [network.weights_in_turn for network in networks]
    inputs: list[Any] = list(batches)
    counts: list[list[Tensor]] = [[] for _ in networks]
    for number in range(len(networks[0].spiking_layers)):
        layers = [network.spiking_layers[number] for network in networks]
        # above the first layer the weights were at work in the layer below
        onto = [w[0] if number == 0 else None for w in weights]
        arriving = [
            layer.arriving(x, w, precision)
            for layer, x, w in zip(layers, inputs, onto, strict=True)
        ]
        result = scan_replicas(
            _stacked_drives([drive(x, w, precision) for x, w in arriving]),
            None,
            _stacked([layer.recurrence for layer in layers]),
            _cell_of_all([layer.cell for layer in layers]),
            outgoing_weight=_stacked([w[number + 1] for w in weights]),
            gate=_stacked([g[number] for g in gates]),
            keep_spikes=weights[0][number + 1] is None,
            engine=engine,
            precision=precision,
        )
        inputs = [each.passed_on for each in _apart(result)]
        for so_far, of_layer in zip(counts, result.counts.unbind(0), strict=True):
            so_far.append(of_layer)
    logits = _read_out([network.readout for network in networks], inputs, n_steps, engine)
    return [NetworkOutput(a, tuple(b)) for a, b in zip(logits, counts, strict=True)]


def _read_out(
    readouts: Sequence[LeakyReadout | SpikingReadout],
    drives: Sequence[Tensor],
    n_steps: int,
    engine: Any,
) -> list[Tensor]:
    """Logits of each network."""
    first = readouts[0]
    result = scan_replicas(
        _stacked_drives([r.arriving(d) for r, d in zip(readouts, drives, strict=True)]),
        None,
        None,
        first.cell,
        keep_spikes=first.keep_spikes,
        keep_membranes=first.keep_membranes,
        keep_peaks=first.keep_peaks,
        engine=engine,
    )
    return [
        readout.finish(readout.reduced(each)[None], n_steps)
        for readout, each in zip(readouts, _apart(result), strict=True)
    ]


def _stacked_drives(drives: Sequence[Tensor]) -> Tensor:
    """(replica, time, batch, unit), in memory sample by sample, as the kernels take them."""
    return torch.stack([d.transpose(0, 1) for d in drives]).transpose(1, 2)


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
    there = [t for t in tensors if t is not None]
    return torch.stack(there) if there else None


def _cell_of_all(cells: Sequence[Cell]) -> Cell:
    """Constants that are numbers stay so; of those of units each network has its own."""
    parameters = [
        torch.stack(of_all) if isinstance(of_all[0], Tensor) else of_all[0]
        for of_all in zip(*(cell.parameters for cell in cells), strict=True)
    ]
    return replace(cells[0], parameters=type(cells[0].parameters)(*parameters))


def _apart(result: ScanResult) -> list[ScanResult]:
    """The result of each network. Not by index: its backward would fill zeros for all the others."""
    *tensors, state = result
    states = [type(state)(*parts) for parts in zip(*(s.unbind(0) for s in state), strict=True)]
    of_each = zip(*(t.unbind(0) for t in tensors), states, strict=True)
    return [ScanResult._make(parts) for parts in of_each]
