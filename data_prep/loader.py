"""Batches of binned spikes from a split of a data set, also of one that is larger than memory.

A loader reads its split once, block by block, and keeps what batches are made of: channels and bins at
2 bytes a spike and 4 a bin, or, where training changes the spikes at random, their times and units at 6
bytes a spike. What would take more memory than allowed is kept in a file (data_prep/spill.py); samples
come in the same order with the same spikes either way.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnbench.data_prep.augment import Events, augment
from snnbench.data_prep.batch import (
    Batch,
    EventBatch,
    ReusedMemory,
    dense_batch,
    dense_counts,
    event_batch,
    places_of_events,
    sorted_events,
)
from snnbench.data_prep.binning import (
    BinnedSpikes,
    Binning,
    bin_events,
    bin_on_device,
    bin_spikes,
    check_spikes,
)
from snnbench.data_prep.spikes import Spikes
from snnbench.data_prep.spill import available_memory, make_arrays
from snnbench.errors import SnnbenchError
from snnbench.spec import AugmentSpec, RunSpec

_READ_AT_ONCE = 1 << 19  # spikes: some megabytes
_SHARE_OF_MEMORY = (
    4  # a run has a loader for training and one for validation, and seeds run in pairs
)


class SpikeLoader:
    """Spikes of a split, binned or ready to be changed and binned, and batches of them on a device.

    Parameters
    ----------
    split
        Spikes and labels; read here, and not needed afterwards.
    spec
        The run's: it fixes duration, bins and channels, and how spikes are changed at random.
    device
        Where batches are made.
    augmentation
        Where the random changes of `spec.train.augment` come from, on `device`; without it, as in
        validation and test, there are none.
    memory_bytes
        What the spikes may take in memory; by default a quarter of what is available now.

    Raises
    ------
    SnnbenchError
        The split is empty, its times, units or labels do not fit the task, or there is no room.
    """

    def __init__(
        self,
        split: Spikes,
        spec: RunSpec,
        device: torch.device,
        *,
        augmentation: torch.Generator | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        if len(split) == 0:
            raise SnnbenchError(f"a split of {spec.task.name} has no samples to train or test on")
        if split.labels.max() >= spec.task.n_classes:
            raise SnnbenchError(
                f"label {split.labels.max()} is out of range: task {spec.task.name} has"
                f" {spec.task.n_classes} classes"
            )
        if memory_bytes is None:
            memory_bytes = available_memory() // _SHARE_OF_MEMORY
        self.device = device
        self._binning = Binning.of(spec)
        self._labels = torch.from_numpy(split.labels.astype(np.int64))
        self._spikes: _Binned | _Changing
        if augmentation is None:
            self._spikes = _Binned(split, self._binning, device, memory_bytes)
        else:
            self._spikes = _Changing(
                split, self._binning, spec.train.augment, augmentation, memory_bytes
            )

    def with_augmentation(self, augmentation: torch.Generator | None) -> SpikeLoader:
        """The same spikes, in memory once, whose random changes come from another generator."""
        other = copy.copy(self)
        if isinstance(self._spikes, _Changing) and augmentation is not None:
            other._spikes = self._spikes.by(augmentation)
        return other

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._labels)

    def batches(self, batch_size: int, order: torch.Generator | None = None) -> Iterator[Batch]:
        """All samples once, the last batch with what is left; shuffled by `order`, else in file order."""
        for chosen in self._chosen(batch_size, order):
            yield self.batch(chosen)

    def event_batches(
        self, batch_size: int, order: torch.Generator | None = None, *, skip: int = 0
    ) -> Iterator[EventBatch]:
        """As `batches`, the same samples in the same order, as events; without the first `skip` ones."""
        for chosen in self._chosen(batch_size, order)[skip:]:
            yield self.event_batch(chosen)

    def batch(self, indices: Tensor) -> Batch:
        """The samples with these indices (int64, on the CPU) as dense counts."""
        labels = self._labels[indices].to(self.device)
        return Batch(self._spikes.dense(indices.numpy(), labels), labels, indices)

    def event_batch(self, indices: Tensor) -> EventBatch:
        """The samples with these indices (int64, on the CPU) as events."""
        labels = self._labels[indices].to(self.device)
        indptr, channels = self._spikes.events(indices.numpy(), labels)
        return EventBatch(
            indptr, channels, labels, indices, self._binning.n_steps, self._binning.n_channels
        )

    def _chosen(self, batch_size: int, order: torch.Generator | None) -> tuple[Tensor, ...]:
        n = len(self)
        indices = torch.arange(n) if order is None else torch.randperm(n, generator=order)
        return indices.split(batch_size)


class _Binned:
    """Spikes that stay as they are, binned once."""

    def __init__(
        self, split: Spikes, binning: Binning, device: torch.device, memory_bytes: int
    ) -> None:
        n = len(split)
        self._binning = binning
        self._device = device
        self._memory = ReusedMemory()
        arrays = make_arrays(
            {
                "channels": ((split.n_spikes,), np.uint16),
                "offsets": ((n + 1,), np.int64),
                "rows": ((n, binning.n_steps + 1), np.int32),
            },
            memory_bytes,
        )
        self._spikes = BinnedSpikes(**arrays)
        self._spikes.offsets[0] = 0
        first = 0
        for block in split.blocks(_READ_AT_ONCE):
            bin_spikes(block.times, block.units, block.offsets, binning, self._spikes, first)
            first += len(block)

    def dense(self, indices: NDArray[np.int64], labels: Tensor) -> Tensor:
        """Counts of these samples, (time, batch, channel)."""
        shape = (self._binning.n_steps, len(indices), self._binning.n_channels)
        if self._device.type == "cpu":
            counts = self._memory.lend(shape)
            dense_batch(self._spikes, indices, counts)
            return torch.from_numpy(counts)
        indptr, channels = self.events(indices, labels)
        bins, samples = places_of_events(indptr, self._binning.n_steps, n_events=len(channels))
        # doubles are gone already where bins are clipped
        return dense_counts(bins, channels.long(), samples, shape=shape, clip=False)

    def events(self, indices: NDArray[np.int64], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Row pointer and channels of these samples."""
        indptr, channels = event_batch(self._spikes, indices)
        return (
            torch.from_numpy(indptr).to(self._device),
            torch.from_numpy(channels).to(self._device),
        )


