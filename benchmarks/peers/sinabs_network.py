"""Sinabs: a `LIFRecurrent` layer with a synaptic current, and an `ExpLeak` readout.

The new current reaches the membrane in the same step; the surrogate is an exponential. Time constants, which
Sinabs trains unless told otherwise, are fixed here as in the other networks. Its loop indexes the sequence
in each step, which makes the backward pass quadratic in the number of steps.
"""

from __future__ import annotations

import sinabs.layers
import torch
from sinabs.activation import SingleExponential, SingleSpike
from torch import Tensor, nn

from peers.contender import TAU_MEM_S, TAU_SYN_S, Case, Contender, Data, Options, draw_weights
from peers.torch_step import parameters_of, torch_contender


class Network(nn.Module):
    """One hidden layer and a readout."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        first = parameters_of(draw_weights(case))
        recurrent = nn.Linear(case.hidden, case.hidden, bias=False)
        recurrent.weight = first["recurrent"]
        tau_mem = TAU_MEM_S / case.dt_s
        self.hidden = sinabs.layers.LIFRecurrent(
            tau_mem=tau_mem,
            tau_syn=TAU_SYN_S / case.dt_s,
            rec_connect=recurrent,
            spike_fn=SingleSpike,
            surrogate_grad_fn=SingleExponential(grad_width=0.5, grad_scale=0.5),  # 1 at threshold
            norm_input=False,
        )
        self.readout = sinabs.layers.ExpLeak(tau_mem=tau_mem)
        for layer in (self.hidden, self.readout):
            for parameter in layer.parameters():
                parameter.requires_grad_(False)
        recurrent.weight.requires_grad_(True)
        self.input, self.output = first["input"], first["output"]

    def forward(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and hidden spikes from spikes (batch, time, input)."""
        self.hidden.reset_states()
        self.readout.reset_states()
        hidden = self.hidden(nn.functional.linear(spikes, self.input))
        membranes = self.readout(nn.functional.linear(hidden, self.output))
        return membranes.max(dim=1).values, hidden


def lif_recurrent(case: Case, data: Data, options: Options) -> Contender:
    """The library's own layers from end to end."""
    network = Network(case)
    return torch_contender(
        network,
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        torch.from_numpy(data.dense(case)).transpose(0, 1).contiguous(),
        torch.from_numpy(data.labels),
        input_weight=network.input,
    )
