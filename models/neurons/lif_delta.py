"""The leaky integrate-and-fire neuron whose input reaches the membrane at once.

    U[n + 1] = beta U[n] + D[n] - theta S[n],    S[n] = Theta(U[n] - theta),    beta = exp(-dt / tau_mem)

or U[n + 1] = (beta U[n] + D[n]) (1 - S[n]) with reset to zero. It is the LIF neuron of
`snnbench.models.neurons.lif` with an infinitely short synaptic current: an input spike in bin n moves the
membrane at n + 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from snnbench.models.neuron import Neuron, Reset


class State(NamedTuple):
    """Membrane only."""

    membrane: Any


class Parameters(NamedTuple):
    """Constants for one bin width; beta lies in (0, 1)."""

    beta: Any
    threshold: Any


def step(drive: Any, spike: Any, state: State, p: Parameters, reset: Reset) -> State:
    """State at n + 1."""
    return State(membrane=reset(p.beta * state.membrane + drive, p.threshold))


def distance(state: State, p: Parameters) -> Any:
    """Membrane above threshold."""
    return state.membrane - p.threshold


LIF_DELTA = Neuron("lif-delta", State, Parameters, step, distance)
