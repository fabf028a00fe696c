"""Differentiable spike times: neurons that fire once, and the time of it has a gradient (Mostafa 2018).

A neuron without leak and with exponential currents crosses its threshold 1 at t, and with z = exp(t / tau)

    z = sum over the causal inputs of w_i z_i / (sum over them of w_i - 1)

(eq. 6). Causal are the inputs before t; they are found by trying the first, the first two, and so on, until
the sum of their weights exceeds 1 and z comes before the next input. A neuron that never crosses fires at
LATE. Layers stack; the class is the output that fires first, and the loss the cross-entropy of -t / tau.
"""

from __future__ import annotations

import torch
from torch import Tensor

LATE = 1e3
"""z of a neuron that stays silent."""


def first_spikes(z: Tensor, weights: Tensor) -> Tensor:
    """z (sample, input) of inputs to z (sample, unit) of neurons with weights (unit, input)."""
    earliest, order = z.sort(dim=1)
    w = weights[:, order].transpose(
        0, 1
    )  # (sample, unit, input), in the order of the inputs' spikes
    strength = w.cumsum(2)
    crossing = (w * earliest[:, None]).cumsum(2) / (strength - 1).clamp(min=1e-9)
    following = torch.cat([earliest[:, 1:], torch.full_like(earliest[:, :1], LATE)], 1)[:, None]
    valid = (strength > 1) & (crossing >= earliest[:, None]) & (crossing < following)
    first = valid.to(torch.uint8).argmax(2, keepdim=True)
    fires = valid.any(2)
    return torch.where(fires, crossing.gather(2, first).squeeze(2), LATE)


def loss_of(z_out: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of -t / tau, a mean over samples."""
    return torch.nn.functional.cross_entropy(-z_out.log(), labels)


def weight_cost(weights: Tensor) -> Tensor:
    """What pulls sums of weights to 1.5, so that neurons fire at all: they must exceed 1 (eq. 6)."""
    return (1.5 - weights.sum(1)).relu().sum()
