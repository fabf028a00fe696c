"""Norse: a `LIFRecurrent` layer, which multiplies with its weights in every step, and an `LI` readout.

Forward Euler instead of exponentials; the new current reaches the membrane in the same step; reset to
zero, through which no gradient goes. Norse's SuperSpike has a slope of 1.
"""

from __future__ import annotations

import norse.torch as norse
import torch
from torch import Tensor, nn

from peers.contender import (
    N_INPUTS,
    TAU_MEM_S,
    TAU_SYN_S,
    Case,
    Contender,
    Data,
    Options,
    draw_weights,
)
from peers.torch_step import parameters_of, torch_contender


class Network(nn.Module):
    """One hidden layer and a readout."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        first = parameters_of(draw_weights(case))
        taus = {
            "tau_syn_inv": torch.tensor(1 / TAU_SYN_S),
            "tau_mem_inv": torch.tensor(1 / TAU_MEM_S),
        }
        self.hidden = norse.LIFRecurrent(
            N_INPUTS,
            case.hidden,
            p=norse.LIFParameters(**taus, method="super"),
            input_weights=first["input"],
            recurrent_weights=first["recurrent"],
            autapses=True,  # a hook on the gradient less
            dt=case.dt_s,
        )
        self.output = first["output"]
        self.readout = norse.LI(p=norse.LIParameters(**taus), dt=case.dt_s)

    def forward(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and hidden spikes from spikes (time, batch, input)."""
        hidden, _ = self.hidden(spikes)
        membranes, _ = self.readout(nn.functional.linear(hidden, self.output))
        return membranes.max(dim=0).values, hidden


def lif_recurrent(case: Case, data: Data, options: Options) -> Contender:
    """The library's own layers from end to end."""
    network = Network(case)
    return torch_contender(
        network,
        list(network.parameters()),
        torch.from_numpy(data.dense(case)),
        torch.from_numpy(data.labels),
        input_weight=network.hidden.input_weights,
    )
