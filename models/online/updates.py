"""From a block's gradient to a change of weights (Zenke & Ganguli 2018, section 3.4 and fig. 1).

With g the mean over the block's steps of what a synapse gathered, and v its own, starting at 0:

    RMaxProp    v = max(g^2, gamma v),                dw = rate g / (sqrt(v) + epsilon)
    RMSprop     v = gamma v + (1 - gamma) g^2,        dw = rate g / (sqrt(v) + epsilon)
    fixed       dw = rate g

with gamma = exp(-block / tau_rms). RMaxProp never moves a weight by more than `rate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snnbench.errors import SnnbenchError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Update:
    """How gradients move weights, and how far weights may go."""

    kind: str = "rmaxprop"
    rate_mv: float = 1.0
    """r0; for `fixed`, mV per unit of gradient."""
    tau_rms_s: float = 30.0
    epsilon: float = 1e-12
    bound_mv: float = 100.0
    """Weights stay within plus and minus this."""

    def __post_init__(self) -> None:
        if self.kind not in _STEPS:
            raise unknown_name("weight update", self.kind, _STEPS)
        for name in ("rate_mv", "tau_rms_s", "bound_mv"):
            value = getattr(self, name)
            if not (0 < value < math.inf):
                raise SnnbenchError(f"{name} of the weight update is {value}; take one above 0")

    def apply(
        self, weights: Tensor, gradient: Tensor, squares: Tensor, block_s: float, scale: float = 1.0
    ) -> Tensor:
        """Change `weights` and `squares` (seed, post, pre) in place; returns the change before the bound.

        `scale` divides the rate's later course, as a schedule does.
        """
        gamma = math.exp(-block_s / self.tau_rms_s)
        change = _STEPS[self.kind](gradient, squares, gamma, self.epsilon)
        change *= self.rate_mv * scale
        weights += change
        weights.clamp_(-self.bound_mv, self.bound_mv)
        return change


def _rmaxprop(gradient: Tensor, squares: Tensor, gamma: float, epsilon: float) -> Tensor:
    import torch

    torch.maximum(gradient**2, squares.mul_(gamma), out=squares)
    return gradient / (squares.sqrt() + epsilon)


def _rmsprop(gradient: Tensor, squares: Tensor, gamma: float, epsilon: float) -> Tensor:
    squares.mul_(gamma).add_((1 - gamma) * gradient**2)
    return gradient / (squares.sqrt() + epsilon)


def _fixed(gradient: Tensor, squares: Tensor, gamma: float, epsilon: float) -> Tensor:
    return gradient.clone()


_STEPS: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {
    "rmaxprop": _rmaxprop,
    "rmsprop": _rmsprop,
    "fixed": _fixed,
}
