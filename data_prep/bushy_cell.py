"""Spherical bushy cell: the fibres of one hair cell to one spike train.

A leaky integrate-and-fire neuron with an exponential synapse, one per channel. With s_n the number
of fibre spikes in step n and weight b per spike:

    I_n = exp(-dt / tau_syn) I_{n-1} + s_n
    V_n = min(1, exp(-dt / tau_mem) V_{n-1} + b dt I_n)

When V reaches the threshold, 1, the neuron fires: V is held at 0 for the refractory time while I
goes on. A spike carries the time of the step in which the threshold was reached. The shortest
interval of two spikes is the refractory time, rounded up to whole steps, and one step.

Cells and constants as in lauscher (Cramer et al., The Heidelberg spiking data sets, 2020,
doi:10.1109/TNNLS.2020.3044364): the model there is a discrete LIF neuron.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveFloat

from snnbench.data_prep.basilar_membrane import CHANNELS_AT_ONCE


class BushyCellParameters(BaseModel):
    """Constants of the bushy cell; the threshold is 1 and the reset 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tau_mem_s: PositiveFloat = 1e-3
    tau_syn_s: PositiveFloat = 0.5e-3
    refractory_s: PositiveFloat = 1e-3
    weight_per_s: PositiveFloat = 13000.0  # of all fibres of the channel together


class BushyCellStep(NamedTuple):
    """Constants of one step; float32 or float64 throughout."""

    keep_v: np.floating
    keep_i: np.floating
    gain: np.floating
    refractory_steps: np.floating
    zero: np.floating
    one: np.floating


def _step_constants(
    rate_hz: int, n_fibres: int, parameters: BushyCellParameters, dtype: type[np.floating]
) -> BushyCellStep:
    """The constants of a step of 1 / `rate_hz` in the precision `dtype`."""
    p = parameters
    return BushyCellStep(
        *(
            dtype(value)
            for value in (
                math.exp(-1 / (rate_hz * p.tau_mem_s)),
                math.exp(-1 / (rate_hz * p.tau_syn_s)),
                p.weight_per_s / n_fibres / rate_hz,
                math.ceil(p.refractory_s * rate_hz),
                0.0,
                1.0,
            )
        )
    )


@njit(inline="always", error_model="numpy")
def bushy_cell_step(
    v: np.floating, i: np.floating, wait: np.floating, n_input: np.floating, s: BushyCellStep
) -> tuple[np.floating, np.floating, np.floating, np.bool_]:
    """One step: (V, I, steps left to wait) and input in, new state out.

    The flag tells that V had reached the threshold in the step BEFORE this one.
    """
    ready = wait <= s.zero
    fired = ready and v >= s.one
    wait = s.refractory_steps if fired else wait
    integrates = ready and not fired
    i = s.keep_i * i + n_input
    v = min(s.keep_v * v + s.gain * i, s.one) if integrates else s.zero
    return v, i, max(wait - s.one, s.zero), fired


def bushy_spikes(
    n_input: NDArray[np.floating], rate_hz: int, n_fibres: int, parameters: BushyCellParameters
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spikes of a block of channels.

    Parameters
    ----------
    n_input
        Fibre spikes of each step, shape (time, CHANNELS_AT_ONCE); float32 or float64, which is also
        the precision of the arithmetic.
    rate_hz
        Time steps a second.
    n_fibres
        Fibres of a channel, which share the weight.

    Returns
    -------
    Time steps and lanes of the spikes, sorted by step, then lane.
    """
    constants = _step_constants(rate_hz, n_fibres, parameters, n_input.dtype.type)
    most = n_input.shape[1] * (len(n_input) // int(constants.refractory_steps + 1) + 1)
    steps, lanes = np.empty(most, np.int64), np.empty(most, np.int64)
    n = _run(n_input, constants, steps, lanes)
    return steps[:n].copy(), lanes[:n].copy()


@njit(cache=True, error_model="numpy")
def _run(
    rows: NDArray[np.floating], s: BushyCellStep, steps: NDArray[np.int64], lanes: NDArray[np.int64]
) -> int:
    n = CHANNELS_AT_ONCE
    state = np.zeros(4 * n, rows.dtype)  # V, I, wait, fired; flat as in the hair cell
    n_spikes = 0
    for t in range(len(rows)):
        any_fired: np.bool_ = np.bool_(False)
        for lane in range(n):
            v, i, wait, fired = bushy_cell_step(
                state[lane], state[n + lane], state[2 * n + lane], rows[t, lane], s
            )
            state[lane] = v
            state[n + lane] = i
            state[2 * n + lane] = wait
            state[3 * n + lane] = s.one if fired else s.zero
            any_fired |= fired
        if any_fired:
            for lane in range(n):
                if state[3 * n + lane] > s.zero:
                    steps[n_spikes] = t - 1
                    lanes[n_spikes] = lane
                    n_spikes += 1
    return n_spikes
