"""Bins are exact and half-open, the same by every way there, and no spike is lost or invented."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnbench.data_prep.binning import (
    BinnedSpikes,
    Binning,
    bin_events,
    bin_on_device,
    bin_spikes,
)
from snnbench.errors import SnnbenchError
from tests.toy_spikes import toy_spec

SPEC = toy_spec()
DTS = [0.5e-3, 1e-3, 2e-3, 4e-3, 5e-3, 7e-3, 10e-3, 14e-3]


def make_binning(dt_s: float, duration_s: float, **changes: Any) -> Binning:
    """Bins that cover the duration, as a run's spec counts them."""
    train = SPEC.train.model_copy(update={"dt_s": dt_s})
    task = SPEC.task.model_copy(update={"duration_s": duration_s})
    n_steps = SPEC.model_copy(update={"train": train, "task": task}).n_steps
    return Binning(dt_s, n_steps, duration_s, **{"n_units": 1, **changes})


def bins_of(times_s: Any, binning: Binning) -> list[int]:
    """Bins of one sample's spikes, in ascending order."""
    times = np.asarray(times_s, np.float32)
    units, offsets = np.zeros(len(times), np.uint16), np.array([0, len(times)])
    rows = bin_spikes(times, units, offsets, binning).rows[0]
    return np.repeat(np.arange(binning.n_steps), np.diff(rows)).tolist()


def bins_on_device(times_s: Any, binning: Binning) -> list[int]:
    """As `bins_of`, in torch."""
    times = torch.tensor(np.asarray(times_s, np.float32))
    zeros = torch.zeros(len(times), dtype=torch.int64)
    return sorted(bin_on_device(times, zeros, zeros, binning)[0].tolist())


def bins_by_definition(times_s: Any, binning: Binning) -> list[int]:
    """Every bin's interval, one after the other: edges k dt as float32, the last is the duration's."""
    edges = [np.float32(k * binning.dt_s) for k in range(binning.n_steps)]
    edges.append(np.float32(binning.duration_s))
    found = []
    for t in np.asarray(times_s, np.float32):
        found += [k for k in range(binning.n_steps) if edges[k] <= t < edges[k + 1]]
        if t == edges[-1] and binning.last_edge_inclusive:
            found.append(binning.n_steps - 1)
    return sorted(found)


@pytest.mark.parametrize("dt_s", DTS)
def test_a_time_written_at_an_edge_begins_that_bin(dt_s: float):
    n = int(1.4 / dt_s + 1e-9)
    # the decimal's own nearest float32, as it would be read from a file
    edges = [float(Decimal(str(dt_s)) * k) for k in range(n)]
    assert bins_of(edges, make_binning(dt_s, 1.4)) == list(range(n))
    before = [float(np.nextafter(np.float32(e), np.float32(0))) for e in edges[1:]]
    assert bins_of(before, make_binning(dt_s, 1.4)) == list(range(n - 1))


def test_the_example_that_a_plain_division_gets_wrong():
    assert int(float(np.float32(0.03)) / 0.01) == 2
    assert bins_of([0.03], make_binning(0.01, 1.0)) == [3]


def test_spikes_from_the_end_on_are_cut():
    just_before = float(np.nextafter(np.float32(1.0), np.float32(0)))
    times = [0.0, just_before, 1.0, 1.3]
    assert bins_of(times, make_binning(0.01, 1.0)) == [0, 99]
    # a duration within a bin cuts there, too
    assert bins_of([0.0, 0.0949, 0.095, 0.099], make_binning(0.01, 0.095)) == [0, 9]


@pytest.mark.parametrize("duration_s", [1.0, 1.4, 0.095])
def test_the_last_edge_belongs_to_the_last_bin_where_a_task_says_so(duration_s: float):
    end = np.float32(duration_s)
    times = [np.nextafter(end, np.float32(0)), end, np.nextafter(end, np.float32(2))]
    open_end, closed = (
        make_binning(0.01, duration_s, last_edge_inclusive=b) for b in (False, True)
    )
    last = open_end.n_steps - 1
    for bins in (bins_of, bins_on_device):
        assert bins(times, open_end) == [last]
        assert bins(times, closed) == [last, last]


