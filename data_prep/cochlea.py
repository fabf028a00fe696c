"""Cochlea: sound to the spikes of 700 bushy cells.

    sound -> level, ramps -> basilar membrane -> hair cell -> 40 fibres -> bushy cell -> spikes

The chain and its constants are those of lauscher, which made the Spiking Heidelberg Digits (Cramer
et al. 2020, doi:10.1109/TNNLS.2020.3044364). There are two modes. `exact` repeats lauscher 1.0.1
spike for spike (see `cochlea_exact`). `fast`, the default, draws from the same distribution, a
thousand times faster than lauscher, and is what data sets are made with. Its spikes are the same for
the same seed and key

* in whatever order and by however many workers recordings are converted, because every channel of
  every recording has its own counter-based random stream;
* on every x86-64 processor: compiled loops use only + - * / and square roots, which IEEE 754 defines
  to the bit, without fast-math and so without fused multiply-add; logarithm and sine are our own;
  the transform is scipy's, compiled for the oldest processor; the membrane's table, made once with
  library functions, is rounded so coarsely that their last bits are lost (-90 dB).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from snnbench.data_prep import bushy_cell, hair_cell
from snnbench.data_prep.audio import level_and_ramp
from snnbench.data_prep.auditory_nerve import fibre_spikes, random_streams
from snnbench.data_prep.basilar_membrane import (
    CHANNELS_AT_ONCE,
    MembraneParameters,
    membrane_filter,
)
from snnbench.data_prep.bushy_cell import BushyCellParameters
from snnbench.data_prep.cochlea_exact import fibre_spikes_exact, mersenne_twister
from snnbench.data_prep.cochlea_filterbank import Decimation, membrane_velocity, spectrum_bins
from snnbench.data_prep.hair_cell import HairCellParameters
from snnbench.errors import SnnbenchError, unknown_name
from snnbench.spec_base import validated, with_overrides

Mode = Literal["fast", "exact"]
MODES: tuple[Mode, ...] = ("fast", "exact")

Observer = Callable[[str, int, NDArray[np.floating]], None]
"""Called with a stage's name (`velocity`, `probability`, `fibre_counts`), the first channel of a
block and its values, shape (time, channel), which are overwritten afterwards."""

LONGEST_SAMPLES = {"fast": 2_880_000, "exact": 960_000}
"""Longest recording, 60 s and 20 s at 48 kHz: it is transformed as a whole, in half a gibibyte."""


class CochleaParameters(BaseModel):
    """All constants of the chain; the defaults are lauscher's 1.0.1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    n_channels: int = Field(default=700, gt=0, le=2**16)  # units are stored in 16 bits
    rms_level: PositiveFloat = 0.3
    ramp_s: NonNegativeFloat | None = None  # None: each ramp is half the recording
    membrane: MembraneParameters = MembraneParameters()
    hair_cell: HairCellParameters = HairCellParameters()
    n_fibres: PositiveInt = 40  # per hair cell
    fibre_dead_time_s: NonNegativeFloat = 1e-3
    bushy_cell: BushyCellParameters = BushyCellParameters()
    decimate: Decimation = Field(default="fold", exclude_if=lambda value: value == "fold")
    """How the membrane's velocity comes to half the sound's rate (see `cochlea_filterbank`)."""

    def dead_steps(self, rate_hz: int) -> int:
        """Shortest distance of two spikes of a fibre in steps of 1 / `rate_hz`, at least 1."""
        return max(1, math.ceil(self.fibre_dead_time_s * rate_hz))


PRESETS = {
    "shd": CochleaParameters(ramp_s=0.03),
    "lauscher": CochleaParameters(),
    "article": CochleaParameters(
        ramp_s=0.03,
        hair_cell=HairCellParameters(
            replenish_per_s=11.11,
            release_per_s=1000.0,
            loss_per_s=1250.0,
            reuptake_per_s=16667.0,
            reprocess_per_s=250.0,
        ),
    ),
}
"""`shd`: ramps of 30 ms, as the article describes them; `lauscher`: the program's own default;
`article`: the hair cell of the article's table too, whose spontaneous rate is far lower."""


