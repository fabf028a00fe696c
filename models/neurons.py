"""The leaky integrate-and-fire neuron with a synaptic current, as pure functions of its state.

At time step n (width dt) a neuron has a synaptic current I[n] and a membrane U[n], both zero at n = 0,
and receives the drive D[n] = W S_in[n] + V S[n], where V is absent without recurrence. In this order:

    S[n]     = Theta(U[n] - theta)                              1. spikes from the membrane as it is
    I[n + 1] = alpha I[n] + D[n]                                2. the drive reaches the current
    U[n + 1] = beta U[n] + I[n] - theta S[n]                    3. the old current reaches the membrane
    U[n + 1] = (beta U[n] + I[n]) (1 - S[n])                       ... with reset to zero

with alpha = exp(-dt / tau_syn) and beta = exp(-dt / tau_mem). So an input spike in bin n moves the
membrane at n + 2 for the first time, and a recurrent spike does, too.

Neftci, Mostafa & Zenke (2019), "Surrogate gradient learning in spiking neural networks", IEEE Signal
Processing Magazine 36(6), eqs. 4 to 6. As there, the input carries no factor (1 - alpha) or (1 - beta):
weights are membrane per step, in units in which theta is usually 1. What this means for a good first
weight at a given dt is told in `snnbench.models.layers`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from snnbench.spec import NeuronSpec


class LIFState(NamedTuple):
    """State at the start of a time step; both of shape (batch, unit)."""

    current: Tensor
    membrane: Tensor


@dataclass(frozen=True)
class LIFParameters:
    """Constants of the update above for one bin width; alpha and beta lie in (0, 1)."""

    alpha: float
    beta: float
    threshold: float
    reset: Literal["subtract", "zero"]
    gradient_through_reset: bool

    @classmethod
    def from_spec(cls, spec: NeuronSpec, dt_s: float) -> LIFParameters:
        """Decays from the time constants and the bin width that is really used."""
        return cls(
            alpha=decay(dt_s, spec.tau_syn_s),
            beta=decay(dt_s, spec.tau_mem_s),
            threshold=spec.threshold,
            reset=spec.reset,
            gradient_through_reset=spec.gradient_through_reset,
        )


def decay(dt_s: float, tau_s: float) -> float:
    """Factor exp(-dt / tau) by which an exponential trace falls in one bin."""
    return math.exp(-dt_s / tau_s)


def lif_at_rest(drive: Tensor) -> LIFState:
    """State before the first step, for one step's drive of shape (batch, unit)."""
    return LIFState(torch.zeros_like(drive), torch.zeros_like(drive))


def lif_update(drive: Tensor, spikes: Tensor, state: LIFState, p: LIFParameters) -> LIFState:
    """State at n + 1 from the state, the spikes and the drive at n (steps 2 and 3 above).

    `spikes` are the neurons' own, which reset them. All tensors have shape (batch, unit).
    """
    reset = spikes if p.gradient_through_reset else spikes.detach()
    current = torch.add(drive, state.current, alpha=p.alpha)
    membrane = torch.add(state.current, state.membrane, alpha=p.beta)
    if p.reset == "subtract":
        membrane = torch.sub(membrane, reset, alpha=p.threshold)
    else:
        membrane = membrane * (1.0 - reset)
    return LIFState(current, membrane)


def impulse_response(alpha: float, beta: float, n_steps: int) -> list[float]:
    """Membrane U[0], U[1], ... after a drive of 1 at n = 0, without spikes (length `n_steps`).

    In closed form (alpha^(n-1) - beta^(n-1)) / (alpha - beta), which has its limit where they are equal;
    its sum over all n is 1 / ((1 - alpha) (1 - beta)).
    """
    response = [0.0] * n_steps
    current, membrane, drive = 0.0, 0.0, 1.0
    for n in range(n_steps):
        response[n] = membrane
        current, membrane, drive = alpha * current + drive, beta * membrane + current, 0.0
    return response
