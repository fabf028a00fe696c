"""Blocks of samples: all of them, once, in order, none larger than asked for where that is possible."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from snnbench.data_prep.spikes import spans
from tests.toy_spikes import split_from_samples, toy_split


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 40))
def test_blocks_are_as_large_as_they_may_be(lengths: list[int], max_spikes: int):
    offsets = np.cumsum([0, *lengths])
    found = list(spans(offsets, max_spikes))
    assert [i for start, stop in found for i in range(start, stop)] == list(range(len(lengths)))
    for start, stop in found:
        assert stop > start
        assert sum(lengths[start:stop]) <= max_spikes or stop == start + 1
        if stop < len(lengths):
            assert sum(lengths[start : stop + 1]) > max_spikes


def test_a_part_of_a_split_is_a_split():
    split = toy_split(10, seed=1)
    part = split.read(3, 7)
    assert (len(part), part.n_spikes) == (4, 4 * 48)
    assert part.source_ids == ["sample-3", "sample-4", "sample-5", "sample-6"]
    np.testing.assert_array_equal(part.labels, split.labels[3:7])
    for i in range(4):
        for found, whole in zip(part.sample(i), split.sample(i + 3), strict=True):
            np.testing.assert_array_equal(found, whole)


def test_blocks_join_to_the_whole():
    split = split_from_samples(
        [[0.1, 0.2], [], [0.3], [0.1] * 9], [[1, 2], [], [3], [4] * 9], [0] * 4
    )
    blocks = list(split.blocks(3))
    assert [len(b) for b in blocks] == [3, 1]
    for name in ("times", "units", "labels", "groups"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(b, name) for b in blocks]), getattr(split, name)
        )
