"""SpikingJelly: a `CUBALIFNode` inside an `ElementWiseRecurrentContainer` that adds the recurrent product.

The new current reaches the membrane in the same step. SuperSpike's `alpha` is its height, not its slope,
which is 1; with a height above 1 gradients grow through the recurrence until they overflow.

The container is stepped by the caller over `unbind`: its multi-step mode indexes the sequence in each step,
and the documented `LinearRecurrentContainer` multiplies the drive with an identity besides; both take
longer. So does `NonSpikingLIFNode` on long sequences, for which the readout is a plain loop. What the library
fuses on a GPU, feed-forward layers over all steps, has no recurrent counterpart.
"""

from __future__ import annotations

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from peers.contender import Case, Contender, Data, Options, draw_weights
from peers.torch_step import leaky_readout, parameters_of, torch_contender


class Network(nn.Module):
    """One hidden layer and a readout."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        first = parameters_of(draw_weights(case))
        self.input, self.output = first["input"], first["output"]
        self.recurrent = nn.Linear(case.hidden, case.hidden, bias=False)
        self.recurrent.weight = first["recurrent"]
        neurons = neuron.CUBALIFNode(
            c_decay=case.alpha,
            v_decay=case.beta,
            v_reset=None,  # subtracts the threshold
            surrogate_function=surrogate.SuperSpike(alpha=1.0),
        )
        neurons.detach_reset = True
        self.hidden = layer.ElementWiseRecurrentContainer(
            neurons, lambda spikes, drive: drive + self.recurrent(spikes)
        )
        self.alpha, self.beta = case.alpha, case.beta

    def forward(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and hidden spikes from spikes (time, batch, input)."""
        functional.reset_net(self.hidden)
        drives = nn.functional.linear(spikes, self.input)
        hidden = torch.stack([self.hidden(drive) for drive in drives.unbind(0)])
        drives = nn.functional.linear(hidden, self.output)
        return leaky_readout(drives, self.alpha, self.beta), hidden


def cubalif(case: Case, data: Data, options: Options) -> Contender:
    """The recurrent container, step by step."""
    network = Network(case).to(options.device)
    return torch_contender(
        network,
        list(network.parameters()),
        torch.from_numpy(data.dense(case)).to(options.device),
        torch.from_numpy(data.labels).to(options.device),
        input_weight=network.input,
        graphed=options.graphed,
    )
