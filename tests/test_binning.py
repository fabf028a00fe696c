"""Bins are exact and half-open, and no spike is lost or invented."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnbench.data_prep.binning import BinnedSpikes, bin_spikes, dense_counts, gather_samples
from snnbench.errors import SnnbenchError


def bins_of(times_s: list[float], dt_s: float, duration_s: float = 1.0) -> list[int]:
    n = len(times_s)
    return bin_spikes(
        np.array(times_s, np.float32),
        np.zeros(n, np.uint16),
        np.array([0, n]),
        dt_s=dt_s,
        n_steps=int(np.ceil(duration_s / dt_s - 1e-9)),
        duration_s=duration_s,
        n_units=1,
    ).bins.tolist()


@pytest.mark.parametrize("dt_s", [0.5e-3, 1e-3, 2e-3, 4e-3, 5e-3, 10e-3, 14e-3])
def test_a_time_written_at_an_edge_begins_that_bin(dt_s: float):
    n = int(1.4 / dt_s + 1e-9)
    # the decimal's own nearest float32, as it would be read from a file
    edges = [float(Decimal(str(dt_s)) * k) for k in range(n)]
    assert bins_of(edges, dt_s, 1.4) == list(range(n))
    before = [float(np.nextafter(np.float32(e), np.float32(0))) for e in edges[1:]]
    assert bins_of(before, dt_s, 1.4) == list(range(n - 1))


def test_the_example_that_a_plain_division_gets_wrong():
    assert int(float(np.float32(0.03)) / 0.01) == 2
    assert bins_of([0.03], 0.01) == [3]


def test_spikes_from_the_end_on_are_cut():
    just_before = float(np.nextafter(np.float32(1.0), np.float32(0)))
    assert bins_of([0.0, just_before, 1.0, 1.3], 0.01) == [0, 99]
    # a duration within a bin cuts there, too
    assert bins_of([0.0, 0.0949, 0.095, 0.099], 0.01, duration_s=0.095) == [0, 9]


@given(st.lists(st.floats(0, 1.5, width=32), max_size=40), st.sampled_from([2e-3, 7e-3, 10e-3]))
def test_bins_hold_their_times(times_s: list[float], dt_s: float):
    inside = [t for t in times_s if t < np.float32(1.4)]
    bins = bins_of(times_s, dt_s, duration_s=1.4)
    assert len(bins) == len(inside)
    for t, k in zip(inside, bins, strict=True):
        assert np.float32(k * dt_s) <= np.float32(t) < np.float32((k + 1) * dt_s)


samples = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10)), max_size=30), min_size=1, max_size=5
)


def binned(spikes: list[list[tuple[int, int]]], per_channel: int = 1) -> BinnedSpikes:
    """Samples as (bin of 10 ms, unit) pairs, through the binner."""
    flat = [pair for sample in spikes for pair in sample]
    return bin_spikes(
        np.array([(k + 0.5) * 0.01 for k, _ in flat], np.float32),
        np.array([u for _, u in flat], np.uint16),
        np.cumsum([0, *map(len, spikes)]),
        dt_s=0.01,
        n_steps=10,
        duration_s=0.1,
        n_units=11,
        units_per_channel=per_channel,
    )


def dense(
    spikes: BinnedSpikes, indices: list[int], channels: int, clip: bool = False
) -> np.ndarray:
    parts = (
        torch.from_numpy(a.astype(np.int64)) for a in gather_samples(spikes, np.array(indices))
    )
    return dense_counts(*parts, n_steps=10, n_channels=channels, clip=clip).numpy()


@given(samples, st.sampled_from([1, 2, 3, 5]), st.booleans())
def test_dense_counts_equal_a_plain_loop(
    spikes: list[list[tuple[int, int]]], per_channel: int, clip: bool
):
    channels = -(-11 // per_channel)
    expected = np.zeros((10, len(spikes), channels))
    for b, sample in enumerate(spikes):
        for k, unit in sample:
            expected[k, b, unit // per_channel] += 1
    if clip:
        expected = expected.clip(max=1)
    got = dense(binned(spikes, per_channel), list(range(len(spikes))), channels, clip)
    np.testing.assert_array_equal(got, expected)


@given(samples)
def test_no_spike_is_lost(spikes: list[list[tuple[int, int]]]):
    counts = dense(binned(spikes), list(range(len(spikes))), 11)
    assert counts.sum(axis=(0, 2)).tolist() == [len(s) for s in spikes]


@given(samples, st.randoms())
def test_the_order_of_spikes_within_a_bin_does_not_matter(spikes, random):
    shuffled = [random.sample(s, len(s)) for s in spikes]
    order = list(range(len(spikes)))
    np.testing.assert_array_equal(
        dense(binned(spikes), order, 11), dense(binned(shuffled), order, 11)
    )


@given(samples, st.randoms())
def test_samples_come_in_the_order_asked_for(spikes, random):
    order = random.sample(range(len(spikes)), len(spikes))
    everything = dense(binned(spikes), list(range(len(spikes))), 11)
    np.testing.assert_array_equal(dense(binned(spikes), order, 11), everything[:, order])


def test_cutting_keeps_samples_apart():
    spikes = bin_spikes(
        np.array([0.01, 0.2, 0.2, 0.03, 0.05], np.float32),
        np.arange(5, dtype=np.uint16),
        np.array([0, 2, 3, 5]),
        dt_s=0.01,
        n_steps=10,
        duration_s=0.1,
        n_units=5,
    )
    assert spikes.offsets.tolist() == [0, 1, 1, 3]
    assert spikes.channels.tolist() == [0, 3, 4]


@pytest.mark.parametrize(
    ("time_s", "unit", "n_steps", "words"),
    [
        (-0.1, 0, 10, "0 s or later, found -0.1"),
        (float("nan"), 0, 10, "found nan"),
        (0.0, 3, 10, "unit 3 is out of range: the task has 3 units"),
        (0.0, 0, 70_000, "larger train.dt_s"),
    ],
)
def test_spikes_that_do_not_fit_are_refused(time_s: float, unit: int, n_steps: int, words: str):
    with pytest.raises(SnnbenchError, match=words):
        bin_spikes(
            np.array([time_s], np.float32),
            np.array([unit], np.uint16),
            np.array([0, 1]),
            dt_s=0.01,
            n_steps=n_steps,
            duration_s=0.1,
            n_units=3,
        )
