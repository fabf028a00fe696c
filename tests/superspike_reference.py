"""The SuperSpike rule as it is defined: step after step, synapse after synapse, in plain float64 loops.

Written from the equations (Zenke & Ganguli 2018; constants of their program), and slow. Tests compare the
project's blocks with it. Order within a step:

 1  U of units that do not wait, forward Euler          5  impulses: target minus spike, `delay` ago
 2  threshold, reset, refractory counter                6  eligibility, and its product with the error
 3  I decays                                            7  at a block's end, the weights' update
 4  spikes sent `delay` ago arrive                      8  traces advance
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ReferenceConstants:
    """Constants of neuron, rule and update; mV and s."""

    dt_s: float = 1e-4
    tau_mem_s: float = 10e-3
    tau_syn_s: float = 5e-3
    rest_mv: float = -60.0
    threshold_mv: float = -50.0
    refractory_s: float = 5e-3
    delay_s: float = 0.8e-3
    beta_per_mv: float = 1.0
    surrogate_floor_mv: float = -80.0
    tau_rise_s: float = 5e-3
    tau_decay_s: float = 10e-3
    cutoff: float = 1e-7
    update_s: float = 0.5
    tau_rms_s: float = 30.0
    rate_mv: float = 1.0
    epsilon: float = 1e-12
    bound_mv: float = 100.0
    rho: float = 0.0
    exponent: int = 4
    tau_z_s: float = 0.1


@dataclass
class ReferenceRun:
    """Spikes, membranes and errors of each layer (time, unit), final weights, the running distance."""

    spikes: list[Bools]
    membranes: list[Reals]
    errors: list[Reals]
    weights: list[Reals]
    metric: float


class _Layer:
    """One layer's neurons and the synapses into it."""

    def __init__(self, weights: Reals, steps: int, c: ReferenceConstants) -> None:
        post, pre = weights.shape
        self.w = weights.astype(float).copy()
        self.u = [c.rest_mv] * post
        self.i = [0.0] * post
        self.waits = [0] * post
        self.p1, self.p = [0.0] * pre, [0.0] * pre
        self.e1, self.e = [0.0] * post, [0.0] * post
        self.z = [0.0] * post
        self.raw, self.eligibility, self.m, self.v = (np.zeros((post, pre)) for _ in range(4))
        self.p_then: list[list[float]] = []
        self.surrogate_then: list[list[float]] = []
        self.fired = np.zeros((steps, post), bool)
        self.membranes = np.zeros((steps, post))
        self.errors = np.zeros((steps, post))


def simulate(
    weights: Sequence[Reals],
    inputs: Bools,
    targets: Bools,
    feedback: str | Sequence[Reals],
    constants: ReferenceConstants,
    *,
    learn_from_step: int = 0,
    linear_hidden: bool = False,
    hidden_plastic: bool = True,
    heterosynaptic_layers: Container[int] = (),
) -> ReferenceRun:
    """Run and learn.

    weights (post, pre) of each layer in mV; inputs (time, pre) and targets (time, out); feedback `symmetric`,
    `uniform`, or matrices (hidden, out), one for each hidden layer.
    """
    c, steps = constants, len(inputs)
    delay, hold = round(c.delay_s / c.dt_s), round(c.refractory_s / c.dt_s)
    block = round(c.update_s / c.dt_s)
    layers = [_Layer(w, steps, c) for w in weights]
    squares = np.zeros(targets.shape[1])
    last = layers[-1]

    for n in range(steps):
        for k, layer in enumerate(layers):
            below = inputs if k == 0 else layers[k - 1].fired
            arrived = below[n - delay] if n >= delay else np.zeros(below.shape[1], bool)
            _neurons(layer, n, arrived, hold, c)
        impulses = [0.0] * targets.shape[1]  # 5
        if n >= delay:
            impulses = [
                float(targets[n - delay, o]) - float(last.fired[n - delay, o])
                for o in range(targets.shape[1])
            ]
        heard = _heard(layers, impulses, feedback)
        learning = n - n % block >= learn_from_step
        for k, layer in enumerate(layers):
            hidden = layer is not last
            below = inputs if k == 0 else layers[k - 1].fired
            _eligibility(layer, n, delay, c, linear=hidden and linear_hidden)
            if learning and (hidden_plastic or not hidden):
                _gather(layer, c, k in heterosynaptic_layers)
                if (n + 1) % block == 0:
                    _update(layer, block, c)
            _advance(layer, n, below, delay, heard[k], c)
        for o in range(len(squares)):
            squares[o] = squares[o] * math.exp(-c.dt_s / 10.0) + last.e[o] ** 2 * c.dt_s

    a, b = c.tau_decay_s, c.tau_rise_s
    scale = 1 / ((a * b / (a - b)) ** 2 * (a / 2 + b / 2 - 2 * a * b / (a + b))) / 10.0
    metric = scale * float(np.mean(squares)) / (1 - math.exp(-steps * c.dt_s / 10.0))
    return ReferenceRun(
        [x.fired for x in layers],
        [x.membranes for x in layers],
        [x.errors for x in layers],
        [x.w for x in layers],
        metric,
    )


