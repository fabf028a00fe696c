"""Afferent fibres: spike probability of a hair cell to the number of its fibres that fire.

Each hair cell has 40 fibres. In every time step each fibre fires with the cell's probability P,
unless it has fired less than the dead time ago. All 40 end on one linear synapse, so only their sum
matters, and the sum can be drawn without drawing each fibre:

* with f fibres free to fire, the step is a row of f trials of probability P;
* the number of failures before a success is geometric, and a geometric number is a rounded-up
  exponential one: an Exp(1) variate E is used up by eta = -ln(1 - P) in every trial, and the trial
  in which it runs out is the success;
* E may be carried over from step to step while P changes, because trials are independent.

So a random number is needed per spike (about 1.8 million in a second of sound) and not per trial
(672 million), and the numbers have exactly the distribution of 40 refractory Bernoulli fibres.

Random numbers are counter-based: number i of a channel is a hash of (seed, recording, channel, i).
The result does not depend on the order in which channels or recordings are converted.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit
from numpy.typing import NDArray

from snnbench.data_prep.basilar_membrane import CHANNELS_AT_ONCE

_BATCH = 128  # exponential variates drawn at a time for a channel
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # constants of SplitMix64 (Steele, Lea & Flood 2014)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LN_2 = 0.6931471805599453
_HIGHEST_P = np.float32(0.95)


def random_streams(seed: int, key: str | int | None, n_channels: int) -> NDArray[np.uint64]:
    """Start of the random stream of each channel of the recording `key`. Shape (channel,)."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    base = int.from_bytes(digest, "little")
    steps = [(base + i * int(_GOLDEN)) % 2**64 for i in range(n_channels)]
    return np.array([_scatter(step) for step in steps], np.uint64)


def _scatter(x: int) -> int:
    """MurmurHash3's finaliser: scatters neighbours over all 64-bit integers."""
    x = ((x ^ (x >> 33)) * 0xFF51AFD7ED558CCD) % 2**64
    x = ((x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53) % 2**64
    return x ^ (x >> 33)


def fibre_spikes(
    probability: NDArray[np.float32],
    streams: NDArray[np.uint64],
    n_fibres: int,
    dead_steps: int,
) -> None:
    """Replace the spike probability of a block of channels by the number of fibres that fire.

    Parameters
    ----------
    probability
        Shape (time, CHANNELS_AT_ONCE), per fibre and time step; overwritten. Above 0.95 it counts as
        0.95.
    streams
        Starts of the channels' random streams, shape (CHANNELS_AT_ONCE,).
    dead_steps
        Shortest distance of two spikes of a fibre, in time steps.
    """
    _run(probability, streams, np.float32(n_fibres), max(dead_steps, 1))


@njit(cache=True, error_model="numpy")
def _run(
    rows: NDArray[np.float32],
    streams: NDArray[np.uint64],
    n_fibres: np.float32,
    dead_steps: int,
) -> None:
    n = CHANNELS_AT_ONCE
    exponentials = np.empty((n, _BATCH), np.float32)
    used = np.zeros(n, np.int64)
    drawn = np.zeros(n, np.int64)
    for lane in range(n):
        _draw_exponentials(streams[lane], 0, exponentials[lane])
    # flat state: what is left of E, free fibres, hazard eta
    state = np.empty(3 * n, np.float32)
    for lane in range(n):
        state[lane] = exponentials[lane, 0]
        used[lane] = 1
        state[n + lane] = n_fibres
    recent = np.zeros((dead_steps, n), np.float32)  # counts of the last steps, a ring
    slot = 0
    one, two, zero = np.float32(1), np.float32(2), np.float32(0)
    third, fifth, seventh = np.float32(1 / 3), np.float32(1 / 5), np.float32(1 / 7)
    for t in range(len(rows)):
        for lane in range(n):
            p = min(rows[t, lane], _HIGHEST_P)
            # -ln(1 - p) = 2 artanh(p / (2 - p)); relative error < 2e-5 for p < 0.5
            z = p / (two - p)
            z2 = z * z
            eta = two * z * (one + z2 * (third + z2 * (fifth + z2 * seventh)))
            free = state[n + lane] + recent[slot, lane]
            state[n + lane] = free
            state[2 * n + lane] = eta
            state[lane] -= free * eta
            rows[t, lane] = zero
            recent[slot, lane] = zero
        for lane in range(n):
            left = state[lane]
            if left > zero:
                continue
            eta = state[2 * n + lane]
            trials = state[n + lane]
            left += trials * eta
            count = zero
            while left <= trials * eta and trials > zero:
                step = np.float32(np.int32(left / eta)) + one
                trials = max(trials - step, zero)
                count += one
                if used[lane] == _BATCH:
                    drawn[lane] += _BATCH
                    _draw_exponentials(streams[lane], drawn[lane], exponentials[lane])
                    used[lane] = 0
                left = exponentials[lane, used[lane]]
                used[lane] += 1
            state[lane] = left - trials * eta
            rows[t, lane] = count
            recent[slot, lane] = count
            state[n + lane] -= count
        slot = slot + 1 if slot + 1 < dead_steps else 0


@njit(cache=True, error_model="numpy")
def _draw_exponentials(stream: np.uint64, start: int, out: NDArray[np.float32]) -> None:
    """Exp(1) variates number start, start + 1, ... of a stream, in plain arithmetic.

    E = -ln(u), u = (i + 1/2) / 2^52 with i a random integer. With u = m 2^e, 1 <= m < 2, taken
    from the bits of u, ln u = e ln 2 + ln m and ln m = 2 artanh((m - 1) / (m + 1)) as a series.
    """
    for i in range(len(out)):
        x = stream + np.uint64(start + i + 1) * _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        x = x ^ (x >> np.uint64(31))
        u = (np.float64(np.int64(x >> np.uint64(12))) + 0.5) * 2.220446049250313e-16
        bits = np.float64(u).view(np.int64)
        exponent = (bits >> 52) - 1023
        m = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
        z = (m - 1.0) / (m + 1.0)
        y = z * z
        series = 1.0 + y * (
            1 / 3 + y * (1 / 5 + y * (1 / 7 + y * (1 / 9 + y * (1 / 11 + y * (1 / 13 + y / 15)))))
        )
        out[i] = -(exponent * _LN_2 + 2.0 * z * series)
