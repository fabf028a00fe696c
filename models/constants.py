"""Constants of neurons that differ from unit to unit, and may be trained within bounds.

A trained constant c is kept between low and high by

    c = low^(1 - s) high^s        of a time constant or another positive number
    c = low (1 - s) + high s      else

with s = 1 / (1 + exp(-raw)), where `raw`, one per unit, is what the optimiser moves: no value is ever
outside, and a gradient never meets a wall that a clipped one would stop at.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from snnbench.model_spec import PerUnit, PositivePerUnit

_GAMMA_SHAPE = 3.0
_INSIDE = 1e-3  # a first value at a bound itself would never leave it: s has no slope there
_ROUNDING = 1e-6  # what is as near to a bound as this would be at infinity


class UnitConstant(nn.Module):
    """A constant for each unit of a layer.

    Parameters
    ----------
    spec
        Bounds, how the first values are drawn, and whether they are trained.
    n_units
        Size of the layer.
    generator
        Where the first values come from.
    """

    def __init__(self, spec: PerUnit, n_units: int, generator: torch.Generator) -> None:
        super().__init__()
        self.low, self.high = spec.low, spec.high
        self.logarithmic = isinstance(spec, PositivePerUnit)
        share = self._share_of(first_values(spec, n_units, generator))
        raw = torch.logit(share.clamp(_INSIDE, 1 - _INSIDE)).float()
        if spec.learned:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    def forward(self) -> Tensor:
        """The values now, shape (unit,)."""
        share = torch.sigmoid(self.raw)
        if self.logarithmic:
            return self.low * (math.log(self.high / self.low) * share).exp()
        return self.low + (self.high - self.low) * share

    @torch.no_grad()
    def take(self, values: Tensor) -> None:
        """Have these values, of shape (unit,) and within the bounds but for rounding."""
        self.raw.copy_(torch.logit(self._share_of(values).clamp(_ROUNDING, 1 - _ROUNDING)))

    def _share_of(self, values: Tensor) -> Tensor:
        if self.logarithmic:
            return (values / self.low).log() / math.log(self.high / self.low)
        return (values - self.low) / (self.high - self.low)


def first_values(spec: PerUnit, n_units: int, generator: torch.Generator) -> Tensor:
    """Values as drawn, float64 of shape (unit,), between the spec's bounds."""
    low, high = spec.low, spec.high
    if spec.draw == "gamma" and spec.mean is not None:
        # a sum of as many exponential waits as the shape says
        uniform = torch.rand(int(_GAMMA_SHAPE), n_units, generator=generator, dtype=torch.float64)
        drawn = -torch.log1p(-uniform).sum(dim=0) * spec.mean / _GAMMA_SHAPE
        return drawn.clamp(low, high)
    share = torch.full((n_units,), 0.5, dtype=torch.float64)
    if spec.draw == "uniform":
        share = torch.rand(n_units, generator=generator, dtype=torch.float64)
    if isinstance(spec, PositivePerUnit):
        return low * (high / low) ** share
    return low + (high - low) * share