def test_the_binning_is_the_runs():
    spec = toy_spec(
        task__last_edge_inclusive=True,
        task__n_units=11,
        train__units_per_channel=4,
        train__bin_mode="clip",
        train__dt_s=0.006,
    )
    binning = Binning.of(spec)
    assert binning == Binning(0.006, 34, 0.2, 11, 4, clip=True, last_edge_inclusive=True)
    assert binning.n_channels == 3


def test_a_task_with_an_open_last_edge_is_written_as_before_there_was_the_key():
    closed = toy_spec(task__last_edge_inclusive=True)
    assert "last_edge_inclusive" not in SPEC.task.model_dump()
    assert closed.task.model_dump()["last_edge_inclusive"] is True
    assert closed.digest != SPEC.digest


near_edges = st.builds(
    lambda k, dt, steps: float(
        # k dt and its neighbours among the float32 numbers
        np.float32(k * dt) + np.float32(steps) * np.spacing(np.float32(k * dt))
    ),
    st.integers(1, 1500),
    st.sampled_from(DTS),
    st.integers(-2, 2),
)
half_precision = st.floats(0, 2, width=16)  # as published files hold times
some_times = st.lists(st.floats(0, 2, width=32) | near_edges | half_precision, max_size=40)


@given(
    some_times,
    st.sampled_from(DTS),
    st.sampled_from([0.095, 0.1, 0.333, 1.0, 1.4]) | st.floats(0.03, 1.5),
    st.booleans(),
)
def test_both_ways_give_the_bins_of_the_definition(
    times_s: list[float], dt_s: float, duration_s: float, inclusive: bool
):
    times_s = [*times_s, duration_s]
    binning = make_binning(dt_s, duration_s, last_edge_inclusive=inclusive)
    expected = bins_by_definition(times_s, binning)
    assert bins_of(times_s, binning) == expected
    assert bins_on_device(times_s, binning) == expected


@given(st.integers(1, 400), st.sampled_from(DTS), st.floats(-3e-10, 3e-10))
def test_a_duration_that_is_a_hair_off_a_whole_number_of_bins(n: int, dt_s: float, off: float):
    # n_steps forgives the rounding of such a quotient; no spike may fall behind the last bin
    binning = make_binning(dt_s, dt_s * (n + off))
    end = np.float32(binning.duration_s)
    times = [np.nextafter(end, np.float32(0)), np.float32(n * dt_s), end]
    assert max(bins_of(times, binning)) < binning.n_steps
    assert bins_on_device(times, binning) == bins_of(times, binning)


@given(st.integers(1, 2000), st.integers(1, 50))
def test_as_many_bins_as_cover_the_duration(duration_ms: int, dt_ms: int):
    assert make_binning(dt_ms / 1000, duration_ms / 1000).n_steps == -(-duration_ms // dt_ms)


samples = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10)), max_size=30), min_size=1, max_size=5
)
per_channel = st.sampled_from([1, 2, 3, 5])


def binned(
    spikes: list[list[tuple[int, int]]], units_per_channel: int = 1, clip: bool = False
) -> BinnedSpikes:
    """Samples as (bin of 10 ms, unit) pairs, through the binner."""
    flat = [pair for sample in spikes for pair in sample]
    return bin_spikes(
        np.array([(k + 0.5) * 0.01 for k, _ in flat], np.float32),
        np.array([u for _, u in flat], np.uint16),
        np.cumsum([0, *map(len, spikes)]),
        make_binning(0.01, 0.1, n_units=11, units_per_channel=units_per_channel, clip=clip),
    )


def channels_of(spikes: BinnedSpikes, sample: int, step: int) -> list[int]:
    start, row = spikes.offsets[sample], spikes.rows[sample]
    return spikes.channels[start + row[step] : start + row[step + 1]].tolist()


