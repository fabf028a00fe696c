"""Convolution over channels: units of a filter see neighbouring positions through the same weights.

Neighbouring channels are neighbouring frequencies, and a sound that is shifted along them stays the same
sound. A layer has units (filter f, position y), written one filter after the other, with the drive

    D[n, f, y] = sum_g sum_j w[f, g, j] S[n, g, y * stride + j - kernel // 2]

from the filters g of the layer below, where positions beyond the ends are silent; the input is one filter.
Recurrent weights may be a convolution as well, between all filters of a layer:

    V[(f, y), (g, x)] = v[f, g, x - y + kernel // 2], and 0 where that is outside of v

(the recurrent convolutional network of Rossbroich, Gygax & Zenke 2022, "Fluctuation-driven initialization
for spiking neural network training"). The scan takes V as any recurrent weights.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from snnbench.connection_spec import ConvShape


class ChannelConvolution(nn.Module):
    """Weights of shape (filter, filter below, kernel), given as (filter, filter below * kernel)."""

    def __init__(self, weight: nn.Parameter, shape: ConvShape) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(weight.detach().view(*_kernel_size(shape)))

    def forward(self, spikes: Tensor) -> Tensor:
        """Drive (time, batch, unit) of spikes (time, batch, input)."""
        n_steps, n_batch, _ = spikes.shape
        by_sample = spikes.transpose(0, 1)  # as the scan has them in memory
        maps = by_sample.reshape(-1, self.shape.filters_in, self.shape.positions_in)
        drive = functional.conv1d(
            maps, self.weight, stride=self.shape.stride, padding=self.shape.padding
        )
        return drive.view(n_batch, n_steps, -1).transpose(0, 1)


class LocalRecurrence(nn.Module):
    """Recurrent weights (filter, filter, kernel) that all positions share, given as above."""

    def __init__(self, weight: nn.Parameter, shape: ConvShape) -> None:
        super().__init__()
        self.shape = shape
        self.kernel = nn.Parameter(weight.detach().view(*_kernel_size(shape)))

    def matrix(self) -> Tensor:
        """V, shape (unit, unit): row i holds the weights onto unit i."""
        n_filters, n_positions = self.shape.filters, self.shape.positions
        # by distance x - y from 1 - n to n - 1; those that the kernel does not reach are 0
        around = n_positions - 1 - self.shape.padding
        by_distance = functional.pad(self.kernel, (around, around))
        # window s begins at distance s - (n - 1), so it is the row of y = n - 1 - s
        rows = by_distance.unfold(2, n_positions, 1).flip(2)
        return rows.permute(0, 2, 1, 3).reshape(n_filters * n_positions, -1)


def _kernel_size(shape: ConvShape) -> tuple[int, int, int]:
    return shape.filters, shape.filters_in, shape.kernel
