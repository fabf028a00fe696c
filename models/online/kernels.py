"""Loops over the steps of a block, compiled by numba: neurons, traces, and credit backwards in time.

Rows are steps. Arrays are C-contiguous with units (or seeds and units) last, so that the loop over units is
one for the processor's vector instructions. States are changed in place. The statements stand in the order
of a step that `snnbench.models.superspike` gives; numbers in brackets are its.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_jit: Any = numba.njit(cache=True, nogil=True)

TINY = 1e-30
"""States that decay are 0 below. It changes no sum, and processors take some ten times as long for numbers
smaller than what a float holds with all its digits."""


@_jit
def lif(
    below: np.ndarray,
    weights: np.ndarray,
    voltage: np.ndarray,
    current: np.ndarray,
    waits: np.ndarray,
    membranes: np.ndarray,
    spikes: np.ndarray,
    euler: float,
    decay: float,
    rest: float,
    threshold: float,
    hold: int,
) -> None:
    """A layer of LIF neurons: steps 1 to 4.

    below (time, seed, pre), uint8: spikes that arrive in each step, delay included. weights
    (seed, pre, post), in mV. voltage, current (seed, post) and waits, refractory steps to come, are state.
    membranes (time, seed, post) after reset, and spikes, likewise, uint8, are written.
    """
    real = voltage.dtype.type  # a plain number would make double precision of what it meets
    euler, decay, rest, threshold = real(euler), real(decay), real(rest), real(threshold)
    tiny, zero = real(TINY), real(0)
    steps, seeds, n_pre = below.shape
    u, i, r = voltage.ravel(), current.ravel(), waits.ravel()
    for t in range(steps):
        trace, out = membranes[t].ravel(), spikes[t].ravel()
        for k in range(u.shape[0]):
            free = u[k] + euler * ((rest - u[k]) + i[k])  # (1)
            held = r[k] > 0
            v = rest if held else free
            fires = v > threshold  # (2); a unit that is held lies at rest, below threshold
            v = rest if fires else v
            r[k] = hold if fires else (r[k] - 1 if held else 0)
            u[k] = v
            trace[k] = v
            out[k] = 1 if fires else 0
            left = i[k] * decay  # (3)
            i[k] = left if abs(left) > tiny else zero
        for s in range(seeds):  # (4)
            some = 0
            for j in range(n_pre):  # many at once; in most steps none has sent
                some |= below[t, s, j]
            if some == 0:
                continue
            onto = current[s]
            for j in range(n_pre):
                if below[t, s, j]:
                    row = weights[s, j]
                    for k in range(row.shape[0]):
                        onto[k] += row[k]


@_jit
def trace(
    spikes: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    out: np.ndarray,
    decay: float,
    euler: float,
    cutoff: float,
) -> None:
    """Presynaptic traces: `second` relaxes towards `first`, which jumps by 1 with a spike and decays (8).

    spikes (time, unit) uint8; first, second (unit,) are state; out (time, unit) is `second` as plasticity
    sees it (6), 0 up to `cutoff`.
    """
    real = first.dtype.type
    decay, euler, cutoff = real(decay), real(euler), real(cutoff)
    tiny, zero = real(TINY), real(0)
    for t in range(spikes.shape[0]):
        row, sent = out[t], spikes[t]
        for k in range(first.shape[0]):
            row[k] = second[k] if second[k] > cutoff else zero
            relaxed = second[k] + euler * (first[k] - second[k])
            second[k] = relaxed if relaxed > tiny else zero
            left = first[k] * decay + real(sent[k])
            first[k] = left if left > tiny else zero


@_jit
def errors(
    impulses: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    out: np.ndarray,
    rise: float,
    fall: float,
) -> None:
    """Error traces: impulses of one step, relaxed twice (8).

    impulses (time, unit); first, second (unit,) are state. out (time + 1, unit): row t as plasticity of step
    t sees it (6), the last row as the next block will.
    """
    real = first.dtype.type
    rise, fall = real(rise), real(fall)
    tiny, zero = real(TINY), real(0)
    for t in range(impulses.shape[0]):
        row, now = out[t], impulses[t]
        for k in range(first.shape[0]):
            row[k] = second[k]
            relaxed = second[k] + fall * (first[k] - second[k])
            second[k] = relaxed if abs(relaxed) > tiny else zero
            relaxed = first[k] + rise * (now[k] - first[k])
            first[k] = relaxed if abs(relaxed) > tiny else zero
    out[-1] = second


@_jit
def credit(
    third: np.ndarray, factor: np.ndarray, out: np.ndarray, fall: float, decay: float, cutoff: float
) -> None:
    """What each earlier step's postsynaptic factor is worth to the block's third factor.

    Eligibility (6) is linear in the Hebbian product x: raw += x; lambda += fall (raw - lambda);
    raw *= decay; m += lambda e. Its adjoint runs backwards over steps: lambda* = e + (1 - fall) lambda*,
    raw* = fall lambda* + decay raw*, and x's share of m is raw*. So m = sum over steps of raw* x, and
    x = factor_i trace_j needs no state of its own for every synapse.

    third (time, unit) is e, 0 up to `cutoff`; factor and out (history + time, unit), the rows before the
    block first; out = raw* factor.
    """
    real = third.dtype.type
    fall, decay, cutoff = real(fall), real(decay), real(cutoff)
    tiny, zero = real(TINY), real(0)
    keep = real(1) - fall
    steps, units = third.shape
    history = factor.shape[0] - steps
    eligibility, raw, silent = (
        np.zeros_like(third[0]),
        np.zeros_like(third[0]),
        np.zeros_like(third[0]),
    )
    for t in range(factor.shape[0] - 1, -1, -1):
        now = third[t - history] if t >= history else silent
        for k in range(units):
            e = now[k] if abs(now[k]) > cutoff else zero
            e += keep * eligibility[k]
            eligibility[k] = e if abs(e) > tiny else zero
            r = fall * eligibility[k] + decay * raw[k]
            raw[k] = r if abs(r) > tiny else zero
        row, by = out[t], factor[t]
        for k in range(units):
            row[k] = raw[k] * by[k]


@_jit
def activity(
    spikes: np.ndarray,
    z: np.ndarray,
    third: np.ndarray,
    total: np.ndarray,
    decay: float,
    exponent: int,
    times_error: bool,
) -> None:
    """Sum over steps of z^exponent, where z jumps by 1 with a unit's own spike; if asked, times e^2.

    spikes, third (time, unit); z (unit,) is state; total (unit,) is written.
    """
    real = z.dtype.type
    decay, one = real(decay), real(1)
    total[:] = 0
    for t in range(spikes.shape[0]):
        sent, e = spikes[t], third[t]
        for k in range(z.shape[0]):
            power = one
            for _ in range(exponent):
                power *= z[k]
            total[k] += power * e[k] * e[k] if times_error else power
            z[k] = z[k] * decay + real(sent[k])
