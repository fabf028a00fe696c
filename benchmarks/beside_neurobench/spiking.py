"""Rows of spiking networks: where counts agree, and one network for each reason why they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from neurobench.metrics.static import Footprint, ParameterCount
from neurobench.metrics.utils.layers import single_layer_MACs
from neurobench.metrics.workload import SynapticOperations
from neurobench.models import SNNTorchModel, TorchModel
from torch import nn

from beside_neurobench.findings import Finding
from beside_neurobench.ours import HIDDEN, LAYERS, N_CLASSES, N_SAMPLES, Counted, count
from beside_neurobench.rules import by_neurobench_rule, by_our_rule, size_of_buffers
from beside_neurobench.theirs import (
    ACS,
    BATCH,
    DENSE,
    MACS,
    InTorchModel,
    Twin,
    by_layer,
    check_spikes,
    neurobench,
)
from snnbench.evaluate import footprint
from snnbench.sizes import LayerSize


def feedforward() -> Iterator[Finding]:
    """Spikes 0 and 1, no recurrence: all the work agrees."""
    name, ours = "feedforward", count(recurrent=False)
    twin, theirs = of_snntorch(ours)
    yield from dense(name, ours, theirs)
    yield from sparsity(name, ours, theirs)
    yield from size(name, ours, theirs, twin)
    yield from effective(name, ours, theirs)
    sizes = [*HIDDEN, N_CLASSES]
    quiet = [*ours.evaluation.activation_sparsity.values()]
    readout = theirs["ActivationSparsityByLayer"]["readout"]
    yield Finding(
        name,
        "activation sparsity of all layers",
        [np.average(quiet, weights=HIDDEN)],
        [theirs["ActivationSparsity"]],
        "the readout of snnTorch is a layer of neurons to NeuroBench, and all of it is quiet",
        [np.average([*quiet, readout], weights=sizes)],
    )
    biased = Twin(ours.network, bias=True)
    theirs = neurobench(SNNTorchModel(biased), ours.spikes[0])
    name = "feedforward, twin with biases"
    yield Finding(
        name,
        "dense operations",
        [ours.evaluation.operations.dense_macs],
        [theirs["SynapticOperations"][DENSE]],
    )
    yield Finding(
        name,
        "parameters",
        [ours.network.n_parameters],
        [theirs["ParameterCount"]],
        "biases are parameters, and no synapses to either; our spiking layers have none",
        [ours.network.n_parameters + sum(sizes)],
    )


def recurrent() -> Iterator[Finding]:
    """Recurrent layers; the footprint after a run; our own modules in place of the twin."""
    name, ours = "recurrent", count(recurrent=True)
    twin, theirs = of_snntorch(ours)
    yield from dense(name, ours, theirs)
    yield from sparsity(name, ours, theirs)
    yield from size(name, ours, theirs, twin)
    yield from effective(
        name,
        ours,
        theirs,
        "`RLeaky` multiplies the spikes of the step before, so spikes of the last step never meet recurrent"
        " weights; ours count them",
        [ACS],
    )
    ran = Twin(ours.network)
    before = footprint(ours.network, {}).n_bytes + size_of_buffers(ran)
    neurobench(SNNTorchModel(ran), ours.spikes[0])
    again = neurobench(SNNTorchModel(ran), ours.spikes[0])
    states = (N_SAMPLES % BATCH) * (2 * sum(HIDDEN) + N_CLASSES) * 4
    yield Finding(
        name,
        "footprint after a run, bytes",
        [footprint(ours.network, {}).n_bytes],
        [again["Footprint"]],
        "membranes and spikes of the last batch are buffers of snnTorch's and stay; ours hold no state",
        [before + states],
    )
    itself = neurobench(
        TorchModel(InTorchModel(ours.network)),
        ours.spikes[0],
        static=[ParameterCount, Footprint],
        workload=[SynapticOperations],
    )
    name = "our recurrent network itself"
    held = footprint(ours.network, {})
    yield Finding(name, "parameters", [ours.network.n_parameters], [itself["ParameterCount"]])
    yield Finding(name, "footprint, bytes", [held.n_bytes], [itself["Footprint"]])
    yield Finding(
        name,
        "dense operations",
        [ours.evaluation.operations.dense_macs],
        [itself["SynapticOperations"][DENSE]],
        "NeuroBench looks for `nn.Linear`, `nn.Conv*d` and recurrent cells; our weights are plain parameters",
        [0.0],
    )


def several_spikes_in_a_bin() -> Iterator[Finding]:
    """Counts above 1 in the input."""
    name, ours = "feedforward, input counts", count(recurrent=False, bin_mode="count")
    assert ours.spikes[0].max() > 1
    _, theirs = of_snntorch(ours)
    yield from dense(name, ours, theirs)
    why = (
        "k spikes in a bin are k accumulates in ours, one operation in NeuroBench; if a batch has such a bin,"
        " all of its operations in this step and matrix are MACs"
    )
    yield from effective(name, ours, theirs, why, [ACS, MACS])
    for batch_size in (1, N_SAMPLES):
        other = neurobench(SNNTorchModel(Twin(ours.network)), ours.spikes[0], batch_size)
        yield Finding(
            name,
            f"effective MACs, batches of {batch_size}",
            [0.0, 0.0, 0.0],
            by_layer(other, MACS),
            "as above: which of them are MACs depends on the batch",
            by_neurobench_rule(ours, batch_size)[MACS],
        )


def pruned() -> Iterator[Finding]:
    """Every other weight is 0."""
    name, ours = "feedforward, half of the weights 0", count(recurrent=False, pruned=True)
    _, theirs = of_snntorch(ours)
    yield from dense(name, ours, theirs)
    yield from sparsity(name, ours, theirs)
    yield from effective(
        name,
        ours,
        theirs,
        "a weight of 0 is a synapse to us, and none to NeuroBench; both count it as dense",
        [ACS],
    )


def large() -> Iterator[Finding]:
    """More operations at once than float32 has whole numbers."""
    n_units, n_samples = 4097, 3
    layer = nn.Linear(n_units, n_units, bias=False)
    with torch.no_grad():
        theirs, _ = single_layer_MACs(torch.ones(n_samples, n_units), layer, total=True)
    ours = n_samples * LayerSize("hidden1", n_units, n_units, recurrent=False).macs(n_steps=1)
    yield Finding(
        f"one matrix of {n_units:,} x {n_units:,}",
        f"dense operations of {n_samples} samples in one step",
        [ours],
        [theirs],
        "NeuroBench adds up in float32, which is exact to 16,777,216 for a batch, step and matrix",
        [float(np.float32(ours))],
    )


def dense(name: str, ours: Counted, theirs: dict[str, Any]) -> Iterator[Finding]:
    """Equal in every network, layer by layer and in all."""
    operations = ours.evaluation.operations
    mine = [operations.layers[layer].dense for layer in LAYERS]
    yield Finding(name, "dense operations", mine, by_layer(theirs, DENSE))
    total = [theirs["SynapticOperations"][DENSE]]
    yield Finding(name, "dense operations of all layers", [operations.dense_macs], total)


def sparsity(name: str, ours: Counted, theirs: dict[str, Any]) -> Iterator[Finding]:
    """Equal in every network, too."""
    held = footprint(ours.network, ours.evaluation.activation_sparsity)
    yield Finding(
        name,
        "connection sparsity",
        [held.connection_sparsity],
        [theirs["ConnectionSparsity"]],
        tolerance=5e-5,  # it rounds to four decimals
    )
    quiet = theirs["ActivationSparsityByLayer"]
    yield Finding(
        name,
        "activation sparsity",
        list(held.activation_sparsity.values()),
        [quiet["hidden1"], quiet["hidden2"]],
    )


def size(name: str, ours: Counted, theirs: dict[str, Any], twin: Twin) -> Iterator[Finding]:
    """Parameters, and memory, for which `twin` must not have run."""
    yield Finding(name, "parameters", [ours.network.n_parameters], [theirs["ParameterCount"]])
    n_bytes = footprint(ours.network, {}).n_bytes
    yield Finding(
        name,
        "footprint, bytes",
        [n_bytes],
        [theirs["Footprint"]],
        "snnTorch keeps constants of its neurons as buffers, ours are numbers in the spec",
        [n_bytes + size_of_buffers(twin)],
    )


def effective(
    name: str, ours: Counted, theirs: dict[str, Any], why: str = "", kinds: Sequence[str] = ()
) -> Iterator[Finding]:
    """Effective operations layer by layer; those of `kinds` differ, and this is why."""
    layers = ours.evaluation.operations.layers
    mine = {
        ACS: [layers[layer].effective_acs for layer in LAYERS],
        MACS: [layers[layer].effective_macs for layer in LAYERS],
    }
    rule = by_neurobench_rule(ours)
    recounted = {ACS: by_our_rule(ours), MACS: [0.0] * len(LAYERS)}
    for kind, label in ((ACS, "effective ACs"), (MACS, "effective MACs")):
        differs = kind in kinds
        yield Finding(
            name,
            label,
            mine[kind],
            by_layer(theirs, kind),
            why if differs else "",
            rule[kind] if differs else None,
            recounted[kind],
        )


def of_snntorch(ours: Counted) -> tuple[Twin, dict[str, Any]]:
    """The twin, before it has run, and NeuroBench's numbers of another one."""
    twin = Twin(ours.network)
    check_spikes(ours, twin)
    return Twin(ours.network), neurobench(SNNTorchModel(Twin(ours.network)), ours.spikes[0])
