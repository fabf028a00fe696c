"""The tempotron: a neuron that should cross its threshold for its class and stay below for others.

    u(t) = sum over inputs of w_j K(t - t_j),    K(t) = V0 (exp(-t / tau_mem) - exp(-t / tau_syn)), peak 1

and where it errs, weights move along the potentials at the time of the largest u (Gütig & Sompolinsky 2006,
eqs. 1 to 3):  dw_j = +- rate K(t_max - t_j). One neuron for each class here, and the largest maximum decides.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def potentials(
    times_s: Tensor, grid_s: Tensor, *, tau_mem_s: float = 10e-3, tau_syn_s: float = 5e-3
) -> Tensor:
    """K at each time of the grid: times (sample, input), one spike each; (sample, time, input)."""
    since = grid_s[None, :, None] - times_s[:, None, :]
    ratio = tau_mem_s / tau_syn_s
    peak = ratio ** (-1 / (ratio - 1)) - ratio ** (-ratio / (ratio - 1))
    after = since.clamp(min=0)
    kernel = torch.exp(-after / tau_mem_s) - torch.exp(-after / tau_syn_s)
    return torch.where(since > 0, kernel / peak, 0.0)


def tempotron_step(
    weights: Tensor, evoked: Tensor, labels: Tensor, *, rate: float, threshold: float = 1.0
) -> Tensor:
    """The change of weights (class, input) for samples: `evoked` (sample, time, input), labels (sample,)."""
    membrane = evoked @ weights.mT  # (sample, time, class)
    largest, when = membrane.max(1)
    wanted = torch.nn.functional.one_hot(labels, len(weights)).bool()
    sign = (wanted & (largest <= threshold)).to(weights) - (~wanted & (largest > threshold)).to(
        weights
    )
    at = evoked[torch.arange(len(labels))[:, None], when]  # (sample, class, input)
    return rate * torch.einsum("sk,ski->ki", sign, at) / len(labels)


def tempotron_scores(weights: Tensor, evoked: Tensor) -> Tensor:
    """Largest membrane of each class, (sample, class)."""
    return (evoked @ weights.mT).amax(1)


def peak_time_s(tau_mem_s: float, tau_syn_s: float) -> float:
    """When K is largest."""
    return tau_mem_s * tau_syn_s / (tau_mem_s - tau_syn_s) * math.log(tau_mem_s / tau_syn_s)