class _Changing:
    """Spikes that are changed at random whenever a batch is made of them, and then binned."""

    def __init__(
        self,
        split: Spikes,
        binning: Binning,
        spec: AugmentSpec,
        generator: torch.Generator,
        memory_bytes: int,
    ) -> None:
        self._binning = binning
        self._spec = spec
        self._generator = generator
        arrays = make_arrays(
            {
                "times": ((split.n_spikes,), np.float32),
                "units": ((split.n_spikes,), np.uint16),
                "counts": ((len(split),), np.int64),
            },
            memory_bytes,
        )
        self._times, self._units, self._counts = arrays.values()
        first = at = 0
        for block in split.blocks(_READ_AT_ONCE):
            check_spikes(block.times, block.units, binning.n_units)
            self._times[at : at + block.n_spikes] = block.times
            self._units[at : at + block.n_spikes] = block.units
            self._counts[first : first + len(block)] = np.diff(block.offsets)
            first, at = first + len(block), at + block.n_spikes
        self._starts = np.concatenate(([0], np.cumsum(self._counts)))

    def by(self, generator: torch.Generator) -> _Changing:
        """The same spikes, changed by another generator."""
        other = copy.copy(self)
        other._generator = generator
        return other

    def dense(self, indices: NDArray[np.int64], labels: Tensor) -> Tensor:
        """Counts of these samples, changed, (time, batch, channel)."""
        shape = (self._binning.n_steps, len(indices), self._binning.n_channels)
        places = bin_on_device(*self._changed(indices, labels), self._binning)
        return dense_counts(*places, shape=shape, clip=self._binning.clip)

    def events(self, indices: NDArray[np.int64], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Row pointer and channels of these samples, changed."""
        changed = self._changed(indices, labels)
        if self._generator.device.type == "cpu":
            binned = bin_events(*changed, len(indices), self._binning)
            indptr, channels = event_batch(binned, np.arange(len(indices)))
            return torch.from_numpy(indptr), torch.from_numpy(channels)
        shape = (self._binning.n_steps, len(indices), self._binning.n_channels)
        places = bin_on_device(*changed, self._binning)
        return sorted_events(*places, shape=shape, clip=self._binning.clip)

    def _changed(self, indices: NDArray[np.int64], labels: Tensor) -> Events:
        """The spikes of these samples after the changes, on the generator's device."""
        spans = [slice(*self._starts[i : i + 2]) for i in indices]
        device = self._generator.device
        return augment(
            Events.of(
                torch.from_numpy(np.concatenate([self._times[span] for span in spans])).to(device),
                torch.from_numpy(np.concatenate([self._units[span] for span in spans]))
                .to(device)
                .long(),
                torch.from_numpy(self._counts[indices]).to(device),
            ),
            labels,
            self._spec,
            n_units=self._binning.n_units,
            duration_s=self._binning.duration_s,
            generator=self._generator,
        )
