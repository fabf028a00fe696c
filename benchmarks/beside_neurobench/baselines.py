"""Rows of networks without spiking neurons, as they are in NeuroBench's `TorchModel`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from neurobench.metrics.static import ParameterCount
from neurobench.metrics.workload import SynapticOperations
from neurobench.models import TorchModel
from torch import Tensor, nn

from beside_neurobench.findings import Finding
from beside_neurobench.ours import HIDDEN, LAYERS, N_SAMPLES, baseline
from beside_neurobench.rules import places_met
from beside_neurobench.theirs import ACS, DENSE, MACS, InTorchModel, by_layer, neurobench
from snnbench.evaluate import footprint


def lstm() -> Iterator[Finding]:
    """NeuroBench stops at `nn.LSTM`."""
    network, evaluation, inputs = baseline("lstm", hidden=list(HIDDEN))
    dense = evaluation.operations.dense_macs
    metrics: dict[str, Any] = {"static": [ParameterCount], "workload": [SynapticOperations]}
    model = InTorchModel(network)
    theirs = neurobench(TorchModel(model), inputs, **metrics)
    yield Finding("lstm", "parameters", [network.n_parameters], [theirs["ParameterCount"]])
    yield Finding(
        "lstm",
        "dense operations",
        [dense],
        [theirs["SynapticOperations"][DENSE]],
        "`nn.LSTM` has no count (`nn.LSTMCell` has): the metric fails in the first two batches, at one layer"
        " each, and loses this layer's hook; the third batch is counted, and only its readout",
        [evaluation.operations.layers["readout"].dense],
    )
    whole = neurobench(TorchModel(model), inputs, N_SAMPLES, **metrics)
    yield Finding(
        "lstm",
        f"dense operations, batches of {N_SAMPLES}",
        [dense],
        [whole["SynapticOperations"]],
        "as above: of a metric that fails in the last batch, NeuroBench reports 0",
        [0.0],
    )


def cnn() -> Iterator[Finding]:
    """Convolutions over time and channels, in NeuroBench's own `TorchModel`."""
    network, evaluation, inputs = baseline("cnn", channels=[4, 8], norm="none")
    arriving: list[tuple[nn.Module, Tensor]] = []
    connections = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [
        connection.register_forward_pre_hook(lambda m, i: arriving.append((m, i[0])))
        for connection in connections
    ]
    with torch.no_grad():
        network(inputs)
    for hook in hooks:
        hook.remove()
    theirs = neurobench(TorchModel(InTorchModel(network)), inputs)
    layers = evaluation.operations.layers
    yield Finding("cnn", "parameters", [network.n_parameters], [theirs["ParameterCount"]])
    held = footprint(network, {})
    yield Finding("cnn", "footprint, bytes", [held.n_bytes], [theirs["Footprint"]])
    yield Finding(
        "cnn",
        "dense operations",
        [layers[name].dense for name in LAYERS],
        by_layer(theirs, DENSE),
        "the zeros around a convolution's input are operations to us, and none to NeuroBench",
        [places_met(module, torch.ones_like(x)) for module, x in arriving],
    )
    met = [places_met(module, x != 0) for module, x in arriving]
    yield Finding(
        "cnn",
        "effective ACs",
        [layers[name].effective_acs for name in LAYERS],
        by_layer(theirs, ACS),
        "a spike meets as many weights as the mean input in ours, those zeros included; in NeuroBench, those"
        " at its place",
        [met[0], 0.0, 0.0],
    )
    yield Finding(
        "cnn",
        "effective MACs",
        [layers[name].effective_macs for name in LAYERS],
        by_layer(theirs, MACS),
        "zeros that a ReLU sends are operations to us, and none to NeuroBench; and those around the input",
        [0.0, *met[1:]],
    )
