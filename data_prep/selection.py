"""Samples of several splits as one, or of some of their groups (speakers) only.

What a protocol class hears (snnbench/protocol.py): all but one speaker, or everything that is not test.
Nothing is copied until blocks are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.spikes import Spikes, SpikeSplit


class Selection:
    """A `Spikes` of the samples of `parts`, one after the other, whose group is one of `groups`.

    Parameters
    ----------
    parts
        Splits of one file, so that a group's number means the same in all of them.
    groups
        Numbers of the groups to take; None takes all.
    """

    def __init__(self, parts: Sequence[Spikes], groups: AbstractSet[int] | None = None) -> None:
        self._parts = list(parts)
        self._taken = [
            np.ones(len(part), bool) if groups is None else np.isin(part.groups, sorted(groups))
            for part in self._parts
        ]

    def __len__(self) -> int:
        return int(sum(taken.sum() for taken in self._taken))

    @cached_property
    def n_spikes(self) -> int:
        """Number of spikes of all samples."""
        return int(self.spike_counts.sum())

    @property
    def spike_counts(self) -> NDArray[np.int64]:
        """Spikes of every sample, shape (sample,)."""
        return self._joined("spike_counts")

    @property
    def labels(self) -> NDArray[np.uint16]:
        """Class of every sample, shape (sample,)."""
        return self._joined("labels")

    @property
    def groups(self) -> NDArray[np.uint16]:
        """Group of every sample, shape (sample,)."""
        return self._joined("groups")

    def read(self, start: int, stop: int) -> SpikeSplit:
        """Samples `start` to `stop`, in memory."""
        at, found = 0, []
        for part, taken in zip(self._parts, self._taken, strict=True):
            places = np.flatnonzero(taken)
            wanted = places[max(0, start - at) : max(0, stop - at)]
            if len(wanted):
                first, last = int(wanted[0]), int(wanted[-1]) + 1
                found.append(_chosen(part.read(first, last), taken[first:last]))
            at += len(places)
        return _together(found) if found else self._parts[0].read(0, 0)

    def blocks(self, max_spikes: int) -> Iterator[SpikeSplit]:
        """All samples in order, in blocks of at most `max_spikes` spikes, or of one larger sample."""
        for part, taken in zip(self._parts, self._taken, strict=True):
            at = 0
            for block in part.blocks(max_spikes):
                here = taken[at : at + len(block)]
                at += len(block)
                if here.any():
                    yield block if here.all() else _chosen(block, here)

    def _joined(self, name: str) -> NDArray[Any]:
        arrays = [getattr(p, name)[t] for p, t in zip(self._parts, self._taken, strict=True)]
        return np.concatenate(arrays)


def _chosen(block: SpikeSplit, taken: NDArray[np.bool_]) -> SpikeSplit:
    """The samples of a block that are taken, `taken` of shape (sample,)."""
    counts = np.diff(block.offsets)
    spikes = np.repeat(taken, counts)
    return SpikeSplit(
        times=block.times[spikes],
        units=block.units[spikes],
        offsets=np.concatenate(([0], np.cumsum(counts[taken]))),
        labels=block.labels[taken],
        groups=block.groups[taken],
        source_ids=[name for name, here in zip(block.source_ids, taken, strict=True) if here],
    )


def _together(blocks: Sequence[SpikeSplit]) -> SpikeSplit:
    """Blocks as one."""
    counts = np.concatenate([np.diff(block.offsets) for block in blocks])
    arrays = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in ("times", "units", "labels", "groups")
    }
    return SpikeSplit(
        **arrays,
        offsets=np.concatenate(([0], np.cumsum(counts))),
        source_ids=[name for block in blocks for name in block.source_ids],
    )
