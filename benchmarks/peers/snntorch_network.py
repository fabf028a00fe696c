"""snnTorch: an `RSynaptic` layer stepped in a loop, and a `Leaky` readout without reset.

The new current reaches the membrane in the same step. Drives come from one product for all steps.
"""

from __future__ import annotations

import snntorch
import torch
from torch import Tensor, nn

from peers.contender import SURROGATE_SLOPE, Case, Contender, Data, Options, draw_weights
from peers.torch_step import parameters_of, torch_contender


class Network(nn.Module):
    """One hidden layer and a readout."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        first = parameters_of(draw_weights(case))
        self.input, self.output = first["input"], first["output"]
        self.hidden = snntorch.RSynaptic(
            alpha=case.alpha,
            beta=case.beta,
            linear_features=case.hidden,
            spike_grad=snntorch.surrogate.fast_sigmoid(slope=SURROGATE_SLOPE),
        )
        self.hidden.recurrent = nn.Linear(case.hidden, case.hidden, bias=False)
        self.hidden.recurrent.weight = first["recurrent"]
        self.readout = snntorch.Leaky(beta=case.beta, reset_mechanism="none")

    def forward(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and hidden spikes from spikes (time, batch, input)."""
        spike, syn, mem = self.hidden.reset_mem()
        recorded = []
        for drive in nn.functional.linear(spikes, self.input).unbind(0):
            spike, syn, mem = self.hidden(drive, spike, syn, mem)
            recorded.append(spike)
        hidden = torch.stack(recorded)
        mem = self.readout.reset_mem()
        membranes = []
        for drive in nn.functional.linear(hidden, self.output).unbind(0):
            _, mem = self.readout(drive, mem)
            membranes.append(mem)
        return torch.stack(membranes).max(dim=0).values, hidden


def rsynaptic(case: Case, data: Data, options: Options) -> Contender:
    """The documented loop."""
    network = Network(case)
    return torch_contender(
        network,
        list(network.parameters()),
        torch.from_numpy(data.dense(case)),
        torch.from_numpy(data.labels),
        input_weight=network.input,
    )
