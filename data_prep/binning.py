"""Spike times to time bins, and binned spikes to dense tensors.

Bin k is the half-open interval [k dt, (k + 1) dt). Times are stored as float32, and a decimal such as
0.03 s is not one: the nearest float32 lies just below, and dividing by dt = 0.01 gives 2.9999999. So the
edges k dt are rounded to float32 as well: a time t belongs to bin k if
float32(k dt) <= t < float32((k + 1) dt). A time written at an edge then always lands right of it, and no
tolerance is needed.

Spikes at or after the end of the duration are cut off; a shorter recording is followed by silence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnbench.errors import SnnbenchError


class BinnedSpikes(NamedTuple):
    """Spikes of many samples with their time bins: 4 bytes a spike."""

    bins: NDArray[np.uint16]
    """Time bin of every spike, shape (spike,)."""
    channels: NDArray[np.uint16]
    """Input channel of every spike, shape (spike,)."""
    offsets: NDArray[np.int64]
    """Sample i owns spikes offsets[i] to offsets[i + 1]; shape (sample + 1,)."""


def bin_spikes(
    times_s: NDArray[np.float32],
    units: NDArray[np.uint16],
    offsets: NDArray[np.int64],
    *,
    dt_s: float,
    n_steps: int,
    duration_s: float,
    n_units: int,
    units_per_channel: int = 1,
) -> BinnedSpikes:
    """Time bin and channel of every spike that falls into the duration.

    Parameters
    ----------
    times_s, units, offsets
        Flat spike times in s and units of all samples, of shape (spike,), and where each sample begins.
    dt_s, n_steps
        Width and number of the bins; together they cover `duration_s`.
    duration_s
        Spikes at or after it are left out.
    n_units, units_per_channel
        Units of the data set, and how many neighbours make one channel; the last channel may have fewer.

    Raises
    ------
    SnnbenchError
        A time is negative or not a number, a unit is out of range, or bins do not fit into 16 bits.
    """
    if n_steps > np.iinfo(np.uint16).max:
        raise SnnbenchError(
            f"{n_steps} time bins of {dt_s} s are more than 65535; take a larger train.dt_s"
        )
    if len(times_s) and not np.min(times_s) >= 0:
        raise SnnbenchError(f"spike times must be 0 s or later, found {np.min(times_s)} s")
    if len(units) and np.max(units) >= n_units:
        raise SnnbenchError(f"unit {np.max(units)} is out of range: the task has {n_units} units")
    edges = (np.arange(n_steps + 1) * dt_s).astype(np.float32)
    keep = times_s < np.float32(duration_s)
    if not keep.all():
        kept_before = np.concatenate(([0], np.cumsum(keep)))
        times_s, units, offsets = times_s[keep], units[keep], kept_before[offsets]
    bins = np.searchsorted(edges, times_s, side="right") - 1
    return BinnedSpikes(
        bins.astype(np.uint16), (units // units_per_channel).astype(np.uint16), offsets
    )


def gather_samples(
    spikes: BinnedSpikes, indices: NDArray[np.int64]
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64]]:
    """Bins and channels of the chosen samples in their order, and the number of spikes of each."""
    starts, ends = spikes.offsets[indices], spikes.offsets[indices + 1]
    spans = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
    return (
        np.concatenate([spikes.bins[span] for span in spans]),
        np.concatenate([spikes.channels[span] for span in spans]),
        ends - starts,
    )


def dense_counts(
    bins: Tensor, channels: Tensor, n_spikes: Tensor, *, n_steps: int, n_channels: int, clip: bool
) -> Tensor:
    """Spike counts of a batch, float32 of shape (time, batch, channel), on the device of the spikes.

    Parameters
    ----------
    bins, channels
        Time bin and channel of every spike, int64 of shape (spike,), sample after sample.
    n_spikes
        Spikes of every sample, int64 of shape (batch,).
    n_steps, n_channels
        Size of the result.
    clip
        Whether a bin with several spikes counts as 1.
    """
    n_batch = len(n_spikes)
    sample = torch.repeat_interleave(n_spikes, output_size=len(bins))
    # (bin * n_batch + sample) * n_channels + channel; in place, as there are millions
    cell = (bins * n_batch).add_(sample).mul_(n_channels).add_(channels)
    counts = torch.zeros(n_steps * n_batch * n_channels, device=bins.device)
    # whole numbers far below 2^24, so the order in which they add up cannot matter
    counts.index_add_(0, cell, torch.ones((), device=bins.device).expand(len(cell)))
    if clip:
        counts.clamp_(max=1.0)
    return counts.view(n_steps, n_batch, n_channels)
