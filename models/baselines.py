"""Networks without spiking neurons: LSTM, CNN, and a linear readout of spike counts.

X[n] are the spikes of all input channels in time bin n, as numbers; whatever follows is dense. Products with
weights carry a bias, but for convolutions that a normalisation follows, which has a shift of its own.

LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers, Schmidhuber & Cummins 2000), s the logistic
function:

    i, f, o = s(W X[n] + V H[n - 1] + b)          three gates, each with weights of its own
    C[n] = f C[n - 1] + i tanh(W_g X[n] + V_g H[n - 1] + b_g),    H[n] = o tanh(C[n])

with linear values A H[n] + a of the classes, and the logits their maximum over n, the last one or their mean.
Weights and biases begin as in PyTorch, U(-1, 1) / sqrt(units), but for the forget gates' biases, which add up
to 1 (Jozefowicz, Zaremba & Sutskever 2015): at 0 a gate keeps half of the cell in each step, a millionth in
20, and no gradient would come back from further. Dropout acts on what a layer sends up, not within it.

CNN: in each layer relu(norm(K * X + b)), K * X a convolution with zeros around its input, at every
`stride`-th place; then the mean over time of every feature map at every place along the channels, and a
linear readout of these. A convolution over time alone is the same with all channels as maps of one place.

Counts: a linear readout of log(1 + spikes) or spikes in some bins of time and channels. Convolutions and
linear readouts begin as in PyTorch, U(-1, 1) / sqrt(inputs of a unit).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from snnbench.baseline_spec import BaselineSpec, CnnSpec, CountsSpec, LstmSpec
from snnbench.data_prep.batch import EventBatch
from snnbench.models.network_base import Network, NetworkOutput
from snnbench.models.scan import drive
from snnbench.sizes import LayerSize


class LstmLayer(nn.Module):
    """LSTM units, with `bidirectional` as many again that run backwards in time."""

    def __init__(
        self, n_in: int, n_units: int, *, bidirectional: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        # as in skip_init, which does not know LSTM: PyTorch's own would draw from the global generator
        lstm = nn.LSTM(n_in, n_units, bidirectional=bidirectional, device="meta")
        self.lstm: nn.LSTM = lstm.to_empty(device="cpu")
        for name, parameter in self.lstm.named_parameters():
            _uniform(parameter, n_units, generator)
            if name.startswith("bias"):
                # two biases, input's and hidden's, of the gates i, f, g, o
                forget = parameter.detach()[n_units : 2 * n_units]
                forget.fill_(1.0 if name.startswith("bias_ih") else 0.0)

    def train(self, mode: bool = True) -> LstmLayer:
        """Training and evaluation are the same here; cuDNN gives no gradients in evaluation."""
        return super().train()

    def forward(self, inputs: Tensor) -> Tensor:
        """H of shape (time, batch, unit) from inputs (time, batch, input); forward units first."""
        hidden: Tensor = self.lstm(inputs)[0]
        return hidden


class LstmNetwork(Network):
    """See the module's docstring. Parameters as in `snnbench.models.network.build`."""

    def __init__(
        self, spec: LstmSpec, n_inputs: int, n_outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.reduce, self.dropout = spec.reduce, spec.dropout
        self.directions = 1 + spec.bidirectional
        below = (n_inputs, *(self.directions * size for size in spec.hidden))
        self.layers = nn.ModuleList(
            LstmLayer(n_in, size, bidirectional=spec.bidirectional, generator=generator)
            for n_in, size in zip(below, spec.hidden, strict=False)
        )
        self.readout = _linear(below[-1], n_outputs, generator)

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """hidden1, hidden2, ..., readout."""
        return _named([*self.layers, self.readout])

    def layer_sizes(self) -> list[LayerSize]:
        """Units of both directions together."""
        layers = [layer.lstm for layer in self.layers if isinstance(layer, LstmLayer)]
        hidden = [
            LayerSize(
                name,
                n_inputs=lstm.input_size,
                n_units=self.directions * lstm.hidden_size,
                recurrent=True,
                n_others=_numel(lstm, "bias"),
                weights=_numel(lstm, "weight_ih"),
                recurrent_weights=_numel(lstm, "weight_hh"),
            )
            for (name, _), lstm in zip(self.parts, layers, strict=False)
        ]
        return [*hidden, _readout_size(self.readout, 1 if self.reduce == "max" else None)]

    def forward(
        self, inputs: Tensor | EventBatch, dropout: torch.Generator | None = None
    ) -> NetworkOutput:
        """As `Network.forward`."""
        hidden = drive(inputs, None).to(self.readout.weight.dtype)
        for layer in self.layers:
            hidden = layer(hidden)
            hidden = _silenced(hidden, hidden.shape[1:], self.dropout, dropout)
        return NetworkOutput(self._logits(hidden), ())

    def _logits(self, hidden: Tensor) -> Tensor:
        if self.reduce == "max":
            over_time: Tensor = self.readout(hidden)
            return over_time.max(dim=0).values
        if self.reduce == "mean":
            hidden = hidden.mean(dim=0)
        else:
            # where each direction has seen all of the input
            ahead, back = (
                hidden.chunk(2, dim=2) if self.directions == 2 else (hidden, hidden[:, :, :0])
            )
            hidden = torch.cat([ahead[-1], back[0]], dim=1)
        logits: Tensor = self.readout(hidden)
        return logits


class ConvolutionalNetwork(Network):
    """See the module's docstring. Parameters as in `snnbench.models.network.build`."""

    def __init__(
        self, spec: CnnSpec, n_inputs: int, n_outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.dropout = spec.dropout
        self.over_channels = len(spec.kernel) == 2
        maps, self.n_places = (1, n_inputs) if self.over_channels else (n_inputs, 1)
        kernel, stride = ((*sizes, 1)[:2] for sizes in (spec.kernel, spec.stride))
        self.layers = nn.ModuleList()
        for below, above in pairwise((maps, *spec.channels)):
            convolution = nn.utils.skip_init(
                nn.Conv2d,
                below,
                above,
                kernel,
                stride=stride,
                padding=tuple(size // 2 for size in kernel),
                bias=spec.norm == "none",
            )
            for parameter in convolution.parameters():
                _uniform(parameter, below * math.prod(kernel), generator)
            norm = nn.BatchNorm2d(above) if spec.norm == "batch" else nn.Identity()
            self.layers.append(nn.Sequential(convolution, norm, nn.ReLU()))
        places = -(-self.n_places // stride[1] ** len(spec.channels))
        self.readout = _linear(spec.channels[-1] * places, n_outputs, generator)

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """hidden1, hidden2, ..., readout."""
        return _named([*self.layers, self.readout])

    def layer_sizes(self) -> list[LayerSize]:
        """A layer's units are its feature maps at all places along the channels."""
        sizes, places, every = [], self.n_places, 1
        for name, layer in self.parts[:-1]:
            convolution = layer.get_submodule("0")
            assert isinstance(convolution, nn.Conv2d)
            above = -(-places // convolution.stride[1])
            every *= convolution.stride[0]
            sizes.append(
                LayerSize(
                    name,
                    n_inputs=convolution.in_channels * places,
                    n_units=convolution.out_channels * above,
                    recurrent=False,
                    n_others=_numel(layer, "") - convolution.weight.numel(),
                    weights=convolution.weight.numel(),
                    synapses=above * convolution.weight.numel(),
                    every=every,
                )
            )
            places = above
        return [*sizes, _readout_size(self.readout, None)]

    def forward(
        self, inputs: Tensor | EventBatch, dropout: torch.Generator | None = None
    ) -> NetworkOutput:
        """As `Network.forward`."""
        counts = drive(inputs, None).to(self.readout.weight.dtype)
        # (batch, map, time, place)
        hidden = counts.permute(1, 2, 0)[..., None]
        if self.over_channels:
            hidden = hidden.permute(0, 3, 2, 1)
        for layer in self.layers:
            hidden = layer(hidden)
            hidden = _silenced(hidden, hidden.shape, self.dropout, dropout)
        return NetworkOutput(self.readout(hidden.mean(dim=2).flatten(1)), ())


class CountsNetwork(Network):
    """See the module's docstring. Parameters as in `snnbench.models.network.build`."""

    def __init__(
        self, spec: CountsSpec, n_inputs: int, n_outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.log, self.time_bins = spec.log, spec.time_bins
        self.channel_bins = spec.channel_bins or n_inputs
        self.readout = _linear(self.time_bins * self.channel_bins, n_outputs, generator)

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """The readout."""
        return _named([self.readout])

    def layer_sizes(self) -> list[LayerSize]:
        """The readout; its inputs are the counts."""
        return [_readout_size(self.readout, None)]

    def forward(
        self, inputs: Tensor | EventBatch, dropout: torch.Generator | None = None
    ) -> NetworkOutput:
        """As `Network.forward`."""
        counts = drive(inputs, None).to(self.readout.weight.dtype)
        counts = _summed(counts.transpose(0, 1), 1, self.time_bins)
        counts = _summed(counts, 2, self.channel_bins).flatten(1)
        return NetworkOutput(self.readout(counts.log1p() if self.log else counts), ())


def build_baseline(
    spec: BaselineSpec, n_inputs: int, n_outputs: int, generator: torch.Generator
) -> Network:
    """A network of the spec's kind with fresh weights; parameters as in `snnbench.models.network.build`."""
    if isinstance(spec, LstmSpec):
        return LstmNetwork(spec, n_inputs, n_outputs, generator)
    if isinstance(spec, CnnSpec):
        return ConvolutionalNetwork(spec, n_inputs, n_outputs, generator)
    return CountsNetwork(spec, n_inputs, n_outputs, generator)


def _summed(counts: Tensor, dim: int, n_bins: int) -> Tensor:
    """Sums over neighbours along an axis, in `n_bins` groups that differ by one in size at most."""
    n = counts.shape[dim]
    if n == n_bins:
        return counts
    shape = list(counts.shape)
    shape[dim] = n_bins
    groups = torch.arange(n, device=counts.device) * n_bins // n
    return counts.new_zeros(shape).index_add_(dim, groups, counts)


def _silenced(
    hidden: Tensor, shape: torch.Size, probability: float, dropout: torch.Generator | None
) -> Tensor:
    """Dropout with one draw for each number of a tensor of this shape; the others count for more."""
    if dropout is None or probability == 0:
        return hidden
    draw = torch.rand(shape, generator=dropout, device=hidden.device)
    return hidden * ((draw >= probability).to(hidden.dtype) / (1 - probability))


def _linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out)
    for parameter in layer.parameters():
        _uniform(parameter, n_in, generator)
    return layer


def _uniform(parameter: nn.Parameter, n_in: int, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(n_in)
    nn.init.uniform_(parameter, -bound, bound, generator=generator)


def _readout_size(readout: nn.Linear, every: int | None) -> LayerSize:
    n_in, n_out = readout.in_features, readout.out_features
    return LayerSize("readout", n_in, n_out, False, readout.bias.numel(), every=every)


def _named(modules: list[nn.Module]) -> list[tuple[str, nn.Module]]:
    names = [*(f"hidden{i}" for i in range(1, len(modules))), "readout"]
    return list(zip(names, modules, strict=True))


def _numel(module: nn.Module, prefix: str) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if name.startswith(prefix))
