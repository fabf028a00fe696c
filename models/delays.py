"""Delays between layers: spikes from below arrive later, and so moments far apart can meet in one unit.

Learned delays (Hammouamri, Khalfaoui-Hassani & Masquelier 2024, "Learning delays in spiking neural networks
using dilated convolutions with learnable spacings", section 3). Each synapse i <- j has a weight w_ij and a
delay d_ij, and the drive is a convolution over time,

    D_i[n] = sum_j w_ij sum_{k = 0..K} g_ij(k) S_j[n - k],    K = max_s / dt,

    g_ij(k) = exp(-(k - d_ij)^2 / (2 sigma^2)) / sum_m exp(-(m - d_ij)^2 / (2 sigma^2)),

all delays in bins. A wide Gaussian hears of spikes far from its delay, so gradients find good ones; sigma
falls from half of the K + 1 bins to 0.23 in the first quarter of the epochs. In evaluation the delay is
rounded and the kernel has one tap: D_i[n] = sum_j w_ij S_j[n - d_ij]. As in the source the optimiser moves
delays freely, and after each of its steps they are put back between 0 and K: at a bound the gradient inwards
is as strong as elsewhere, where a sigmoid in place of the bound would have faded.

A delay line (Nowotny, Turner & Knight 2025) has fixed delays d_k and a weight for each of them,

    D_i[n] = sum_k sum_j w_kij S_j[n - d_k].

Spikes go through the weights of all taps where they occur, and what comes of it is moved: so the products
follow spikes, of which there are few, as without delays.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnbench.connection_spec import DelayLineSpec, LearnedDelaySpec


class LearnedDelays(nn.Module):
    """Synapses with a weight and a delay each.

    Parameters
    ----------
    weight
        At the start, shape (unit, input).
    spec
        Largest delay, and how the Gaussian narrows.
    dt_s
        Width of a time bin.
    generator
        Where the initial delays come from.
    """

    def __init__(
        self, weight: nn.Parameter, spec: LearnedDelaySpec, dt_s: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.spec, self.dt_s = spec, dt_s
        self.n_bins = spec.n_bins(dt_s)
        self.weight = weight
        draw = torch.rand(weight.shape, generator=generator)
        self.position = nn.Parameter(draw * self.n_bins)
        """Delays in bins, shape (unit, input)."""
        self.begin_epoch(0.0)

    def begin_epoch(self, share_of_training: float) -> None:
        """Set the Gaussian's width in bins, when this share of the epochs is over. Evaluation has none."""
        self.sigma = self.spec.sigma(share_of_training, self.dt_s)

    @torch.no_grad()
    def constrain(self) -> None:
        """Put delays that a step of the optimiser took too far back between 0 and the largest."""
        self.position.clamp_(0.0, self.n_bins)

    @property
    def whole_bins(self) -> Tensor:
        """Delays in bins as evaluation takes them, int64 of shape (unit, input)."""
        return self.position.detach().round().long()

    def kernel(self) -> Tensor:
        """w_ij g_ij(k), of shape (unit, input, K + 1); in evaluation with one tap for each synapse."""
        if not self.training:
            taps = functional.one_hot(self.whole_bins, self.n_bins + 1)
            return self.weight[:, :, None] * taps.to(self.weight.dtype)
        bins = torch.arange(self.n_bins + 1, dtype=self.position.dtype, device=self.position.device)
        away = (bins - self.position[:, :, None]) / self.sigma
        # far from its middle a narrow Gaussian is a denormal number, which takes processors some three times
        # as long; e^-60 changes no sum either
        exponent = -0.5 * away.square()
        exponent = exponent - exponent.detach().amax(dim=2, keepdim=True)
        exponent = exponent.masked_fill(exponent.detach() < -60.0, -60.0)
        # a softmax over bins is the Gaussian divided by its sum, however narrow it is
        return self.weight[:, :, None] * exponent.softmax(dim=2)

    def forward(self, spikes: Tensor) -> Tensor:
        """Drive (time, batch, unit) of spikes (time, batch, input)."""
        # before the first step there was silence
        padded = functional.pad(spikes.permute(1, 2, 0), (self.n_bins, 0))
        # the last tap of PyTorch's convolution meets the present
        return functional.conv1d(padded, self.kernel().flip(2)).permute(2, 0, 1)


class DelayLine(nn.Module):
    """Synapses with a weight for each of some delays.

    Parameters
    ----------
    weight
        At the start, shape (unit, tap * input), tap by tap.
    spec
        The taps.
    dt_s
        Width of a time bin.
    """

    def __init__(self, weight: nn.Parameter, spec: DelayLineSpec, dt_s: float) -> None:
        super().__init__()
        self.bins = spec.bins(dt_s)
        self.weight = weight

    @property
    def of_all_taps(self) -> Tensor:
        """The weights one tap above the other, shape (tap * unit, input)."""
        return torch.cat(self.weight.chunk(len(self.bins), dim=1))

    def forward(self, at_once: Tensor) -> Tensor:
        """Drive (time, batch, unit), from that without delay for all taps, (time, batch, tap * unit)."""
        by_sample = at_once.transpose(0, 1)  # as the scan has it in memory
        taps = zip(by_sample.chunk(len(self.bins), dim=2), self.bins, strict=True)
        return reduce(torch.add, (_later(part, d) for part, d in taps)).transpose(0, 1)


def _later(drive: Tensor, n_steps: int) -> Tensor:
    """A drive (batch, time, unit), so many steps later: silence comes first, and the end is lost."""
    shift = min(n_steps, drive.shape[1])
    return functional.pad(drive, (0, 0, shift, -shift))


def delay_positions(network: nn.Module) -> list[nn.Parameter]:
    """All delays that are trained in a network."""
    return [m.position for m in network.modules() if isinstance(m, LearnedDelays)]
