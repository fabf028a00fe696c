"""The leaky integrator: a LIF neuron with a synaptic current that never spikes. It serves as a readout.

I[n + 1] = alpha I[n] + D[n],    U[n + 1] = beta U[n] + I[n]
"""

from __future__ import annotations

from typing import Any, NamedTuple

from snnbench.models.neuron import Neuron, Reset
from snnbench.models.neurons.lif import State


class Parameters(NamedTuple):
    """Constants for one bin width; alpha and beta lie in (0, 1)."""

    alpha: Any
    beta: Any


def step(drive: Any, spike: Any, state: State, p: Parameters, reset: Reset) -> State:
    """State at n + 1."""
    return State(
        current=p.alpha * state.current + drive, membrane=p.beta * state.membrane + state.current
    )


LEAKY = Neuron("leaky", State, Parameters, step, distance=None)
