"""The leaky integrate-and-fire neuron with a synaptic current.

    I[n + 1] = alpha I[n] + D[n]                                the drive reaches the current
    U[n + 1] = beta U[n] + I[n] - theta S[n]                    the old current reaches the membrane
    U[n + 1] = (beta U[n] + I[n]) (1 - S[n])                       ... with reset to zero

with S[n] = Theta(U[n] - theta), alpha = exp(-dt / tau_syn) and beta = exp(-dt / tau_mem). So an input
spike in bin n moves the membrane at n + 2 for the first time, and a recurrent spike does, too.

Neftci, Mostafa & Zenke (2019), "Surrogate gradient learning in spiking neural networks", IEEE Signal
Processing Magazine 36(6), eqs. 4 to 6. As there, the input carries no factor (1 - alpha) or (1 - beta):
weights are membrane per step, in units in which theta is usually 1. What this means for a good first
weight at a given dt is told in `snnbench.models.layers`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from snnbench.models.neuron import Neuron, Reset


class State(NamedTuple):
    """Synaptic current and membrane."""

    current: Any
    membrane: Any


class Parameters(NamedTuple):
    """Constants for one bin width; alpha and beta lie in (0, 1)."""

    alpha: Any
    beta: Any
    threshold: Any


def step(drive: Any, spike: Any, state: State, p: Parameters, reset: Reset) -> State:
    """State at n + 1."""
    return State(
        current=p.alpha * state.current + drive,
        membrane=reset(p.beta * state.membrane + state.current, p.threshold),
    )


def distance(state: State, p: Parameters) -> Any:
    """Membrane above threshold."""
    return state.membrane - p.threshold


LIF = Neuron("lif", State, Parameters, step, distance)
