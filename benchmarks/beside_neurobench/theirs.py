"""The same networks for NeuroBench, and what it counts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import snntorch
import torch
from neurobench.benchmarks import Benchmark
from neurobench.metrics.abstract import AccumulatedMetric
from neurobench.metrics.static import ConnectionSparsity, Footprint, ParameterCount
from neurobench.metrics.workload import (
    ActivationSparsity,
    ActivationSparsityByLayer,
    SynapticOperations,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from beside_neurobench.ours import LAYERS, Counted
from snnbench.models.network import SpikingNetwork

BATCH = 4
"""Does not divide the number of samples: the last batch has two."""
DENSE, ACS, MACS = "Dense", "Effective_ACs", "Effective_MACs"
"""Names of NeuroBench's numbers."""


class Twin(nn.Module):
    """A network of ours in snnTorch, one time step a call, as `SNNTorchModel` wants it.

    A drive reaches the membrane in the next step, as in ours. Every `nn.Linear` is called once a step, those
    within an `RLeaky` too.
    """

    def __init__(self, ours: SpikingNetwork, *, bias: bool = False) -> None:
        super().__init__()
        weights = [layer.weight for layer in ours.layers] + [ours.readout.weight]
        self.connections = nn.ModuleList(linear(weight, bias=bias) for weight in weights)
        self.hidden1, self.hidden2 = (leaky(layer) for layer in ours.layers)
        self.readout = snntorch.Leaky(beta=0.5, reset_mechanism="none", init_hidden=True)
        self.drives: list[Tensor | None] = []
        self.reset()

    def reset(self) -> None:
        """Before a batch: what `SNNTorchModel` calls."""
        snntorch.utils.reset(self)
        self.drives = [None] * len(self.connections)

    def forward(self, spikes: Tensor) -> tuple[Tensor, None]:
        """Spikes of the readout after one more step of input, (batch, channel)."""
        neurons = self.hidden1, self.hidden2, self.readout
        below = spikes
        for i, (connection, neuron) in enumerate(zip(self.connections, neurons, strict=True)):
            new = connection(below)
            old = self.drives[i]
            below = neuron(torch.zeros_like(new) if old is None else old)
            self.drives[i] = new
        return below, None


def linear(weight: Tensor, *, bias: bool = False) -> nn.Linear:
    """A weight as the layer that NeuroBench looks for; with a bias of zeros, which changes no spike."""
    n_out, n_in = weight.shape
    layer = nn.Linear(n_in, n_out, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias:
            layer.bias.zero_()
    return layer


def leaky(layer: Any) -> nn.Module:
    """The snnTorch neurons of a hidden layer of ours."""
    beta = float(layer.cell.parameters.beta)
    if layer.recurrent_weight is None:
        return snntorch.Leaky(beta=beta, init_hidden=True)
    neurons = snntorch.RLeaky(beta=beta, linear_features=layer.n_units, init_hidden=True)
    neurons.recurrent = linear(layer.recurrent_weight)
    return neurons


class InTorchModel(nn.Module):
    """A network of ours as `TorchModel` wants it: one call for all steps, (batch, time, channel)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, (batch, class)."""
        logits: Tensor = self.network(inputs.transpose(0, 1).contiguous()).logits
        return logits


def check_spikes(ours: Counted, twin: Twin) -> None:
    """Both networks have the same spikes, or nothing that follows means anything."""
    recorded: list[list[Tensor]] = [[], []]
    hooks = [
        neuron.register_forward_hook(lambda _m, _i, out, into=into: into.append(out))
        for neuron, into in zip((twin.hidden1, twin.hidden2), recorded, strict=True)
    ]
    twin.reset()
    with torch.no_grad():
        for step in ours.spikes[0]:
            twin(step)
    for hook in hooks:
        hook.remove()
    for name, mine, theirs in zip(("hidden1", "hidden2"), ours.spikes[1:], recorded, strict=True):
        if not mine.any() or not torch.equal(mine, torch.stack(theirs)):
            sys.exit(f"{name}: no spikes, or not the same in both networks; nothing was compared")


class ByConnection(AccumulatedMetric):
    """NeuroBench's `SynapticOperations`, run for each connection alone."""

    def __init__(self) -> None:
        super().__init__(requires_hooks=True)
        self.reset()

    def reset(self) -> None:
        """Before a run."""
        self.metrics: list[SynapticOperations] = []

    def __call__(self, model: Any, preds: Tensor, data: tuple[Tensor, Tensor]) -> Any:
        """After a batch."""
        if not self.metrics:
            self.metrics = [SynapticOperations() for _ in model.connection_hooks]
        for metric, hook in zip(self.metrics, model.connection_hooks, strict=True):
            metric(SimpleNamespace(connection_hooks=[hook]), preds, data)
        return self.compute()

    def compute(self) -> list[dict[str, float]]:
        """Operations per sample, in the order of the network's modules."""
        return [metric.compute() for metric in self.metrics]


STATIC = (ParameterCount, Footprint, ConnectionSparsity)
WORKLOAD = (SynapticOperations, ByConnection, ActivationSparsity, ActivationSparsityByLayer)


def neurobench(
    model: Any,
    inputs: Tensor,
    batch_size: int = BATCH,
    static: Sequence[Any] = STATIC,
    workload: Sequence[Any] = WORKLOAD,
) -> dict[str, Any]:
    """What NeuroBench reports of a model on inputs (time, batch, channel)."""
    data = TensorDataset(inputs.transpose(0, 1), torch.zeros(inputs.shape[1]))
    loader = DataLoader(data, batch_size=batch_size)
    with torch.no_grad():
        results: dict[str, Any] = Benchmark(
            model, loader, [], [], [list(static), list(workload)]
        ).run(quiet=True)
    return results


def by_layer(results: dict[str, Any], kind: str) -> list[float]:
    """Of NeuroBench's numbers by connection; a layer's own come from below and from its recurrence."""
    numbers = [connection[kind] for connection in results["ByConnection"]]
    below, within = numbers[: len(LAYERS)], numbers[len(LAYERS) :]
    within += [0.0] * (len(LAYERS) - len(within))
    return [a + b for a, b in zip(below, within, strict=True)]
