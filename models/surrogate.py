"""Surrogate derivatives: spikes stay spikes in the forward pass, the backward pass sees a smooth slope.

A surrogate is called as `spikes = surrogate(membrane, threshold)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from snnbench.spec import SurrogateSpec


class Surrogate(Protocol):
    """Turns membranes into spikes, with a derivative of its own choice."""

    def __call__(self, membrane: Tensor, threshold: float) -> Tensor: ...


@dataclass(frozen=True)
class SuperSpike:
    """S = 1 where U > theta, with dS/dU taken as 1 / (1 + slope |U - theta|)^2.

    The derivative is 1 at threshold whatever the slope: it is not multiplied by `slope`, which would
    make it the exact derivative of a sigmoid-like curve (Zenke & Ganguli 2018, eq. 2.6 and its remark
    that the scale is absorbed by the learning rate).

    Parameters
    ----------
    slope
        Steepness per unit of membrane, > 0.
    """

    slope: float

    def __call__(self, membrane: Tensor, threshold: float) -> Tensor:
        spikes: Tensor = _SuperSpikeFunction.apply(membrane, threshold, self.slope)
        return spikes


class _SuperSpikeFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, membrane: Tensor, threshold: float, slope: float) -> Tensor:
        ctx.save_for_backward(membrane)
        ctx.threshold, ctx.slope = threshold, slope
        # straight into float: a boolean and its conversion would be another pass over memory
        return torch.gt(membrane, threshold, out=torch.empty_like(membrane))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (membrane,) = ctx.saved_tensors
        # in place on our own temporary: this runs once per time step and is a third of the backward
        width = (membrane - ctx.threshold).abs_().mul_(ctx.slope).add_(1.0).square_()
        return grads[0] / width, None, None


def make_surrogate(spec: SurrogateSpec) -> Surrogate:
    """The surrogate that a spec names."""
    return {"superspike": SuperSpike}[spec.kind](slope=spec.slope)
