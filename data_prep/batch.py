"""A batch of binned spikes in two layouts: dense counts for matrix products, events for sparse ones."""

from __future__ import annotations

import threading
import weakref
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from snnbench.data_prep.binning import BinnedSpikes

_LINE = 64  # bytes of a line of cache
_IDLE_LOANS = 1000  # memory that nobody borrowed for so many loans is given back


class Batch(NamedTuple):
    """Some samples of a split, on the loader's device."""

    spikes: Tensor
    """Counts (or 0 and 1) per bin and channel, float32 of shape (time, batch, channel)."""
    labels: Tensor
    """int64 of shape (batch,)."""
    indices: Tensor
    """Which samples of the split these are, int64 of shape (batch,), on the CPU."""


class EventBatch(NamedTuple):
    """Some samples of a split as a sparse matrix in CSR form without values, on the loader's device.

    A row is one time bin of one sample, row = sample * n_steps + bin, and holds the channels of its
    spikes in ascending order; a channel with k spikes stands there k times.

    The bins of a sample are neighbours, not the samples of a bin. So a batch is made by copying whole
    samples, one stretch of memory each. A kernel that takes a sample (or a few) through all time steps
    reads one stream from front to back; one that takes all samples through one step finds the row of
    sample b at indptr[b * n_steps + n], and reads rows of some 100 bytes wherever they lie, which is
    little beside the weights that each spike fetches.
    """

    indptr: Tensor
    """Row r holds channels[indptr[r]] to channels[indptr[r + 1]]; int64, (batch * n_steps + 1,)."""
    channels: Tensor
    """Channel of every spike, uint16 of shape (spike,)."""
    labels: Tensor
    """int64 of shape (batch,)."""
    indices: Tensor
    """Which samples of the split these are, int64 of shape (batch,), on the CPU."""
    n_steps: int
    n_channels: int

    @property
    def n_samples(self) -> int:
        """Number of samples in the batch."""
        return (len(self.indptr) - 1) // self.n_steps


def events_of_steps(batch: EventBatch, first: int, stop: int) -> EventBatch:
    """The batch's bins `first` to `stop` - 1, as a batch of its own."""
    pointers = batch.indptr.unfold(0, batch.n_steps + 1, batch.n_steps)[:, first : stop + 1]
    counts = pointers.diff(dim=1)
    starts = counts.new_zeros(counts.numel() + 1)
    torch.cumsum(counts.flatten(), 0, out=starts[1:])
    # events of a sample's stretch are neighbours: place in the new list, moved to where they stood
    of_sample = counts.sum(dim=1)
    moved = pointers[:, 0] - starts[:-1].view_as(counts)[:, 0]
    places = torch.arange(int(starts[-1]), device=starts.device)
    places += moved.repeat_interleave(of_sample)
    # GPUs cannot index unsigned numbers of two bytes; as signed ones they are the same bits
    channels = batch.channels.view(torch.int16)[places].view(torch.uint16)
    return batch._replace(indptr=starts, channels=channels, n_steps=stop - first)


class ReusedMemory:
    """Memory for tensors on the CPU that is used again as soon as nobody holds the tensor before.

    A fresh large tensor costs as much time for its pages as for its content. Whoever keeps a tensor, or a
    view of one, keeps its memory: it is lent again only when the last of them is gone.

    A request gets the smallest free memory of up to twice its size. Where there is none, what is free and
    smaller makes room for new memory. So who asks for the same sizes again and again soon finds all of them
    here, and who asks for ever larger ones leaves nothing behind; what nobody wants is given back in time.
    """

    def __init__(self) -> None:
        # with the number of loans there had been when it came back; in the order in which it did
        self._free: list[tuple[int, NDArray[np.uint8]]] = []
        self._loans = 0
        self._lock = threading.Lock()

    @property
    def free_bytes(self) -> int:
        """What is kept and not lent."""
        return sum(len(memory) for _, memory in self._free)

    def lend(
        self, shape: tuple[int, ...], dtype: np.dtype[Any] | type = np.float32
    ) -> NDArray[Any]:
        """An array of arbitrary content; a tensor made of it with `torch.from_numpy` holds it."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self._lock:
            memory = self._smallest_of(size + _LINE)
        start = -memory.ctypes.data % _LINE
        lent = memory[start : start + size].view(dtype).reshape(shape)
        weakref.finalize(lent, self._take_back, memory).atexit = False
        return lent

    def _take_back(self, memory: NDArray[np.uint8]) -> None:
        # at any time, in any thread, and perhaps while this one lends: so without the lock. Appending is
        # safe, since all else removes by place
        self._free.append((self._loans, memory))

    def _smallest_of(self, size: int) -> NDArray[np.uint8]:
        self._loans += 1
        while self._free and self._free[0][0] < self._loans - _IDLE_LOANS:
            del self._free[0]
        sizes = [len(memory) for _, memory in self._free]
        fitting = [i for i, free in enumerate(sizes) if size <= free <= 2 * size]
        if fitting:
            return self._free.pop(min(fitting, key=lambda i: sizes[i]))[1]
        for i in reversed([i for i, free in enumerate(sizes) if free < size]):
            del self._free[i]
        return np.empty(size, np.uint8)


def dense_batch(spikes: BinnedSpikes, indices: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Fill `out`, of shape (time, batch, channel), with the spike counts of the chosen samples."""
    _fill(spikes.channels, spikes.offsets, spikes.rows, indices, out)