def _neurons(layer: _Layer, n: int, arrived: Bools, hold: int, c: ReferenceConstants) -> None:
    for i in range(len(layer.u)):
        if layer.waits[i] > 0:  # 1
            layer.waits[i] -= 1
            layer.u[i] = c.rest_mv
        else:
            layer.u[i] += c.dt_s / c.tau_mem_s * ((c.rest_mv - layer.u[i]) + layer.i[i])
        if layer.u[i] > c.threshold_mv:  # 2
            layer.fired[n, i] = True
            layer.u[i] = c.rest_mv
            layer.waits[i] = hold
        layer.membranes[n, i] = layer.u[i]
        layer.i[i] *= math.exp(-c.dt_s / c.tau_syn_s)  # 3
        for j in np.flatnonzero(arrived):  # 4
            layer.i[i] += layer.w[i, j]


def _heard(
    layers: list[_Layer], impulses: list[float], feedback: str | Sequence[Reals]
) -> list[list[float]]:
    """Impulses that each layer hears; raw ones travel down."""
    heard = [impulses]
    for k in range(len(layers) - 1, 0, -1):
        cells = len(layers[k - 1].u)
        if isinstance(feedback, str) and feedback == "uniform":
            told = [sum(impulses)] * cells
        elif isinstance(feedback, str):
            above, w = heard[0], layers[k].w
            told = [sum(w[o, i] * above[o] for o in range(len(above))) for i in range(cells)]
        else:
            f = feedback[k - 1]
            told = [sum(f[i, o] * impulses[o] for o in range(len(impulses))) for i in range(cells)]
        heard.insert(0, told)
    return heard


def _eligibility(layer: _Layer, n: int, delay: int, c: ReferenceConstants, *, linear: bool) -> None:
    layer.p_then.append(list(layer.p))
    now = []
    for u in layer.u:
        surrogate = 1 / (1 + c.beta_per_mv * abs(u - c.threshold_mv)) ** 2
        now.append(1.0 if linear else 0.0 if u < c.surrogate_floor_mv else surrogate)
    layer.surrogate_then.append(now)
    post, pre = layer.w.shape
    for i in range(post):
        for j in range(pre):
            if n >= delay and layer.p_then[n - delay][j] > c.cutoff:
                layer.raw[i, j] += layer.p_then[n - delay][j] * layer.surrogate_then[n - delay][i]
            layer.eligibility[i, j] += (
                c.dt_s / c.tau_decay_s * (layer.raw[i, j] - layer.eligibility[i, j])
            )
            layer.raw[i, j] *= math.exp(-c.dt_s / c.tau_rise_s)


def _gather(layer: _Layer, c: ReferenceConstants, pulled: bool) -> None:
    post, pre = layer.w.shape
    for i in range(post):
        e = layer.e[i] if abs(layer.e[i]) > c.cutoff else 0.0
        for j in range(pre):
            layer.m[i, j] += layer.eligibility[i, j] * e
            if pulled:
                layer.m[i, j] -= c.rho * layer.w[i, j] * layer.z[i] ** c.exponent


def _update(layer: _Layer, block: int, c: ReferenceConstants) -> None:
    gamma = math.exp(-c.update_s / c.tau_rms_s)
    post, pre = layer.w.shape
    for i in range(post):
        for j in range(pre):
            g = layer.m[i, j] / block
            layer.m[i, j] = 0.0
            layer.v[i, j] = max(g * g, gamma * layer.v[i, j])
            w = layer.w[i, j] + c.rate_mv * g / (math.sqrt(layer.v[i, j]) + c.epsilon)
            layer.w[i, j] = min(max(w, -c.bound_mv), c.bound_mv)


def _advance(
    layer: _Layer, n: int, below: Bools, delay: int, heard: list[float], c: ReferenceConstants
) -> None:
    for j in range(len(layer.p)):
        layer.p[j] += c.dt_s / c.tau_mem_s * (layer.p1[j] - layer.p[j])
        layer.p1[j] *= math.exp(-c.dt_s / c.tau_syn_s)
        if n >= delay and below[n - delay, j]:
            layer.p1[j] += 1.0
    for i in range(len(layer.e)):
        layer.errors[n, i] = layer.e[i]
        layer.e[i] += c.dt_s / c.tau_decay_s * (layer.e1[i] - layer.e[i])
        layer.e1[i] += c.dt_s / c.tau_rise_s * (heard[i] - layer.e1[i])
        layer.z[i] = layer.z[i] * math.exp(-c.dt_s / c.tau_z_s) + float(layer.fired[n, i])


def offline_eligibility_product(
    pre_trace: Reals, post_factor: Reals, error: Reals, constants: ReferenceConstants
) -> Reals:
    """m (post, pre) as a double loop over pairs of times: what happened at s, and what it is worth at t.

    pre_trace (time, pre), post_factor and error (time, post), each as it stood in its step; the product of
    the first two waits for the delay.
    """
    c, steps = constants, len(pre_trace)
    delay = round(c.delay_s / c.dt_s)
    response, raw, value = [], 1.0, 0.0
    for _ in range(steps):  # of the eligibility filter, to one impulse
        value += c.dt_s / c.tau_decay_s * (raw - value)
        raw *= math.exp(-c.dt_s / c.tau_rise_s)
        response.append(value)
    m = np.zeros((post_factor.shape[1], pre_trace.shape[1]))
    for t in range(steps):
        if not error[t].any():
            continue
        for s in range(max(0, t - delay) + 1):
            if s + delay <= t:
                hebbian = np.outer(post_factor[s], pre_trace[s])
                m += response[t - s - delay] * hebbian * error[t][:, None]
    return m
