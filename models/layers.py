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

import torch
from torch import Tensor, nn

from snnbench.models.neurons import LIFParameters, decay
from snnbench.models.scan import scan
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
        self.neuron = LIFParameters.from_spec(spec.neuron, dt_s)
        self.surrogate = make_surrogate(spec.surrogate)
        self.dropout = spec.dropout
        self.weight = initial_weight(
            n_units, n_in, gain=spec.input_gain, generator=generator, **taus
        )
        self.recurrent_weight = (
            initial_weight(n_units, n_units, gain=spec.recurrent_gain, generator=generator, **taus)
            if spec.recurrent
            else None
        )

    def forward(self, spikes: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """This layer's spikes from those below, of shape (time, batch, unit below).

        With a `dropout` generator each unit is silent for a whole sample with the spec's probability,
        and the others' spikes count 1 / (1 - probability).
        """
        # all time steps through the weights at once: one large product instead of one per step
        drive = nn.functional.linear(spikes, self.weight)
        gate = None
        if dropout is not None and self.dropout > 0:
            draw = torch.rand(drive.shape[1:], generator=dropout, device=drive.device)
            gate = (draw >= self.dropout).to(drive.dtype) / (1 - self.dropout)
        return scan(drive, self.recurrent_weight, self.neuron, self.surrogate, gate=gate).spikes
