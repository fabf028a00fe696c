"""Cochlea: sound to the spikes of 700 bushy cells.

    sound -> level, ramps -> basilar membrane -> hair cell -> 40 fibres -> bushy cell -> spikes

The chain and its constants are those of lauscher, which made the Spiking Heidelberg Digits (Cramer
et al. 2020, doi:10.1109/TNNLS.2020.3044364). `cochlea_exact` repeats lauscher spike for spike;
this module draws from the same distribution, some thousand times faster, and is what data sets are
made with. Its spikes are the same for the same seed and key

* in whatever order and by however many workers recordings are converted, because every channel of
  every recording has its own counter-based random stream;
* on every x86-64 processor: compiled loops use only + - * / and square roots, which IEEE 754 defines
  to the bit, without fast-math and so without fused multiply-add; logarithm and sine are our own;
  the transform is scipy's, compiled for the oldest processor; the membrane's table, made once with
  library functions, is rounded so coarsely that their last bits are lost (-90 dB).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from snnbench.data_prep import basilar_membrane, bushy_cell, hair_cell
from snnbench.data_prep.audio import level_and_ramp
from snnbench.data_prep.auditory_nerve import fibre_spikes, random_streams
from snnbench.data_prep.basilar_membrane import CHANNELS_AT_ONCE, MembraneParameters
from snnbench.data_prep.bushy_cell import BushyCellParameters
from snnbench.data_prep.hair_cell import HairCellParameters
from snnbench.errors import SnnbenchError


class CochleaParameters(BaseModel):
    """All constants of the chain; the defaults are lauscher's 1.0.1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_channels: PositiveInt = 700
    rms_level: PositiveFloat = 0.3
    ramp_s: NonNegativeFloat | None = None  # None: each ramp is half the recording
    membrane: MembraneParameters = MembraneParameters()
    hair_cell: HairCellParameters = HairCellParameters()
    n_fibres: PositiveInt = 40  # per hair cell
    fibre_dead_time_s: NonNegativeFloat = 1e-3
    bushy_cell: BushyCellParameters = BushyCellParameters()


PRESETS = {
    "shd": CochleaParameters(ramp_s=0.03),
    "lauscher": CochleaParameters(),
}
"""`shd`: ramps of 30 ms, as the article describes them; `lauscher`: the program's own default."""


class Spikes(NamedTuple):
    """Spikes of one recording, sorted by time, then unit.

    Attributes
    ----------
    times
        Seconds from the start of the recording, float32, shape (spike,).
    units
        Channel, 0 (highest frequency) to n_channels - 1, uint16, shape (spike,).
    """

    times: NDArray[np.float32]
    units: NDArray[np.uint16]


class Stages(NamedTuple):
    """What happens before the spikes; shape (time, channel), float32, at half the sound's rate."""

    velocity: NDArray[np.float32]
    probability: NDArray[np.float32]


def cochlea_spikes(
    waveform: NDArray[np.float64] | NDArray[np.int16],
    sample_rate_hz: int,
    *,
    parameters: CochleaParameters,
    seed: int,
    key: str | int,
) -> Spikes:
    """Spikes of one recording.

    Parameters
    ----------
    waveform
        Mono sound, shape (time,); its level does not matter.
    sample_rate_hz
        The published data sets were made from 48 kHz sound; other rates give other spike counts.
    seed
        Chooses the random numbers of the whole data set.
    key
        Names the recording; recordings with different keys have independent random numbers.

    Raises
    ------
    SnnbenchError
        The sound is too short, silent, not finite or not one-dimensional, or its rate is so low
        that the hair cell's equations are unstable.
    """
    sound = prepare(waveform, sample_rate_hz, parameters)
    rate_hz = sample_rate_hz // 2
    n_steps = len(sound) // 2 + 1
    dead_steps = math.ceil(parameters.fibre_dead_time_s * rate_hz)
    membrane = basilar_membrane.membrane_filter(parameters.n_channels, parameters.membrane)
    bins = basilar_membrane.spectrum_bins(sound, sample_rate_hz, membrane)
    n_blocks = len(membrane.n_used)
    streams = random_streams(seed, key, n_blocks * CHANNELS_AT_ONCE)
    events = []
    for block in range(n_blocks):
        first = block * CHANNELS_AT_ONCE
        rows = basilar_membrane.membrane_velocity(bins, membrane, block)[:n_steps]
        hair_cell.spike_probability(rows, 1 / rate_hz, parameters.hair_cell)
        fibre_spikes(rows, streams[first:][:CHANNELS_AT_ONCE], parameters.n_fibres, dead_steps)
        steps, lanes = bushy_cell.bushy_spikes(
            rows, rate_hz, parameters.n_fibres, parameters.bushy_cell
        )
        events.append((steps, first + lanes))
    return sorted_spikes(events, rate_hz, parameters.n_channels)


def sorted_spikes(
    events: list[tuple[NDArray[np.int64], NDArray[np.int64]]], rate_hz: int, n_channels: int
) -> Spikes:
    """Spikes of (time steps, channels) of all blocks; channels that only fill up a block go."""
    steps, units = (np.concatenate(part) for part in zip(*events, strict=True))
    order = np.sort((steps * 2**16 + units)[units < n_channels])
    return Spikes(
        times=((order >> 16) / rate_hz).astype(np.float32),
        units=(order & 0xFFFF).astype(np.uint16),
    )


def stages(
    waveform: NDArray[np.float64] | NDArray[np.int16],
    sample_rate_hz: int,
    *,
    parameters: CochleaParameters,
) -> Stages:
    """Velocity of the membrane and spike probability of one recording, for plots and tests."""
    sound = prepare(waveform, sample_rate_hz, parameters)
    n_steps = len(sound) // 2 + 1
    membrane = basilar_membrane.membrane_filter(parameters.n_channels, parameters.membrane)
    bins = basilar_membrane.spectrum_bins(sound, sample_rate_hz, membrane)
    blocks = [
        basilar_membrane.membrane_velocity(bins, membrane, block)[:n_steps]
        for block in range(len(membrane.n_used))
    ]
    velocity = np.concatenate(blocks, axis=1)[:, : parameters.n_channels]
    for rows in blocks:
        hair_cell.spike_probability(rows, 1 / (sample_rate_hz // 2), parameters.hair_cell)
    return Stages(velocity, np.concatenate(blocks, axis=1)[:, : parameters.n_channels])


def prepare(
    waveform: NDArray[np.float64] | NDArray[np.int16],
    sample_rate_hz: int,
    parameters: CochleaParameters,
) -> NDArray[np.float64]:
    """Checked sound at the cochlea's level, with ramps."""
    slowest_hz = 2 / hair_cell.highest_stable_step_s(parameters.hair_cell)
    if sample_rate_hz <= slowest_hz:
        raise SnnbenchError(
            f"sound at {sample_rate_hz} Hz: the hair cell is unstable at {slowest_hz:.0f} Hz and "
            "below; resample the sound, best to 48000 Hz"
        )
    sound = np.asarray(waveform, np.float64)
    if sound.ndim != 1 or len(sound) < 4:
        raise SnnbenchError(
            f"sound of shape {sound.shape}: one dimension and at least 4 samples are needed"
        )
    if not np.isfinite(sound).all():
        raise SnnbenchError("sound holds NaN or infinite samples")
    if not sound.any():
        raise SnnbenchError("sound is silent: every sample is zero")
    return level_and_ramp(sound, sample_rate_hz, parameters.rms_level, parameters.ramp_s)
