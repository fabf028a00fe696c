"""Escape noise: a neuron fires by chance, the likelier the higher its membrane, and chance has a gradient.

    rho(t) = rho0 exp((u(t) - theta) / Delta),    R = integral of rho,    P(silent) = exp(-R)

with u a sum of evoked potentials, without reset. What should happen, a spike of the right neuron and silence
of the others, has the log-likelihood  log(1 - exp(-R))  or  -R, whose gradient is  dR/dw_j = integral of
rho / Delta K(t - t_j)  times 1 / (exp(R) - 1), or times -1 (Pfister, Toyoizumi, Barber & Gerstner 2006, eqs.
2 to 8, for spikes at any time within the window).
"""

from __future__ import annotations

import torch
from torch import Tensor

RHO0_HZ, THRESHOLD, DELTA = 20.0, 1.0, 0.2


def expected_spikes(weights: Tensor, evoked: Tensor, dt_s: float) -> tuple[Tensor, Tensor]:
    """R (sample, class), and its gradient (sample, class, input), of evoked (sample, time, input)."""
    rho = _rate_hz(weights, evoked)
    return rho.sum(1) * dt_s, torch.einsum("stk,sti->ski", rho * (dt_s / DELTA), evoked)


def draw_spikes(weights: Tensor, evoked: Tensor, dt_s: float, generator: torch.Generator) -> Tensor:
    """How often each neuron fires, by chance, (sample, class); at most once in a step."""
    rho = _rate_hz(weights, evoked)
    fires = torch.rand(rho.shape, generator=generator, dtype=rho.dtype) < -torch.expm1(-rho * dt_s)
    return fires.sum(1)


def _rate_hz(weights: Tensor, evoked: Tensor) -> Tensor:
    membrane = evoked @ weights.mT
    return RHO0_HZ * torch.exp(((membrane - THRESHOLD) / DELTA).clamp(max=10.0))


def log_likelihood(expected: Tensor, labels: Tensor) -> Tensor:
    """Of the right neuron firing and the others being silent, (sample,)."""
    wanted = torch.nn.functional.one_hot(labels, expected.shape[1]).bool()
    fires = torch.log(-torch.expm1(-expected.clamp(min=1e-12)))
    return torch.where(wanted, fires, -expected).sum(1)


def escape_step(
    weights: Tensor, evoked: Tensor, labels: Tensor, dt_s: float, *, rate: float
) -> Tensor:
    """The change of weights (class, input) along the mean log-likelihood's gradient."""
    expected, slope = expected_spikes(weights, evoked, dt_s)
    wanted = torch.nn.functional.one_hot(labels, expected.shape[1]).bool()
    factor = torch.where(wanted, 1 / torch.expm1(expected.clamp(min=1e-12)), -1.0)
    return rate * torch.einsum("sk,ski->ki", factor, slope) / len(labels)
