"""Spike times to time bins: one definition of the edges, compiled for files and in torch for devices.

Bin k is the half-open interval [k dt, (k + 1) dt). Times are stored as float32, and a decimal such as
0.03 s is not one: the nearest float32 lies just below, and dividing by dt = 0.01 gives 2.9999999. So the
edges k dt are rounded to float32 as well: a time t belongs to bin k if
float32(k dt) <= t < float32((k + 1) dt). A time written at an edge then always lands right of it, and no
tolerance is needed.

The last bin ends with the duration, which need not be a whole number of bins. Spikes from there on are
cut off; where a task has `last_edge_inclusive`, a spike exactly at the end still falls into the last bin.
A shorter recording is followed by silence.

Binned spikes are kept as a list of channels per sample and bin (`BinnedSpikes`): 2 bytes a spike and 4 a
bin. Within a bin the channels ascend, so that the order of spikes in a file, or equal times, cannot
matter to anything that is computed from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.spec import RunSpec

_LARGEST = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class Binning:
    """How times become bins and units become channels."""

    dt_s: float
    """Width of a bin."""
    n_steps: int
    """Number of bins; together they cover the duration, the last one perhaps partly."""
    duration_s: float
    """Spikes from here on are left out."""
    n_units: int
    units_per_channel: int = 1
    """Neighbouring units that make one channel; the last channel may have fewer."""
    clip: bool = False
    """Whether several spikes of a channel in a bin count as one."""
    last_edge_inclusive: bool = False
    """Whether a spike exactly at `duration_s` falls into the last bin."""

    @classmethod
    def of(cls, spec: RunSpec) -> Self:
        """The binning of a run.

        Raises
        ------
        SnnbenchError
            Bins do not fit into 16 bits.
        """
        if spec.n_steps > _LARGEST:
            raise SnnbenchError(
                f"{spec.n_steps} time bins of {spec.train.dt_s} s are more than {_LARGEST};"
                " take a larger train.dt_s"
            )
        return cls(
            dt_s=spec.train.dt_s,
            n_steps=spec.n_steps,
            duration_s=spec.task.duration_s,
            n_units=spec.task.n_units,
            units_per_channel=spec.train.units_per_channel,
            clip=spec.train.bin_mode == "clip",
            last_edge_inclusive=spec.task.last_edge_inclusive,
        )

    @property
    def n_channels(self) -> int:
        """Number of input channels."""
        return -(-self.n_units // self.units_per_channel)

    @cached_property
    def starts(self) -> NDArray[np.float32]:
        """First time of every bin, s, shape (bin,)."""
        return (np.arange(self.n_steps) * self.dt_s).astype(np.float32)

    @cached_property
    def end(self) -> np.float32:
        """First time after the last bin, s."""
        end = np.float32(self.duration_s)
        return np.nextafter(end, np.float32(np.inf)) if self.last_edge_inclusive else end


class BinnedSpikes(NamedTuple):
    """Channels of the spikes of many samples, sample by sample and bin by bin."""

    channels: NDArray[np.uint16]
    """Input channel of every spike, ascending within a bin; shape (spike,)."""
    offsets: NDArray[np.int64]
    """Sample i owns spikes offsets[i] to offsets[i + 1]; shape (sample + 1,)."""
    rows: NDArray[np.int32]
    """Of these, bin k owns the ones from rows[i, k] to rows[i, k + 1]; shape (sample, bin + 1)."""


def check_spikes(times_s: NDArray[np.float32], units: NDArray[np.uint16], n_units: int) -> None:
    """Raise SnnbenchError if a time is negative or not a number, or a unit is out of range."""
    if len(times_s) and not np.min(times_s) >= 0:
        raise SnnbenchError(f"spike times must be 0 s or later, found {np.min(times_s)} s")
    if len(units) and np.max(units) >= n_units:
        raise SnnbenchError(f"unit {np.max(units)} is out of range: the task has {n_units} units")


def bin_spikes(
    times_s: NDArray[np.float32],
    units: NDArray[np.uint16],
    offsets: NDArray[np.int64],
    binning: Binning,
    out: BinnedSpikes | None = None,
    first: int = 0,
) -> BinnedSpikes:
    """Bin the spikes that fall into the duration.

    Parameters
    ----------
    times_s, units, offsets
        Flat spike times in s and units of all samples, of shape (spike,), and where each sample begins.
        Times need not be sorted.
    out, first
        Arrays with room for all spikes, to be filled from sample `first` on, whose offset is set; without
        them, new ones.

    Returns
    -------
    BinnedSpikes
        `out`, or new arrays.

    Raises
    ------
    SnnbenchError
        A time is negative or not a number, or a unit is out of range.
    """
    check_spikes(times_s, units, binning.n_units)
    n = len(offsets) - 1
    longest = int(np.diff(offsets).max(initial=0))
    filled = out or BinnedSpikes(
        channels=np.empty(len(times_s), np.uint16),
        offsets=np.zeros(n + 1, np.int64),
        rows=np.empty((n, binning.n_steps + 1), np.int32),
    )
    _bin(
        times_s,
        units,
        offsets,
        binning.starts,
        binning.end,
        binning.dt_s,
        binning.units_per_channel,
        binning.clip,
        np.empty((2, longest), np.uint16),
        np.empty((2, longest), np.uint16),
        np.empty(max(binning.n_channels, binning.n_steps) + 1, np.int32),
        filled.channels,
        filled.offsets[first:],
        filled.rows[first:],
    )
    return filled if out else filled._replace(channels=filled.channels[: filled.offsets[-1]])


@njit(cache=True, error_model="numpy")
def _bin(  # type: ignore[no-untyped-def]
    times,
    units,
    offsets,
    starts,
    end,
    dt,
    units_per_channel,
    clip,
    found,
    ordered,
    places,
    channels,
    channel_offsets,
    rows,
):
    """Sort the spikes of every sample by bin and channel: two counting sorts, channels first."""
    n_steps = len(starts)
    at = channel_offsets[0]
    for sample in range(len(offsets) - 1):
        n = 0
        places[:] = 0
        for spike in range(offsets[sample], offsets[sample + 1]):
            t = times[spike]
            if t >= end:
                continue
            # never too high: no float32 lies between k dt and its own nearest float32
            step = min(int(t / dt), n_steps - 1)
            while step + 1 < n_steps and t >= starts[step + 1]:
                step += 1
            channel = units[spike] // units_per_channel
            found[0, n], found[1, n] = step, channel
            places[channel + 1] += 1
            n += 1
        for k in range(1, len(places)):
            places[k] += places[k - 1]
        row = rows[sample]
        row[:] = 0
        for spike in range(n):
            step, channel = found[0, spike], found[1, spike]
            place = places[channel]
            places[channel] += 1
            ordered[0, place], ordered[1, place] = step, channel
            row[step + 1] += 1
        for k in range(n_steps):
            row[k + 1] += row[k]
        places[:n_steps] = row[:n_steps]
        for spike in range(n):
            step = ordered[0, spike]
            channels[at + places[step]] = ordered[1, spike]
            places[step] += 1
        if clip:
            n = _drop_doubles(channels[at : at + n], row)
        at += n
        channel_offsets[sample + 1] = at


@njit(inline="always", error_model="numpy")
def _drop_doubles(channels, row):  # type: ignore[no-untyped-def]
    """Keep one of equal channels in a bin; returns how many are left."""
    kept, start = 0, 0
    for k in range(len(row) - 1):
        stop = row[k + 1]
        for spike in range(start, stop):
            if spike == start or channels[spike] != channels[spike - 1]:
                channels[kept] = channels[spike]
                kept += 1
        start = stop
        row[k + 1] = kept
    return kept


def bin_events(
    times_s: Tensor, units: Tensor, samples: Tensor, n_samples: int, binning: Binning
) -> BinnedSpikes:
    """As `bin_spikes`, of events in any order on the CPU.

    Two counting sorts take a tenth of the time that `bin_on_device` and a comparing sort take.

    Parameters
    ----------
    times_s, units, samples
        Time in s (float32), unit and sample (int64) of every spike, of shape (spike,).
    n_samples
        Number of samples, some of which may have no spike.
    """
    grouped = _by_sample(times_s.numpy(), units.numpy(), samples.numpy(), n_samples)
    of_sample, units_of_sample, offsets = grouped
    return bin_spikes(of_sample, units_of_sample, offsets, binning)


@njit(cache=True, error_model="numpy")
def _by_sample(times, units, samples, n_samples):  # type: ignore[no-untyped-def]
    """Times, units and offsets with the spikes of a sample side by side, in the order they have."""
    offsets = np.zeros(n_samples + 1, np.int64)
    for sample in samples:
        offsets[sample + 1] += 1
    for sample in range(n_samples):
        offsets[sample + 1] += offsets[sample]
    places = offsets[:-1].copy()
    of_sample, units_of_sample = np.empty_like(times), np.empty(len(times), np.uint16)
    for spike in range(len(times)):
        place = places[samples[spike]]
        places[samples[spike]] += 1
        of_sample[place], units_of_sample[place] = times[spike], units[spike]
    return of_sample, units_of_sample, offsets


def bin_on_device(
    times_s: Tensor, units: Tensor, samples: Tensor, binning: Binning
) -> tuple[Tensor, Tensor, Tensor]:
    """Bin, channel and sample (each int64, of shape (spike,)) of the spikes that fall into the duration.

    The edges are those of `bin_spikes`, so both put a time into the same bin.

    Parameters
    ----------
    times_s, units, samples
        Time in s (float32), unit and sample of every spike, of shape (spike,), in any order.
    """
    keep = (times_s >= 0) & (times_s < float(binning.end))
    times_s, units, samples = times_s[keep], units[keep], samples[keep]
    later_starts = torch.from_numpy(binning.starts[1:]).to(times_s.device)
    bins = torch.bucketize(times_s, later_starts, right=True)
    return bins, units.long() // binning.units_per_channel, samples.long()
