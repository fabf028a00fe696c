"""Samples of several splits as one, against the plain way: all samples in a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnbench.data_prep.selection import Selection
from snnbench.data_prep.spikes import SpikeSplit
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from tests.tiny_data import write_dataset

COUNTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=12)
"""Of each sample: spikes, and group."""


def split_of(samples: list[tuple[int, int]], seed: int) -> SpikeSplit:
    rng = np.random.default_rng(seed)
    counts = np.array([n for n, _ in samples])
    return SpikeSplit(
        times=rng.random(counts.sum()).astype(np.float32),
        units=rng.integers(0, 700, counts.sum()).astype(np.uint16),
        offsets=np.concatenate(([0], np.cumsum(counts))),
        labels=rng.integers(0, 20, len(samples)).astype(np.uint16),
        groups=np.array([g for _, g in samples], np.uint16),
        source_ids=[f"{seed}-{i}" for i in range(len(samples))],
    )


def listed(split: SpikeSplit) -> list[tuple[Any, ...]]:
    return [
        (
            split.source_ids[i],
            int(split.labels[i]),
            int(split.groups[i]),
            *(array.tolist() for array in split.sample(i)),
        )
        for i in range(len(split))
    ]


@given(COUNTS, COUNTS, st.one_of(st.none(), st.sets(st.integers(0, 3))), st.data())
@settings(max_examples=60)
def test_it_holds_the_samples_of_these_groups_in_order(
    one: list[tuple[int, int]], other: list[tuple[int, int]], groups: set[int] | None, data: Any
):
    parts = [split_of(one, 1), split_of(other, 2)]
    expected = [s for part in parts for s in listed(part) if groups is None or s[2] in groups]
    found = Selection(parts, groups)
    assert len(found) == len(expected)
    assert found.n_spikes == sum(len(s[3]) for s in expected)
    assert found.spike_counts.tolist() == [len(s[3]) for s in expected]
    assert found.labels.tolist() == [s[1] for s in expected]
    assert found.groups.tolist() == [s[2] for s in expected]
    in_blocks = [s for block in found.blocks(data.draw(st.integers(1, 20))) for s in listed(block)]
    assert in_blocks == expected
    start = data.draw(st.integers(0, len(expected)))
    stop = data.draw(st.integers(start, len(expected) + 2))
    assert listed(found.read(start, stop)) == expected[start:stop]


def test_blocks_of_whole_splits_are_not_copied():
    part = split_of([(3, 0), (2, 1)], 1)
    [block] = Selection([part]).blocks(100)
    assert np.shares_memory(block.times, part.times)


def test_counting_spikes_reads_none(tmp_path: Path):
    path = write_dataset(tmp_path / "data.h5")
    with SpikeDataset.open(path) as dataset:
        parts = [dataset.split("train"), dataset.split("valid")]
        expected = sum(b.n_spikes for b in Selection(parts, {0, 2}).blocks(1 << 20))
        assert dataset.split("train").spike_counts.sum() == dataset.split("train").n_spikes
    with h5py.File(path, "r+") as file:
        for split in ("train", "valid"):
            del file[split]["units"]
    with SpikeDataset.open(path) as dataset:
        parts = [dataset.split("train"), dataset.split("valid")]
        assert Selection(parts, {0, 2}).n_spikes == expected
        with pytest.raises(SnnbenchError):
            list(Selection(parts, {0, 2}).blocks(1 << 20))


@pytest.mark.parametrize("groups", [set(), {9}])
def test_nobody_is_nothing(groups: set[int]):
    found = Selection([split_of([(3, 0), (2, 1)], 1)], groups)
    assert (len(found), found.n_spikes, list(found.blocks(10))) == (0, 0, [])
    assert len(found.read(0, 5)) == 0
