"""Inner hair cell: membrane velocity to the probability of a spike.

Meddis' model keeps three stores of transmitter: q in the cell, free to be released; c in the cleft;
w taken up again and being reprocessed. With v the velocity of the membrane, k the permeability of
the cell's wall and M the full store:

    k     = g (v + A) / (v + A + B)   where v + A > 0, else 0
    dq/dt = y max(M - q, 0) + x w - k q
    dc/dt = k q - (l + r) c
    dw/dt = r c - x w

and an afferent fibre fires with probability P = h c dt in a time step dt. The equations are stepped
by explicit Euler at half the rate of the sound; that step is part of the model here, because it is
coarse: (l + r) dt is 0.38 at 48 kHz sound and passes the limit of stability, 2, below 9.1 kHz.

Meddis: Simulation of mechanical to neural transduction in the auditory receptor. J. Acoust. Soc. Am.
79, 702-711 (1986), doi:10.1121/1.393460. Constants: Meddis, Hewitt & Shackleton: Implementation
details of a computation model of the inner hair-cell/auditory-nerve synapse. J. Acoust. Soc. Am. 87,
1813-1816 (1990), doi:10.1121/1.399379.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveFloat

from snnbench.data_prep.basilar_membrane import CHANNELS_AT_ONCE

_SMALLEST = 1e-18
"""Stores are kept above this in single precision: denormal numbers would halve the speed."""


class HairCellParameters(BaseModel):
    """Constants of the hair cell; the article's letters in brackets."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    permeability_offset: PositiveFloat = 5.0  # A, velocity
    permeability_half: PositiveFloat = 300.0  # B, velocity
    release_per_s: PositiveFloat = 2000.0  # g
    replenish_per_s: PositiveFloat = 5.05  # y
    loss_per_s: PositiveFloat = 2500.0  # l
    reuptake_per_s: PositiveFloat = 6580.0  # r
    reprocess_per_s: PositiveFloat = 66.3  # x
    full_store: PositiveFloat = 1.0  # M
    firing_per_s: PositiveFloat = 50000.0  # h


class HairCellStep(NamedTuple):
    """Constants of one Euler step; float32 or float64 throughout, so that the step stays in it."""

    offset: np.floating
    half: np.floating
    release: np.floating
    replenish: np.floating
    clear: np.floating
    reuptake: np.floating
    reprocess: np.floating
    full: np.floating
    firing: np.floating
    smallest: np.floating
    zero: np.floating


def _step_constants(
    dt_s: float, parameters: HairCellParameters, dtype: type[np.floating]
) -> HairCellStep:
    """The constants of a step of `dt_s` in the precision `dtype`."""
    p = parameters
    smallest = _SMALLEST if dtype is np.float32 else 0.0
    return HairCellStep(
        *(
            dtype(value)
            for value in (
                p.permeability_offset,
                p.permeability_half,
                p.release_per_s * dt_s,
                p.replenish_per_s * dt_s,
                (p.loss_per_s + p.reuptake_per_s) * dt_s,
                p.reuptake_per_s * dt_s,
                p.reprocess_per_s * dt_s,
                p.full_store,
                p.firing_per_s * dt_s,
                smallest,
                0.0,
            )
        )
    )


def rest_state(parameters: HairCellParameters) -> tuple[float, float, float]:
    """Contents (q, c, w) of the three stores at rest, v = 0.

    >>> q, c, w = rest_state(HairCellParameters())
    >>> round(c * HairCellParameters().firing_per_s, 1)  # spontaneous rate of a fibre, 1/s
    64.8
    """
    p = parameters
    k = p.release_per_s * p.permeability_offset / (p.permeability_offset + p.permeability_half)
    clear = p.loss_per_s + p.reuptake_per_s
    c = p.full_store * p.replenish_per_s * k / (p.loss_per_s * k + p.replenish_per_s * clear)
    return c * clear / k, c, c * p.reuptake_per_s / p.reprocess_per_s


def highest_stable_step_s(parameters: HairCellParameters) -> float:
    """The Euler step at which the first of the stores' equations becomes unstable, in seconds.

    Each store empties at a rate of its own, and a step of more than twice its time constant grows
    without bound. In practice the cleft (loss and re-uptake) is the fastest.
    """
    p = parameters
    return 2 / max(
        p.loss_per_s + p.reuptake_per_s, p.release_per_s + p.replenish_per_s, p.reprocess_per_s
    )


@njit(inline="always", error_model="numpy")
def hair_cell_step(
    v: np.floating, q: np.floating, c: np.floating, w: np.floating, s: HairCellStep
) -> tuple[np.floating, np.floating, np.floating, np.floating]:
    """One Euler step: velocity and stores in, new stores and the spike probability out."""
    drive = max(v + s.offset, s.zero)
    released = s.release * drive / (drive + s.half) * q
    taken_up = s.reuptake * c
    reprocessed = s.reprocess * w
    q_new = max(s.smallest, q + (s.replenish * max(s.full - q, s.zero) - released + reprocessed))
    c_new = max(s.smallest, c + (released - s.clear * c))
    w_new = max(s.smallest, w + (taken_up - reprocessed))
    return q_new, c_new, w_new, s.firing * c_new


def spike_probability(
    velocity: NDArray[np.floating], dt_s: float, parameters: HairCellParameters
) -> None:
    """Replace the velocity of a block of channels by the spike probability of their fibres.

    `velocity` has shape (time, CHANNELS_AT_ONCE), float32 or float64 (then all arithmetic is in that
    precision), and is overwritten. Starts at rest.
    """
    stores = np.repeat(np.array(rest_state(parameters), velocity.dtype), CHANNELS_AT_ONCE)
    _run(velocity, stores, _step_constants(dt_s, parameters, velocity.dtype.type))


@njit(cache=True, error_model="numpy")
def _run(rows: NDArray[np.float32], stores: NDArray[np.float32], s: HairCellStep) -> None:
    # one flat array of stores with fixed offsets: the compiler sees that they do not overlap
    n = CHANNELS_AT_ONCE
    for t in range(len(rows)):
        for lane in range(n):
            q, c, w, probability = hair_cell_step(
                rows[t, lane], stores[lane], stores[n + lane], stores[2 * n + lane], s
            )
            stores[lane] = q
            stores[n + lane] = c
            stores[2 * n + lane] = w
            rows[t, lane] = probability
