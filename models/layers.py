"""Spiking layers and how their weights begin.

The update in `snnbench.models.neurons` has no factor that undoes the bin width: halve dt, and a weight
does about twice as much, because the current acts on the membrane in twice as many steps. One unit of
weight adds 1 / ((1 - alpha) (1 - beta)) to the sum of the membrane over all steps. Initial weights are
therefore drawn as

    w = g / sqrt(n_in) * (1 - alpha) (1 - beta) tau_mem / dt * U(-1, 1)

so that the area under the response to one spike is g / sqrt(n_in) * tau_mem * U(-1, 1), in membrane times
seconds, for every bin width: input spikes at rate r move the mean membrane by r tau_mem times the
weight's dimensionless part. The gain g is `input_gain` or `recurrent_gain` of the model's spec.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from snnbench.data_prep.batch import EventBatch
from snnbench.models.engines import Engine
from snnbench.models.neurons.lif import LIF, decay, parameters_from_spec
from snnbench.models.scan import scan
from snnbench.models.scan_types import Cell, ScanResult
from snnbench.models.surrogate import make_surrogate
from snnbench.spec import ModelSpec


def initial_weight(
    n_out: int,
    n_in: int,
    *,
    gain: float,
    tau_mem_s: float,
    tau_syn_s: float,
    dt_s: float,
    generator: torch.Generator,
) -> nn.Parameter:
    """A weight of shape (n_out, n_in), drawn as the module's docstring tells."""
    alpha, beta = decay(dt_s, tau_syn_s), decay(dt_s, tau_mem_s)
    bound = gain / math.sqrt(n_in) * (1 - alpha) * (1 - beta) * tau_mem_s / dt_s
    return nn.Parameter((2 * torch.rand(n_out, n_in, generator=generator) - 1) * bound)


class SpikingLayer(nn.Module):
    """LIF neurons that see all units of the layer below, and with `spec.recurrent` each other.

    Parameters
    ----------
    n_in, n_units
        Units below and in this layer.
    spec
        The network's spec: neuron, surrogate, gains, recurrence, dropout.
    dt_s
        Width of a time bin.
    generator
        Where the initial weights come from.
    """

    def __init__(
        self, n_in: int, n_units: int, spec: ModelSpec, dt_s: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        taus = {
            "tau_mem_s": spec.neuron.tau_mem_s,
            "tau_syn_s": spec.neuron.tau_syn_s,
            "dt_s": dt_s,
        }
        self.cell = Cell(
            LIF,
            parameters_from_spec(spec.neuron, dt_s),
            make_surrogate(spec.surrogate),
            spec.neuron.reset,
            spec.neuron.gradient_through_reset,
        )
        self.dropout = spec.dropout
        self.weight = initial_weight(
            n_units, n_in, gain=spec.input_gain, generator=generator, **taus
        )
        self.recurrent_weight = (
            initial_weight(n_units, n_units, gain=spec.recurrent_gain, generator=generator, **taus)
            if spec.recurrent
            else None
        )

    def forward(
        self,
        inputs: Tensor | EventBatch,
        *,
        weight: Tensor | None,
        outgoing_weight: Tensor | None = None,
        gate: Tensor | None = None,
        state: Any = None,
        engine: Engine = "auto",
        keep_spikes: bool = False,
        keep_membranes: bool = False,
    ) -> ScanResult:
        """What this layer does. Parameters as in `snnbench.models.scan.scan`.

        `weight` is the layer's own for spikes from below; None says that `inputs` have been through it, as
        the `outgoing_weight` of the layer below. `gate` comes from `draw_gate`.
        """
        return scan(
            inputs,
            weight,
            self.recurrent_weight,
            self.cell,
            outgoing_weight=outgoing_weight,
            state=state,
            gate=gate,
            keep_spikes=keep_spikes,
            keep_membranes=keep_membranes,
            engine=engine,
        )

    def draw_gate(self, n_batch: int, dropout: torch.Generator | None) -> Tensor | None:
        """Dropout for a batch: each unit is silent for a whole sample with the spec's probability, and the
        others' spikes count 1 / (1 - probability). None without a generator or a probability.
        """
        if dropout is None or self.dropout == 0:
            return None
        size = (n_batch, len(self.weight))
        draw = torch.rand(size, generator=dropout, device=self.weight.device)
        return (draw >= self.dropout).to(self.weight.dtype) / (1 - self.dropout)
