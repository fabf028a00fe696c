"""Filterbank: a recording through the membrane's transfer functions, to velocities at half its rate.

Of the recording's N-point Fourier transform X the first M = N // 2 + 1 bins are multiplied by V, and
the real part of the M-point inverse transform is the velocity. This keeps amplitudes and halves the
rate, to F = sample_rate // 2. As in the reference implementation (lauscher)

* bin k is evaluated at 1 + k (F - 1) / (M - 1) Hz, not at its own k F / M: up to 1 Hz too high, which
  avoids V at zero;
* V is written for the time convention exp(-jwt) and the transform has exp(+jwt), so the membrane
  answers BEFORE the sound: 0.3 ms at 6 kHz, 1.3 ms at 1.5 kHz, 19 ms at 110 Hz (a real cochlea does so
  after it). The published data sets were made so;
* the transform is circular: the answer to the start of the file lies at its end;
* nothing is filtered before the rate is halved ("fold"): a tone between F / 2 and F comes out at F
  minus its frequency, and the constant part counts double.

With "clean" the spectrum is cut before halving: by a raised cosine from 0.9 to 1.0 of F / 2, which is
the highest frequency that the halved rate can carry; and the constant part counts once.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from snnbench.data_prep.basilar_membrane import CHANNELS_AT_ONCE, MembraneFilter

Decimation = Literal["fold", "clean"]

_POINTS = 4  # of the grid that surround a bin and decide V there
_POINTS_EXACT = 12
_CLEAN_FROM, _CLEAN_TO = 0.45, 0.5  # of F


class Bins(NamedTuple):
    """A recording's spectrum and where its bins lie in the filter's grid.

    Attributes
    ----------
    half_spectrum
        Half of the first half of the discrete Fourier transform, shape (bin,), in the precision of
        the filter's table.
    position
        First of the grid points that surround each bin, shape (bin,).
    weights
        Weights of those points (Lagrange interpolation), shape (bin, point).
    """

    half_spectrum: NDArray[np.complexfloating]
    position: NDArray[np.int64]
    weights: NDArray[np.floating]


def spectrum_bins(
    sound: NDArray[np.float64],
    sample_rate_hz: int,
    membrane: MembraneFilter,
    decimate: Decimation = "fold",
) -> Bins:
    """Spectrum of `sound`.

    With a float32 table the sound is padded with zeros to a length that is fast to transform; with a
    float64 table it has its own length, as in the reference.
    """
    from scipy.fft import next_fast_len, rfft

    precision: Any = membrane.table.dtype.type
    n = len(sound) // 2 + 1
    length, points = len(sound), _POINTS_EXACT
    if precision is np.float32:
        n = next_fast_len(n, real=True)
        length, points = 2 * n, _POINTS
    spectrum = rfft(sound.astype(precision, copy=False), length, workers=1)[:n]
    half = spectrum * precision(0.5)
    half_rate_hz = sample_rate_hz // 2
    if decimate == "clean":
        half *= _low_pass(n, sample_rate_hz / length / half_rate_hz).astype(precision)
    weights = np.zeros((n, points), precision)
    step_hz = (half_rate_hz - 1) / (n - 1)
    return Bins(half, _interpolation(step_hz, membrane.grid_hz, weights), weights)


def _low_pass(n: int, step: float) -> NDArray[np.float64]:
    """Gain of the clean decimation in `n` bins, `step` apart in units of the halved rate."""
    frequency = step * np.arange(n)
    passed = np.clip((_CLEAN_TO - frequency) / (_CLEAN_TO - _CLEAN_FROM), 0, 1)
    gain = 0.5 - 0.5 * np.cos(np.pi * passed)
    gain[0] = 0.5  # the one bin without a mirror image
    return gain


@njit(cache=True, error_model="numpy")
def _interpolation(
    step_hz: float, grid_hz: NDArray[np.float64], weights: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Fill in Lagrange weights at 1 + k step_hz; off the grid the position is its end."""
    n, points = weights.shape
    position = np.full(n, len(grid_hz))
    i = 0
    for k in range(n):
        x = 1.0 + k * step_hz
        while i + points <= len(grid_hz) and grid_hz[i + points // 2] <= x:
            i += 1
        if i + points > len(grid_hz):
            break
        position[k] = i
        for a in range(points):
            weight = 1.0
            for b in range(points):
                if a != b:
                    weight *= (x - grid_hz[i + b]) / (grid_hz[i + a] - grid_hz[i + b])
            weights[k, a] = weight
    return position


def membrane_velocity(bins: Bins, membrane: MembraneFilter, block: int) -> NDArray[np.floating]:
    """Velocity of the channels of one block, shape (time, CHANNELS_AT_ONCE), at half the input rate.

    Two channels go through one complex transform, as its real and imaginary part. Rows beyond the
    recording's length are padding. The precision is that of the filter's table.
    """
    from scipy.fft import ifft

    pairs = np.zeros((len(bins.half_spectrum), CHANNELS_AT_ONCE), membrane.table.dtype)
    n_used = int(membrane.n_used[block])
    _filter_pairs(*bins, membrane.table[block], n_used, pairs)
    velocity = ifft(pairs.view(bins.half_spectrum.dtype), axis=0, workers=1, overwrite_x=True)
    return velocity.view(membrane.table.dtype)


@njit(cache=True, error_model="numpy")
def _filter_pairs(
    half_spectrum: NDArray[np.complexfloating],
    position: NDArray[np.int64],
    weights: NDArray[np.floating],
    table: NDArray[np.floating],
    n_used: int,
    pairs: NDArray[np.floating],
) -> None:
    """Fill in the spectra whose inverse transforms are v_a + j v_b for neighbours a and b.

    The real signal v_a has the Hermitian spectrum with (V X)_k / 2 in bin k and its conjugate in bin
    n - k; the one of v_b is added times j. Complex numbers lie interleaved in `pairs`.
    """
    n, points = weights.shape
    gain = np.empty(2 * CHANNELS_AT_ONCE, table.dtype)
    for k in range(n):
        i = position[k]
        if i >= n_used:
            break
        for first in range(0, points, 4):
            w0, w1 = weights[k, first], weights[k, first + 1]
            w2, w3 = weights[k, first + 2], weights[k, first + 3]
            g = i + first
            for part in range(2):
                for lane in range(CHANNELS_AT_ONCE):
                    four = (w0 * table[g, part, lane] + w1 * table[g + 1, part, lane]) + (
                        w2 * table[g + 2, part, lane] + w3 * table[g + 3, part, lane]
                    )
                    at = part * CHANNELS_AT_ONCE + lane
                    gain[at] = four if first == 0 else gain[at] + four
        x_re, x_im = half_spectrum[k].real, half_spectrum[k].imag
        mirror = n - k if k > 0 else 0
        for a in range(0, CHANNELS_AT_ONCE, 2):
            b = a + 1
            a_re = gain[a] * x_re - gain[CHANNELS_AT_ONCE + a] * x_im
            a_im = gain[a] * x_im + gain[CHANNELS_AT_ONCE + a] * x_re
            b_re = gain[b] * x_re - gain[CHANNELS_AT_ONCE + b] * x_im
            b_im = gain[b] * x_im + gain[CHANNELS_AT_ONCE + b] * x_re
            pairs[k, a] += a_re - b_im
            pairs[k, b] += a_im + b_re
            pairs[mirror, a] += a_re + b_im
            pairs[mirror, b] += b_re - a_im
