"""The adaptive LIF neuron in symplectic Euler form: stable oscillations in place of growing ones.

    w[n + 1] = beta w[n] + (1 - beta) q (a U'[n] + b S[n])
    U[n + 1] = alpha U'[n] + (1 - alpha) (D[n] - w[n + 1])

with U'[n] = U[n] (1 - S[n]) after a reset to zero, or U[n] - theta S[n] by subtraction, S[n] = Theta(U[n] -
theta), alpha = exp(-dt / tau_mem) and beta = exp(-dt / tau_adapt). Membrane and adaptation each see the
other's newest value. `snnbench.models.neurons.adlif` differs in two ways: there the adaptation follows the
membrane before its reset, and with a factor that does not shrink with the bin.

Baronig, Ferrand, Sabathiel & Legenstein (2024), "Advancing spatio-temporal processing in spiking neural
networks through adaptation", arXiv:2408.07517, eqs. 19 to 22; their U'[t], from which the adaptation of the
same step follows, is ours at the start of the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from snnbench.models.neuron import Neuron, Reset
from snnbench.models.neurons.adlif import State, distance


class Parameters(NamedTuple):
    """Constants for one bin width; alpha and beta lie in (0, 1)."""

    alpha: Any
    beta: Any
    a: Any
    b: Any
    q: Any
    threshold: Any


def step(drive: Any, spike: Any, state: State, p: Parameters, reset: Reset) -> State:
    """State at n + 1."""
    membrane = reset(state.membrane, p.threshold)
    adaptation = p.beta * state.adaptation + (1 - p.beta) * p.q * (p.a * membrane + p.b * spike)
    return State(
        membrane=p.alpha * membrane + (1 - p.alpha) * (drive - adaptation), adaptation=adaptation
    )


SE_ADLIF = Neuron("se-adlif", State, Parameters, step, distance)