def preset_parameters(preset: str, constants: Mapping[str, Any]) -> CochleaParameters:
    """A preset with constants of one's own, by dotted key: {"hair_cell.loss_per_s": 2400.0}.

    Raises
    ------
    UsageError
        There is no such preset or constant, or a value is out of range.
    """
    if preset not in PRESETS:
        raise unknown_name("cochlea preset", preset, PRESETS)
    return validated(
        CochleaParameters, with_overrides(PRESETS[preset].model_dump(), constants), "cochlea"
    )


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
    """What happens on the way; shape (time, channel), at half the sound's rate."""

    velocity: NDArray[np.floating]
    probability: NDArray[np.floating]


def cochlea_spikes(
    waveform: NDArray[np.float64] | NDArray[np.int16],
    sample_rate_hz: int,
    *,
    parameters: CochleaParameters,
    seed: int,
    key: str | int | None,
    mode: Mode = "fast",
    observe: Observer | None = None,
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
        Names the recording; recordings with different keys have independent random numbers. None, in
        the exact mode, takes the random numbers that NumPy gives after `numpy.random.seed(seed)`.
    observe
        Is shown every stage of every block of channels.

    Raises
    ------
    SnnbenchError
        The sound is too short or too long, silent, not finite or not one-dimensional, or its rate is
        so low that the hair cell's equations are unstable.
    UsageError
        There is no such mode, or the exact mode cannot take the seed.
    """
    sound = prepare(waveform, sample_rate_hz, parameters, mode)
    rate_hz = sample_rate_hz // 2
    draw_fibres = _fibres(parameters, rate_hz, seed, key, mode)
    events = []
    for first, rows in _velocities(sound, sample_rate_hz, parameters, mode):
        if observe:
            observe("velocity", first, rows[:, : parameters.n_channels - first])
        hair_cell.spike_probability(rows, 1 / rate_hz, parameters.hair_cell)
        if observe:
            observe("probability", first, rows[:, : parameters.n_channels - first])
        draw_fibres(first, rows)
        if observe:
            observe("fibre_counts", first, rows[:, : parameters.n_channels - first])
        events.append(_bushy_spikes(first, rows, rate_hz, parameters))
        del rows  # before the next block is made: of a long recording it is most of the memory
    return _sorted_spikes(events, rate_hz, parameters.n_channels)


def stages(
    waveform: NDArray[np.float64] | NDArray[np.int16],
    sample_rate_hz: int,
    *,
    parameters: CochleaParameters,
    mode: Mode = "fast",
) -> Stages:
    """Velocity of the membrane and spike probability of one recording: what chance has no part in."""
    sound = prepare(waveform, sample_rate_hz, parameters, mode)
    velocity, probability = [], []
    for first, rows in _velocities(sound, sample_rate_hz, parameters, mode):
        used = rows[:, : parameters.n_channels - first]
        velocity.append(used.copy())
        hair_cell.spike_probability(rows, 1 / (sample_rate_hz // 2), parameters.hair_cell)
        probability.append(used)
    return Stages(np.concatenate(velocity, axis=1), np.concatenate(probability, axis=1))


def draw_spikes(
    probability: NDArray[np.floating],
    rate_hz: int,
    *,
    parameters: CochleaParameters,
    seed: int,
    key: str | int | None,
    mode: Mode = "fast",
) -> Spikes:
    """Spikes of one seed, given the stages' spike probability: many draws of one recording.

    Parameters
    ----------
    probability
        Shape (time, channel), as `stages` gives it in the same mode.
    rate_hz
        Its time steps a second.
    """
    draw_fibres = _fibres(parameters, rate_hz, seed, key, mode)
    events = []
    for first in range(0, parameters.n_channels, CHANNELS_AT_ONCE):
        block = probability[:, first : first + CHANNELS_AT_ONCE]
        rows = np.zeros((len(block), CHANNELS_AT_ONCE), probability.dtype)
        rows[:, : block.shape[1]] = block
        draw_fibres(first, rows)
        events.append(_bushy_spikes(first, rows, rate_hz, parameters))
    return _sorted_spikes(events, rate_hz, parameters.n_channels)


def _velocities(
    sound: NDArray[np.float64], sample_rate_hz: int, parameters: CochleaParameters, mode: Mode
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Blocks of channels: the first one's number, velocities of shape (time, CHANNELS_AT_ONCE)."""
    n_steps = len(sound) // 2 + 1
    membrane = membrane_filter(parameters.n_channels, parameters.membrane, mode == "exact")
    bins = spectrum_bins(sound, sample_rate_hz, membrane, parameters.decimate)
    for block in range(len(membrane.n_used)):
        yield block * CHANNELS_AT_ONCE, membrane_velocity(bins, membrane, block)[:n_steps]


def _fibres(
    parameters: CochleaParameters, rate_hz: int, seed: int, key: str | int | None, mode: Mode
) -> Callable[[int, Any], None]:
    """The function that turns the probabilities of a block (first channel, rows) into fibre counts."""
    n_channels, n_fibres = parameters.n_channels, parameters.n_fibres
    dead_steps = parameters.dead_steps(rate_hz)
    if mode == "fast":
        streams = random_streams(seed, key, n_channels + -n_channels % CHANNELS_AT_ONCE)

        def draw(first: int, rows: Any) -> None:
            fibre_spikes(rows, streams[first:][:CHANNELS_AT_ONCE], n_fibres, dead_steps)

    else:
        generator = mersenne_twister(seed, key)

        def draw(first: int, rows: Any) -> None:
            n_lanes = min(CHANNELS_AT_ONCE, n_channels - first)
            fibre_spikes_exact(rows, n_lanes, generator, n_fibres, dead_steps)

    return draw


def _bushy_spikes(
    first: int, rows: NDArray[np.floating], rate_hz: int, parameters: CochleaParameters
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Time steps and channels of a block's spikes."""
    steps, lanes = bushy_cell.bushy_spikes(
        rows, rate_hz, parameters.n_fibres, parameters.bushy_cell
    )
    return steps, first + lanes


def _sorted_spikes(
    events: list[tuple[NDArray[np.int64], NDArray[np.int64]]], rate_hz: int, n_channels: int
) -> Spikes:
    """Spikes of (time steps, channels) of all blocks; channels that only fill up a block go."""
    steps, units = (np.concatenate(part) for part in zip(*events, strict=True))
    order = np.sort((steps * 2**16 + units)[units < n_channels])
    return Spikes(
        times=((order >> 16) / rate_hz).astype(np.float32),
        units=(order & 0xFFFF).astype(np.uint16),
    )


def prepare(
    waveform: NDArray[np.float64] | NDArray[np.int16],
    sample_rate_hz: int,
    parameters: CochleaParameters,
    mode: Mode = "fast",
) -> NDArray[np.float64]:
    """Checked sound at the cochlea's level, with ramps."""
    if mode not in MODES:
        raise unknown_name("cochlea mode", mode, MODES)
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
    if len(sound) > (longest := LONGEST_SAMPLES[mode]):
        raise SnnbenchError(
            f"sound of {len(sound) / sample_rate_hz:.1f} s: the cochlea transforms a recording as a"
            f" whole and in mode {mode} takes at most {longest / sample_rate_hz:.1f} s at"
            f" {sample_rate_hz} Hz ({longest} samples); cut the recording into pieces"
        )
    if not np.isfinite(sound).all():
        raise SnnbenchError("sound holds NaN or infinite samples")
    if not sound.any():
        raise SnnbenchError("sound is silent: every sample is zero")
    return level_and_ramp(sound, sample_rate_hz, parameters.rms_level, parameters.ramp_s)
