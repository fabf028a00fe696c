"""The spike for autograd: a step forward, the surrogate's slope backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from snnbench.models.surrogate import Surrogate


def spikes_with_derivative(distance: Tensor, surrogate: Surrogate) -> Tensor:
    """1 where `distance` is above 0, else 0; the gradient sees the surrogate's derivative."""
    spikes: Tensor = _Spike.apply(distance, surrogate)
    return spikes


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distance: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(distance)
        ctx.surrogate = surrogate
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (distance,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.derivative(distance, ctx.surrogate.slope), None
