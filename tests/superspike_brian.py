"""SuperSpike of one layer, said to Brian2, with every variable of every synapse stepped by its clock.

A step of Brian2 goes through the slots start, groups, thresholds, synapses, resets, end, which stay in this
order. Where ours (`snnbench.models.superspike`, numbers in brackets) find their place:

    start          weights, where a block has ended (7); then eligibility and m (6). Both look at traces and
                   errors as the step before left them, as (6) does before (8)
    groups         U by forward Euler (1), from the current before its decay; units that wait stay at rest
    after_groups   current (3), traces and errors (8) decay or relax: exact where they decay, Euler elsewhere
    thresholds     spikes (2)
    synapses       what was sent `delay` ago arrives: currents (4), traces (8), impulses of errors (5)
    resets         U = rest (2); it moved no current, so that it may come after arrivals
    end            the surrogate of U after its reset goes into a line, which holds it for `delay`

Brian2 counts a refractory time from the step of the spike itself, so ours is a step longer there. The trace
that plasticity sees is `delay` old, and it is of spikes that arrived: one of spikes sent 2 `delay` ago.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.superspike_reference import ReferenceConstants

Reals = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class BrianLayer:
    """A network that is ready to run, and what it is made of."""

    network: Any
    inputs: Any
    """Their variable p is the trace."""
    units: Any
    """u, current, error."""
    synapses: Any
    """w."""
    spikes: Any
    """Monitor."""

    def weights(self) -> Reals:
        """(post, pre) in mV."""
        s = self.synapses
        w = np.zeros((len(self.units), len(self.inputs)))
        w[s.j[:], s.i[:]] = s.w[:]
        return w


def layer_in_brian(
    brian: Any, weights: Reals, inputs: Bools, targets: Bools, c: ReferenceConstants
) -> BrianLayer:
    """One layer: weights (post, pre), inputs (time, pre), targets (time, post)."""
    dt = c.dt_s * brian.second
    delay = round(c.delay_s / c.dt_s)
    post, pre = weights.shape
    numbers: dict[str, Any] = {
        "rest": c.rest_mv, "threshold": c.threshold_mv, "floor_mv": c.surrogate_floor_mv,
        "beta": c.beta_per_mv, "cutoff": c.cutoff, "tau_mem": c.tau_mem_s * brian.second,
        "euler_mem": c.dt_s / c.tau_mem_s, "kept_syn": np.exp(-c.dt_s / c.tau_syn_s),
        "to_rise": c.dt_s / c.tau_rise_s, "to_decay": c.dt_s / c.tau_decay_s,
        "kept_rise": np.exp(-c.dt_s / c.tau_rise_s), "gamma": np.exp(-c.update_s / c.tau_rms_s),
        "rate": c.rate_mv, "epsilon": c.epsilon, "bound": c.bound_mv,
        "steps": float(round(c.update_s / c.dt_s)),
        "sent": brian.TimedArray(inputs.astype(float), dt=dt),
    }  # fmt: skip
    made: dict[str, Any] = {"dt": dt, "namespace": numbers}

    below = brian.NeuronGroup(
        pre, "p : 1\n p_rising : 1", threshold="sent(t, i) > 0", reset="", **made
    )
    below.run_regularly(
        "p += euler_mem * (p_rising - p)\n p_rising *= kept_syn", when="after_groups", dt=dt
    )

    line = [f"surrogate_{k}" for k in range(1, delay + 1)]
    units = brian.NeuronGroup(
        post,
        "du/dt = ((rest - u) + current) / tau_mem : 1 (unless refractory)\n"
        + "".join(f"{name} : 1\n" for name in ("current", "error", "error_rising", *line)),
        threshold="u > threshold", reset="u = rest", method="euler",
        refractory=round(c.refractory_s / c.dt_s + 1) * dt, **made,
    )  # fmt: skip
    units.u = c.rest_mv
    units.run_regularly(
        "current *= kept_syn\n"
        "error += to_decay * (error_rising - error)\n"
        "error_rising -= to_rise * error_rising",
        when="after_groups", dt=dt,
    )  # fmt: skip
    moves = [f"{later} = {name}" for name, later in itertools.pairwise(line)][::-1]
    seen = f"{line[0]} = int(u >= floor_mv) / (1 + beta * abs(u - threshold))**2"
    units.run_regularly("\n".join([*moves, seen]), when="end", dt=dt)

    synapses = brian.Synapses(
        below, units, "w : 1\n raw : 1\n eligibility : 1\n m : 1\n v : 1",
        on_pre="current_post += w", delay=delay * dt, **made,
    )  # fmt: skip
    synapses.connect()
    synapses.w = weights.T.ravel()  # targets of an input side by side
    synapses.run_regularly(
        f"raw += p_pre * int(p_pre > cutoff) * {line[-1]}_post\n"
        "eligibility += to_decay * (raw - eligibility)\n"
        "raw *= kept_rise\n"
        "m += eligibility * error_post * int(abs(error_post) > cutoff)",
        when="start", dt=dt,
    )  # fmt: skip
    synapses.run_regularly(
        "v = clip(gamma * v, (m / steps)**2, inf)\n"
        "w = clip(w + rate * (m / steps) / (sqrt(v) + epsilon), -bound, bound)\n"
        "m = 0",
        when="start", order=-1, dt=c.update_s * brian.second,
    )  # fmt: skip

    times, wanted = targets.nonzero()
    teacher = brian.SpikeGeneratorGroup(post, wanted, times * dt, dt=dt)
    arrivals = [
        (below, below, "p_rising_post += 1", 2 * delay),
        (teacher, units, "error_rising_post += to_rise", delay),
        (units, units, "error_rising_post -= to_rise", delay),
    ]
    one_to_one = []
    for source, target, effect, steps in arrivals:
        pathway = brian.Synapses(source, target, on_pre=effect, delay=steps * dt, **made)
        pathway.connect(j="i")
        one_to_one.append(pathway)
    spikes = brian.SpikeMonitor(units)
    network = brian.Network(below, units, synapses, teacher, *one_to_one, spikes)
    return BrianLayer(network, below, units, synapses, spikes)