@njit(cache=True, error_model="numpy")
def _fill(channels, offsets, rows, indices, out):  # type: ignore[no-untyped-def]
    # row by row: what is cleared is still in the nearest cache when the spikes are added
    for step in range(out.shape[0]):
        for b in range(len(indices)):
            row = out[step, b]
            row[:] = 0
            start, of_bin = offsets[indices[b]], rows[indices[b]]
            for spike in range(start + of_bin[step], start + of_bin[step + 1]):
                row[channels[spike]] += np.float32(1)


def event_batch(
    spikes: BinnedSpikes, indices: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """`indptr` and `channels` of an EventBatch of the chosen samples."""
    n_steps = spikes.rows.shape[1] - 1
    n_spikes = int((spikes.offsets[indices + 1] - spikes.offsets[indices]).sum())
    indptr = np.empty(len(indices) * n_steps + 1, np.int64)
    channels = np.empty(n_spikes, np.uint16)
    _gather(spikes.channels, spikes.offsets, spikes.rows, indices, indptr, channels)
    return indptr, channels


@njit(cache=True, error_model="numpy")
def _gather(channels, offsets, rows, indices, indptr, out):  # type: ignore[no-untyped-def]
    n_steps = rows.shape[1] - 1
    at = 0
    for b in range(len(indices)):
        start, stop = offsets[indices[b]], offsets[indices[b] + 1]
        out[at : at + stop - start] = channels[start:stop]
        for step in range(n_steps):
            indptr[b * n_steps + step] = at + rows[indices[b], step]
        at += stop - start
    indptr[-1] = at


def places_of_events(
    indptr: Tensor, n_steps: int, *, n_events: int | None = None
) -> tuple[Tensor, Tensor]:
    """Bin and sample of every spike of an EventBatch, int64 of shape (spike,), on its device.

    With `n_events`, the length of its `channels`, a GPU need not be asked how many spikes there are: that
    waits for all it has to do, and is forbidden while a CUDA graph is recorded.
    """
    rows = torch.arange(len(indptr) - 1, device=indptr.device)
    row = torch.repeat_interleave(rows, indptr.diff(), output_size=n_events)
    return row % n_steps, row // n_steps


def dense_counts(
    bins: Tensor, channels: Tensor, samples: Tensor, *, shape: tuple[int, int, int], clip: bool
) -> Tensor:
    """Spike counts of a batch, float32 of shape (time, batch, channel), on the device of the spikes.

    Parameters
    ----------
    bins, channels, samples
        Bin, channel and place in the batch of every spike, int64 of shape (spike,), in any order.
    shape
        Of the result.
    clip
        Whether a bin with several spikes counts as 1.
    """
    n_steps, n_batch, n_channels = shape
    cell = (bins * n_batch).add_(samples).mul_(n_channels).add_(channels)
    counts = torch.zeros(n_steps * n_batch * n_channels, device=bins.device)
    # whole numbers far below 2^24, so the order in which they add up cannot matter
    counts.index_add_(0, cell, torch.ones((), device=bins.device).expand(len(cell)))
    if clip:
        counts.clamp_(max=1.0)
    return counts.view(shape)


def sorted_events(
    bins: Tensor, channels: Tensor, samples: Tensor, *, shape: tuple[int, int, int], clip: bool
) -> tuple[Tensor, Tensor]:
    """`indptr` and `channels` of an EventBatch; parameters as in `dense_counts`."""
    n_steps, n_batch, n_channels = shape
    cell = (samples * n_steps).add_(bins).mul_(n_channels).add_(channels).sort().values
    if clip:
        cell = cell.unique_consecutive()
    row_starts = torch.arange(n_batch * n_steps + 1, device=cell.device) * n_channels
    return torch.searchsorted(cell, row_starts), (cell % n_channels).to(torch.uint16)
