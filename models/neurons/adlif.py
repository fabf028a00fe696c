"""The adaptive leaky integrate-and-fire neuron: a second state follows the membrane and the spikes.

    w[n + 1] = beta w[n] + a U[n] + b S[n]
    U[n + 1] = alpha (U[n] - theta S[n]) + (1 - alpha) (D[n] - w[n + 1])
    U[n + 1] = alpha U[n] (1 - S[n]) + (1 - alpha) (D[n] - w[n + 1])       ... with reset to zero

with S[n] = Theta(U[n] - theta), alpha = exp(-dt / tau_mem) and beta = exp(-dt / tau_w); a couples the
adaptation to the membrane, b to the spikes.

Bittar & Garner (2022), "A surrogate gradient spiking baseline for speech command recognition", Frontiers
in Neuroscience 16:865897, eqs. 6 to 8; their spike S[t] from the membrane of the same step is ours at the
start of the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from snnbench.models.neuron import Neuron, Reset


class State(NamedTuple):
    """Membrane and adaptation."""

    membrane: Any
    adaptation: Any


class Parameters(NamedTuple):
    """Constants for one bin width; alpha and beta lie in (0, 1)."""

    alpha: Any
    beta: Any
    a: Any
    b: Any
    threshold: Any


def step(drive: Any, spike: Any, state: State, p: Parameters, reset: Reset) -> State:
    """State at n + 1."""
    adaptation = p.beta * state.adaptation + p.a * state.membrane + p.b * spike
    return State(
        membrane=p.alpha * reset(state.membrane, p.threshold)
        + (1 - p.alpha) * (drive - adaptation),
        adaptation=adaptation,
    )


def distance(state: State, p: Parameters) -> Any:
    """Membrane above threshold."""
    return state.membrane - p.threshold


ADLIF = Neuron("adlif", State, Parameters, step, distance)
