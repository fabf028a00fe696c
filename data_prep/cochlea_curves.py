"""What the cochlea does with tones: the curves by which such models are judged.

Where along the membrane which tone is strongest (the frequency map), how sharp each place is tuned,
and how the firing of fibres and bushy cell of one place grows with the level of a tone (Meddis 1988).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snnbench.data_prep import hair_cell
from snnbench.data_prep.auditory_nerve import fibre_spikes, random_streams
from snnbench.data_prep.basilar_membrane import (
    CHANNELS_AT_ONCE,
    MembraneParameters,
    characteristic_frequency_hz,
    transfer_function,
)
from snnbench.data_prep.bushy_cell import bushy_spikes
from snnbench.data_prep.cochlea import CochleaParameters

_TONE_S, _ONSET_S, _ADAPTED_AFTER_S = 0.6, 0.01, 0.1
_REPEATS = 20  # of the tone: in 10 ms 40 fibres give too few spikes for a rate
_OCTAVES_BELOW = 8
_POINTS_PER_OCTAVE = 96


class Tuning(NamedTuple):
    """Gain |V| of one place. Frequencies in Hz and gains, both of shape (frequency,)."""

    frequency_hz: NDArray[np.float64]
    gain: NDArray[np.float64]


class RateLevel(NamedTuple):
    """Firing at one place, in spikes a second; arrays of shape (level,).

    `onset` is the mean of the first 10 ms of the tone, `adapted` that after 100 ms; a fibre's rate is
    the mean of the place's fibres and of 20 tones; `at_rest` is that of a fibre in silence, from the
    closed form.
    """

    tone_hz: float
    at_rest: float
    level_db: NDArray[np.float64]
    fibre_onset: NDArray[np.float64]
    fibre_adapted: NDArray[np.float64]
    bushy_adapted: NDArray[np.float64]


def tuning(place_cm: float, parameters: MembraneParameters) -> Tuning:
    """Gain of one place from eight octaves below its characteristic frequency to one above."""
    best_hz = characteristic_frequency_hz(np.array([place_cm]), parameters)[0]
    octaves = (
        np.arange(-_OCTAVES_BELOW * _POINTS_PER_OCTAVE, _POINTS_PER_OCTAVE + 1) / _POINTS_PER_OCTAVE
    )
    frequency_hz = best_hz * np.exp2(octaves)
    return Tuning(frequency_hz, np.abs(transfer_function(frequency_hz, place_cm, parameters)))


def rate_level(
    best_hz: float,
    level_db: ArrayLike,
    sample_rate_hz: int,
    parameters: CochleaParameters,
    *,
    seed: int,
) -> RateLevel:
    """Firing at the place of characteristic frequency `best_hz` for the tone that moves it most.

    Parameters
    ----------
    level_db
        Levels of the tone, shape (level,), in dB relative to the level (root mean square) to which
        the cochlea brings every recording.
    sample_rate_hz
        Rate of the sound; all runs at half of it.

    The membrane is linear, so its velocity is the tone times the place's gain, without a transform.
    """
    levels = np.asarray(level_db, np.float64)
    frequency_hz, gain = tuning(place_of_cm(best_hz, parameters.membrane), parameters.membrane)
    tone_hz = float(frequency_hz[gain.argmax()])
    rate_hz = sample_rate_hz // 2
    t = np.arange(round(_TONE_S * rate_hz)) / rate_hz
    tone = np.sqrt(2) * gain.max() * np.sin(2 * np.pi * tone_hz * t)
    amplitude = np.zeros(len(levels) + -len(levels) % CHANNELS_AT_ONCE)
    amplitude[: len(levels)] = parameters.rms_level * 10 ** (levels / 20)
    rates = [  # levels take the places of channels, side by side
        _rates(tone[:, None] * amplitudes, rate_hz, parameters, seed, block)
        for block, amplitudes in enumerate(amplitude.reshape(-1, CHANNELS_AT_ONCE))
    ]
    onset, adapted, bushy = np.concatenate(rates, axis=1)[:, : len(levels)]
    _, cleft, _ = hair_cell.rest_state(parameters.hair_cell)
    p = cleft * parameters.hair_cell.firing_per_s / rate_hz
    at_rest = p * rate_hz / (1 + (parameters.dead_steps(rate_hz) - 1) * p)
    return RateLevel(tone_hz, at_rest, levels, onset, adapted, bushy)


def place_of_cm(best_hz: float, membrane: MembraneParameters) -> float:
    """Distance from the base, in cm, of the place with this characteristic frequency."""
    p = membrane
    stiffness = p.mass_per_area * (2 * math.pi * best_hz) ** 2 + p.stiffness_offset
    place = math.log(p.stiffness_base / stiffness) / p.stiffness_decay_per_cm
    return min(max(place, 0.0), p.length_cm)


def _rates(
    velocity: NDArray[np.float64],
    rate_hz: int,
    parameters: CochleaParameters,
    seed: int,
    block: int,
) -> NDArray[np.float64]:
    """Rates of shape (3, CHANNELS_AT_ONCE) for a block of levels side by side."""
    probability = velocity.astype(np.float32)
    hair_cell.spike_probability(probability, 1 / rate_hz, parameters.hair_cell)
    n_fibres, dead_steps = parameters.n_fibres, parameters.dead_steps(rate_hz)
    onset, late = round(_ONSET_S * rate_hz), round(_ADAPTED_AFTER_S * rate_hz)
    spikes = np.zeros((3, CHANNELS_AT_ONCE))
    for repeat in range(_REPEATS):
        rows = probability.copy()
        streams = random_streams(seed, f"{block}/{repeat}", CHANNELS_AT_ONCE)
        fibre_spikes(rows, streams, n_fibres, dead_steps)
        steps, lanes = bushy_spikes(rows, rate_hz, n_fibres, parameters.bushy_cell)
        spikes[0] += rows[:onset].sum(axis=0) / n_fibres
        spikes[1] += rows[late:].sum(axis=0) / n_fibres
        spikes[2] += np.bincount(lanes[steps >= late], minlength=CHANNELS_AT_ONCE)
    counted_steps = np.array([onset, len(probability) - late, len(probability) - late])
    return spikes * (rate_hz / _REPEATS) / counted_steps[:, None]
