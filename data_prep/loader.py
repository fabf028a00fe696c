"""Batches of dense spike counts from a split of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snnbench.data_prep.binning import bin_spikes, dense_counts, gather_samples
from snnbench.errors import SnnbenchError
from snnbench.spec import RunSpec

if TYPE_CHECKING:
    from snnbench.data_prep.store import SpikeSplit


class Batch(NamedTuple):
    """Some samples of a split, on the loader's device."""

    spikes: Tensor
    """Counts (or 0 and 1) per bin and channel, float32 of shape (time, batch, channel)."""
    labels: Tensor
    """int64 of shape (batch,)."""
    indices: Tensor
    """Which samples of the split these are, int64 of shape (batch,), on the CPU."""


class SpikeLoader:
    """Binned spikes of a split, kept at 4 bytes a spike, and batches made from them on a device.

    Parameters
    ----------
    split
        Spikes and labels.
    spec
        The run's: it fixes duration, bins and channels.
    device
        Where batches are made.

    Raises
    ------
    SnnbenchError
        The split is empty, or its times, units or labels do not fit the task.
    """

    def __init__(self, split: SpikeSplit, spec: RunSpec, device: torch.device) -> None:
        if len(split) == 0:
            raise SnnbenchError(f"a split of {spec.task.name} has no samples to train or test on")
        if split.labels.max() >= spec.task.n_classes:
            raise SnnbenchError(
                f"label {split.labels.max()} is out of range: task {spec.task.name} has"
                f" {spec.task.n_classes} classes"
            )
        self.device = device
        self._n_steps, self._n_channels = spec.n_steps, spec.n_channels
        self._clip = spec.train.bin_mode == "clip"
        self._labels = torch.from_numpy(split.labels.astype(np.int64))
        self._spikes = bin_spikes(
            split.times,
            split.units,
            split.offsets,
            dt_s=spec.train.dt_s,
            n_steps=spec.n_steps,
            duration_s=spec.task.duration_s,
            n_units=spec.task.n_units,
            units_per_channel=spec.train.units_per_channel,
        )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._labels)

    def batches(self, batch_size: int, order: torch.Generator | None = None) -> Iterator[Batch]:
        """All samples once, the last batch with what is left; shuffled by `order`, else in file order."""
        n = len(self)
        indices = torch.arange(n) if order is None else torch.randperm(n, generator=order)
        for chosen in indices.split(batch_size):
            yield self.batch(chosen)

    def batch(self, indices: Tensor) -> Batch:
        """The samples with these indices (int64, on the CPU)."""
        bins, channels, n_spikes = gather_samples(self._spikes, indices.numpy())
        spikes = dense_counts(
            *(
                torch.from_numpy(a.astype(np.int64)).to(self.device)
                for a in (bins, channels, n_spikes)
            ),
            n_steps=self._n_steps,
            n_channels=self._n_channels,
            clip=self._clip,
        )
        return Batch(spikes, self._labels[indices].to(self.device), indices)
