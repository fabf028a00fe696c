"""Cochlea, spike for spike as lauscher 1.0.1: the readable truth that the fast one is tested against.

Everything in double precision: the transfer function at the reference's own frequencies, the
transform at the recording's own length, and one uniform number for every fibre and time step, drawn
from NumPy's legacy generator (MT19937) in the reference's order. The spikes of seed s are those of
lauscher after `numpy.random.seed(s)`.

A second of 48 kHz sound takes some ten seconds. Data sets are made with `cochlea`, whose spikes have
the same distribution.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from snnbench.data_prep import basilar_membrane, bushy_cell, hair_cell
from snnbench.data_prep.basilar_membrane import CHANNELS_AT_ONCE
from snnbench.data_prep.cochlea import CochleaParameters, Spikes, prepare, sorted_spikes

_NEGLIGIBLE_ABOVE = 3.2
"""Times the characteristic frequency: |V| is below 1e-6 of its peak there and is taken as zero."""


def cochlea_spikes_exact(
    waveform: NDArray[np.float64] | NDArray[np.int16],
    sample_rate_hz: int,
    *,
    parameters: CochleaParameters,
    seed: int,
) -> Spikes:
    """Spikes of one recording; parameters and errors as in `cochlea.cochlea_spikes`."""
    velocity = membrane_velocity(waveform, sample_rate_hz, parameters)
    probability = spike_probability(velocity, sample_rate_hz // 2, parameters)
    return draw_spikes(probability, sample_rate_hz // 2, parameters, seed)


def membrane_velocity(
    waveform: NDArray[np.float64] | NDArray[np.int16],
    sample_rate_hz: int,
    parameters: CochleaParameters,
) -> NDArray[np.float64]:
    """Velocity of the membrane at half the sound's rate, shape (channel, time), float64.

    Of the N-point transform X of the sound the first M = N // 2 + 1 bins are multiplied by V at 1 to
    F Hz (F half the sample rate), and the real part of the M-point inverse transform is taken.
    """
    sound = prepare(waveform, sample_rate_hz, parameters)
    n = len(sound) // 2 + 1
    spectrum = np.fft.rfft(sound)
    frequency_hz = 1 + np.arange(n, dtype=np.float64) * ((sample_rate_hz // 2 - 1) / (n - 1))
    membrane = parameters.membrane
    places = basilar_membrane.places_cm(parameters.n_channels, membrane)
    limit_hz = _NEGLIGIBLE_ABOVE * basilar_membrane.characteristic_frequency_hz(places, membrane)
    velocity = np.empty((parameters.n_channels, n))
    common = basilar_membrane.common_factor(frequency_hz, membrane)
    for channel, place in enumerate(places):
        used = frequency_hz <= limit_hz[channel]
        gain = common[used] * basilar_membrane.place_factor(
            frequency_hz[used], float(place), membrane
        )
        velocity[channel] = np.fft.ifft(gain * spectrum[: len(gain)], n).real
    return velocity


def spike_probability(
    velocity: NDArray[np.float64], rate_hz: int, parameters: CochleaParameters
) -> NDArray[np.float64]:
    """Spike probability of a fibre in each time step, shape (channel, time), float64."""
    probability = np.empty_like(velocity)
    for first in range(0, len(velocity), CHANNELS_AT_ONCE):
        block = velocity[first : first + CHANNELS_AT_ONCE]
        rows = np.zeros((velocity.shape[1], CHANNELS_AT_ONCE))
        rows[:, : len(block)] = block.T
        hair_cell.spike_probability(rows, 1 / rate_hz, parameters.hair_cell)
        probability[first : first + len(block)] = rows[:, : len(block)].T
    return probability


def draw_spikes(
    probability: NDArray[np.float64], rate_hz: int, parameters: CochleaParameters, seed: int
) -> Spikes:
    """Spikes of one seed, given the spike probability of shape (channel, time)."""
    generator = np.random.RandomState(seed)  # the reference's generator
    n_channels, n_steps = probability.shape
    dead_steps = math.ceil(parameters.fibre_dead_time_s * rate_hz)
    events = []
    for first in range(0, n_channels, CHANNELS_AT_ONCE):
        counts = np.zeros((n_steps, CHANNELS_AT_ONCE))
        for lane in range(min(CHANNELS_AT_ONCE, n_channels - first)):
            uniforms = generator.random_sample((n_steps, parameters.n_fibres))
            _count_fibre_spikes(uniforms, probability[first + lane], dead_steps, counts[:, lane])
        steps, lanes = bushy_cell.bushy_spikes(
            counts, rate_hz, parameters.n_fibres, parameters.bushy_cell
        )
        events.append((steps, first + lanes))
    return sorted_spikes(events, rate_hz, n_channels)


@njit(cache=True)
def _count_fibre_spikes(
    uniforms: NDArray[np.float64],
    probability: NDArray[np.float64],
    dead_steps: int,
    counts: NDArray[np.float64],
) -> None:
    """Count the fibres that fire: u < P, and not within the dead time after the last spike."""
    n_steps, n_fibres = uniforms.shape
    last = np.full(n_fibres, -dead_steps)
    for t in range(n_steps):
        for fibre in range(n_fibres):
            if uniforms[t, fibre] < probability[t] and t - last[fibre] >= dead_steps:
                last[fibre] = t
                counts[t] += 1
