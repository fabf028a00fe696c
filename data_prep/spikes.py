"""Spikes of many samples: flat arrays with offsets, in memory or behind a file.

`Spikes` is what training and evaluation are given: the samples of one split, read in blocks as they are
needed. `SpikeSplit` holds them in memory, `store.SplitReader` reads them from a file; neither knows of
any other split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Spikes(Protocol):
    """Samples of one split, wherever they are."""

    def __len__(self) -> int:
        """Number of samples."""

    @property
    def n_spikes(self) -> int:
        """Number of spikes of all samples."""

    @property
    def spike_counts(self) -> NDArray[np.int64]:
        """Spikes of every sample, shape (sample,)."""

    @property
    def labels(self) -> NDArray[np.uint16]:
        """Class of every sample, shape (sample,)."""

    @property
    def groups(self) -> NDArray[np.uint16]:
        """Group (speaker) of every sample, shape (sample,)."""

    def read(self, start: int, stop: int) -> SpikeSplit:
        """Samples `start` to `stop`, in memory."""

    def blocks(self, max_spikes: int) -> Iterator[SpikeSplit]:
        """All samples in order, in blocks of at most `max_spikes` spikes, or of one larger sample."""


@dataclass(frozen=True)
class SpikeSplit:
    """Samples of one split in memory.

    `times` (spike,) float32 s and `units` (spike,) uint16 are flat; `offsets` (sample+1,) int64 cuts
    them into samples; `labels` and `groups` (sample,) are uint16.
    """

    times: NDArray[np.float32]
    units: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    labels: NDArray[np.uint16]
    groups: NDArray[np.uint16]
    source_ids: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_spikes(self) -> int:
        """Number of spikes of all samples."""
        return len(self.times)

    @property
    def spike_counts(self) -> NDArray[np.int64]:
        """Spikes of every sample, shape (sample,)."""
        return np.diff(self.offsets)

    def sample(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        """Times (s) and units of one sample."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.times[part], self.units[part]

    def read(self, start: int, stop: int) -> SpikeSplit:
        """Samples `start` to `stop`: views, no copies of spikes."""
        offsets = self.offsets[start : stop + 1]
        spikes = slice(offsets[0], offsets[-1])
        return SpikeSplit(
            times=self.times[spikes],
            units=self.units[spikes],
            offsets=offsets - offsets[0],
            labels=self.labels[start:stop],
            groups=self.groups[start:stop],
            source_ids=self.source_ids[start:stop],
        )

    def blocks(self, max_spikes: int) -> Iterator[SpikeSplit]:
        """All samples in order, in blocks of at most `max_spikes` spikes, or of one larger sample."""
        for start, stop in spans(self.offsets, max_spikes):
            yield self.read(start, stop)


class Sample(NamedTuple):
    """One recording on its way into a file."""

    times: NDArray[np.float32]
    units: NDArray[np.uint16]
    label: int
    group: int
    source_id: str
    source_sha256: str


def spans(offsets: NDArray[np.int64], max_spikes: int) -> Iterator[tuple[int, int]]:
    """Start and stop of consecutive blocks of samples with at most `max_spikes` spikes each.

    A sample with more is a block of its own. Silent samples cost nothing, so a block may have many.
    """
    start, n = 0, len(offsets) - 1
    while start < n:
        fitting = int(np.searchsorted(offsets, offsets[start] + max_spikes, side="right")) - 1
        stop = max(start + 1, fitting)
        yield start, stop
        start = stop
