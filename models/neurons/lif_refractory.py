"""The LIF neuron of `snnbench.models.neurons.lif` with a refractory period.

    I[n + 1] = alpha I[n] + D[n]
    U[n + 1] = 0 while R[n + 1] > 0, else as without a refractory period
    R[n + 1] = r where S[n] = 1, else max(0, R[n] - 1)

After a spike in step n the membrane stays at zero for r steps, n + 1 to n + r; currents go on. So two spikes
of one unit lie at least r + 1 steps apart. With r = 0 it is that neuron.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from snnbench.models.expressions import where_positive
from snnbench.models.neuron import Neuron, Reset
from snnbench.models.neurons.lif import distance


class State(NamedTuple):
    """Synaptic current, membrane, and refractory steps to come."""

    current: Any
    membrane: Any
    refractory: Any


class Parameters(NamedTuple):
    """Constants for one bin width; alpha and beta lie in (0, 1), the period is a number of steps."""

    alpha: Any
    beta: Any
    threshold: Any
    period: Any


def step(drive: Any, spike: Any, state: State, p: Parameters, reset: Reset) -> State:
    """State at n + 1."""
    left, period = state.refractory - 1, p.period + 0 * state.refractory
    free = reset(p.beta * state.membrane + state.current, p.threshold)
    held = 0 * free
    return State(
        current=p.alpha * state.current + drive,
        # both choices once for each part, so that a kernel's conditions stay simple
        membrane=where_positive(
            spike, where_positive(period, held, free), where_positive(left, held, free)
        ),
        refractory=where_positive(spike, period, where_positive(left, left, 0 * left)),
    )


LIF_REFRACTORY = Neuron("lif-refractory", State, Parameters, step, distance)