@given(samples, per_channel, st.booleans())
def test_every_bin_holds_its_channels_in_ascending_order(
    spikes: list[list[tuple[int, int]]], units_per_channel: int, clip: bool
):
    found = binned(spikes, units_per_channel, clip)
    for i, sample in enumerate(spikes):
        for k in range(10):
            channels = [unit // units_per_channel for step, unit in sample if step == k]
            assert channels_of(found, i, k) == sorted(set(channels) if clip else channels)
        assert found.rows[i, 0] == 0
        assert found.offsets[i] + found.rows[i, -1] == found.offsets[i + 1]
    assert len(found.channels) == found.offsets[-1]


@given(samples)
def test_no_spike_is_lost(spikes: list[list[tuple[int, int]]]):
    assert np.diff(binned(spikes).offsets).tolist() == [len(s) for s in spikes]


@given(samples, st.booleans(), st.randoms())
def test_the_order_of_spikes_does_not_matter(spikes, clip, random):
    shuffled = [random.sample(s, len(s)) for s in spikes]
    for one, other in zip(binned(spikes, 2, clip), binned(shuffled, 2, clip), strict=True):
        np.testing.assert_array_equal(one, other)


@given(samples, per_channel)
def test_on_a_device_a_spike_comes_with_its_channel_and_sample(
    spikes: list[list[tuple[int, int]]], units_per_channel: int
):
    flat = [(i, k, unit) for i, sample in enumerate(spikes) for k, unit in sample]
    flat += [(0, 10, 3)]  # after the end
    columns = torch.tensor(flat, dtype=torch.int64).T
    binning = make_binning(0.01, 0.1, n_units=11, units_per_channel=units_per_channel)
    times_s = ((columns[1].double() + 0.5) * 0.01).float()
    bins, channels, numbers = bin_on_device(times_s, columns[2], columns[0], binning)
    found = list(zip(numbers.tolist(), bins.tolist(), channels.tolist(), strict=True))
    assert found == [(i, k, unit // units_per_channel) for i, k, unit in flat[:-1]]


@given(samples, st.booleans(), st.randoms())
def test_events_in_any_order_are_binned_as_in_theirs(spikes, clip, random):
    flat = [(i, k, unit) for i, sample in enumerate(spikes) for k, unit in sample]
    columns = torch.tensor(random.sample(flat, len(flat)), dtype=torch.int64).view(-1, 3).T
    times_s = ((columns[1].double() + 0.5) * 0.01).float()
    binning = make_binning(0.01, 0.1, n_units=11, units_per_channel=2, clip=clip)
    found = bin_events(times_s, columns[2], columns[0], len(spikes), binning)
    for one, other in zip(found, binned(spikes, 2, clip), strict=True):
        np.testing.assert_array_equal(one, other)


def test_cutting_keeps_samples_apart():
    spikes = bin_spikes(
        np.array([0.01, 0.2, 0.2, 0.03, 0.05], np.float32),
        np.arange(5, dtype=np.uint16),
        np.array([0, 2, 3, 5]),
        make_binning(0.01, 0.1, n_units=5),
    )
    assert spikes.offsets.tolist() == [0, 1, 1, 3]
    assert spikes.channels.tolist() == [0, 3, 4]


@pytest.mark.parametrize(
    ("time_s", "unit", "words"),
    [
        (-0.1, 0, "0 s or later, found -0.1"),
        (float("nan"), 0, "found nan"),
        (0.0, 3, "unit 3 is out of range: the task has 3 units"),
    ],
)
def test_spikes_that_do_not_fit_are_refused(time_s: float, unit: int, words: str):
    with pytest.raises(SnnbenchError, match=words):
        bin_spikes(
            np.array([time_s], np.float32),
            np.array([unit], np.uint16),
            np.array([0, 1]),
            make_binning(0.01, 0.1, n_units=3),
        )


def test_bins_that_do_not_fit_into_16_bits_are_refused():
    with pytest.raises(SnnbenchError, match=r"200000 time bins .* larger train\.dt_s"):
        Binning.of(toy_spec(train__dt_s=1e-6))
