"""What NeuroBench's numbers follow from, by rules of its code that we wrote down again.

Of `neurobench.metrics`: `workload.synaptic_operations`, `utils.layers`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from beside_neurobench.ours import LAYERS, N_SAMPLES, Counted
from beside_neurobench.theirs import ACS, BATCH, MACS
from snnbench.models.network import SpikingNetwork


def by_neurobench_rule(ours: Counted, batch_size: int = BATCH) -> dict[str, list[float]]:
    """Effective operations per sample and layer by what we take for NeuroBench's rule, from the spikes.

    One operation for each input that is not 0 and each weight that is not 0. Those of a batch in one step and
    one matrix are multiply-accumulates, all of them, if any of its inputs is not 0, 1 or -1. Recurrent
    matrices hear the step before.
    """
    found = {kind: dict.fromkeys(LAYERS, 0.0) for kind in (ACS, MACS)}
    for name, source, weight, recurrent in synapses(ours.network):
        spikes = ours.spikes[source]
        if recurrent:
            spikes = torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]])
        fan_out = (weight != 0).sum(dim=0)
        for step in spikes:
            for batch in step.split(batch_size):
                kind = MACS if (batch > 1).any() else ACS
                found[kind][name] += float(((batch != 0).sum(dim=0) * fan_out).sum()) / N_SAMPLES
    return {kind: list(layers.values()) for kind, layers in found.items()}


def by_our_rule(ours: Counted) -> list[float]:
    """Accumulates per sample and layer as docs/protocol.md has them, from the spikes.

    k for each input of k spikes and each weight, also of 0. Recurrent matrices hear their own step.
    """
    found = dict.fromkeys(LAYERS, 0.0)
    for name, source, weight, _ in synapses(ours.network):
        found[name] += float(ours.spikes[source].sum()) * len(weight) / N_SAMPLES
    return list(found.values())


def synapses(network: SpikingNetwork) -> Iterator[tuple[str, int, Tensor, bool]]:
    """Layer in which it ends, index of the spikes that it carries, weight, and whether it is recurrent."""
    for i, layer in enumerate(network.layers, start=1):
        yield f"hidden{i}", i - 1, layer.weight, False
        if layer.recurrent_weight is not None:
            yield f"hidden{i}", i, layer.recurrent_weight, True
    yield "readout", len(network.layers), network.readout.weight, False


def places_met(module: nn.Module, arriving: Tensor) -> float:
    """Weights times the places where these inputs meet them, per sample."""
    if isinstance(module, nn.Linear):
        return float(arriving.sum()) * module.out_features / N_SAMPLES
    assert isinstance(module, nn.Conv2d)
    along = []
    axes = zip(arriving.shape[2:], module.kernel_size, module.stride, strict=True)
    for length, kernel, stride in axes:
        fan_out = torch.zeros(length)
        for centre in range(0, length, stride):
            fan_out[max(0, centre - kernel // 2) : centre + kernel // 2 + 1] += 1
        along.append(fan_out)
    met = (arriving * along[0][:, None] * along[1]).sum()
    return float(met) * module.out_channels / N_SAMPLES


def size_of_buffers(module: nn.Module) -> int:
    """Bytes of all that is no parameter."""
    return sum(b.numel() * b.element_size() for b in module.buffers())
