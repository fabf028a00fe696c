"""Constants of the neuron and of the rule, as Zenke & Ganguli (2018) and their simulation set them.

Voltages and weights are in mV, times in s. What cannot work is refused when it is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from snnbench.errors import SnnbenchError


@dataclass(frozen=True)
class Neuron:
    """Current-based LIF neuron with hard reset and refractory time, forward Euler (their eqs. 1, 2).

        tau_mem dU/dt = (rest - U) + I,    tau_syn dI/dt = -I,    I jumps by w with a delayed spike

    A spike where U > threshold; then U is held at rest for `refractory_s`.
    """

    dt_s: float = 1e-4
    tau_mem_s: float = 10e-3
    tau_syn_s: float = 5e-3
    rest_mv: float = -60.0
    threshold_mv: float = -50.0
    refractory_s: float = 5e-3
    delay_s: float = 0.8e-3
    """From a spike to its arrival, in every connection."""

    def __post_init__(self) -> None:
        if not self.dt_s > 0:
            raise SnnbenchError(f"dt_s is {self.dt_s}; take a time step above 0")
        require_times(self, self.dt_s, "tau_mem_s", "tau_syn_s")
        for name in ("refractory_s", "delay_s"):
            steps = getattr(self, name) / self.dt_s
            if steps < 0 or abs(steps - round(steps)) > 1e-6:
                raise SnnbenchError(
                    f"{name} is {getattr(self, name)} s, no whole number of steps of {self.dt_s} s"
                )
        if self.delay_steps < 1:
            raise SnnbenchError(
                f"delay_s is {self.delay_s} s; spikes take at least one step of {self.dt_s} s"
            )
        if not self.threshold_mv > self.rest_mv:
            raise SnnbenchError(
                f"threshold_mv {self.threshold_mv} is not above rest_mv {self.rest_mv}"
            )

    @property
    def delay_steps(self) -> int:
        """Axonal delay in steps."""
        return round(self.delay_s / self.dt_s)

    @property
    def refractory_steps(self) -> int:
        """Steps at rest after a spike."""
        return round(self.refractory_s / self.dt_s)

    @property
    def euler_mem(self) -> float:
        """dt / tau_mem, the share of its way that a membrane goes in a step."""
        return self.dt_s / self.tau_mem_s

    @property
    def decay_syn(self) -> float:
        """exp(-dt / tau_syn), exact."""
        return math.exp(-self.dt_s / self.tau_syn_s)


@dataclass(frozen=True)
class Heterosynaptic:
    """Activity pulls weights down: m_ij -= rho w_ij z_i^exponent, with z a slow trace of own spikes.

    z jumps by 1 with a spike of the postsynaptic unit and decays with `tau_s` (Zenke & Ganguli 2018,
    fig. 8). rho is in the units of the authors' program, in which weights are in V and the surrogate is
    multiplied by its steepness, 1000 per V: there 1 is best. `times_error` multiplies the term by the
    squared error trace, a variant of that program.
    """

    rho: float = 1.0
    exponent: int = 4
    tau_s: float = 0.1
    times_error: bool = False

    def __post_init__(self) -> None:
        if self.rho < 0 or self.exponent < 0 or self.tau_s <= 0:
            raise SnnbenchError(
                f"rho {self.rho}, exponent {self.exponent}, tau_s {self.tau_s} of the heterosynaptic "
                "term: take none below 0, and a time constant above 0"
            )

    @property
    def scale(self) -> float:
        """rho for weights in mV and a surrogate of 1 at threshold."""
        return self.rho * 1e-3 / 1e3


def require_times(constants: object, dt_s: float, *names: str) -> None:
    """Check that time constants are at least a step long: below, Euler's steps overshoot.

    Raises
    ------
    SnnbenchError
        One is not; names it and both values.
    """
    for name in names:
        if not getattr(constants, name) >= dt_s:
            raise SnnbenchError(
                f"{name} is {getattr(constants, name)} s, shorter than the time step dt_s of {dt_s} s;"
                " take a longer time constant or a shorter step"
            )
