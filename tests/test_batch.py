"""The two layouts of a batch hold the same spikes, however they were made; memory is nobody else's."""

from __future__ import annotations

import gc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from snnbench.data_prep.batch import (
    EventBatch,
    ReusedMemory,
    dense_batch,
    dense_counts,
    event_batch,
    events_of_steps,
    places_of_events,
    sorted_events,
)
from snnbench.data_prep.binning import BinnedSpikes, bin_on_device
from tests.test_binning import binned, make_binning, samples

Spikes = list[list[tuple[int, int]]]


def dense(spikes: BinnedSpikes, indices: list[int], n_channels: int = 11) -> np.ndarray:
    """Counts, into memory that is not empty."""
    out = np.full((10, len(indices), n_channels), np.nan, np.float32)
    dense_batch(spikes, np.array(indices), out)
    return out


@given(samples, st.sampled_from([1, 2, 3, 5]), st.booleans())
def test_dense_counts_equal_a_plain_loop(spikes: Spikes, per_channel: int, clip: bool):
    n_channels = -(-11 // per_channel)
    expected = np.zeros((10, len(spikes), n_channels))
    for b, sample in enumerate(spikes):
        for k, unit in sample:
            expected[k, b, unit // per_channel] += 1
    if clip:
        expected = expected.clip(max=1)
    found = dense(binned(spikes, per_channel, clip), list(range(len(spikes))), n_channels)
    np.testing.assert_array_equal(found, expected)


@given(samples, st.randoms())
def test_samples_come_in_the_order_asked_for(spikes: Spikes, random):
    order = random.choices(range(len(spikes)), k=7)  # some of them twice
    everything = dense(binned(spikes), list(range(len(spikes))))
    np.testing.assert_array_equal(dense(binned(spikes), order), everything[:, order])


@given(samples, st.booleans(), st.randoms())
def test_events_hold_the_spikes_of_the_dense_batch(spikes: Spikes, clip: bool, random):
    order = random.choices(range(len(spikes)), k=4)
    indptr, channels = event_batch(binned(spikes, 1, clip), np.array(order))
    assert (indptr[0], indptr[-1], len(indptr)) == (0, len(channels), 4 * 10 + 1)
    found = np.zeros((40, 11))
    np.add.at(found, (np.repeat(np.arange(40), np.diff(indptr)), channels), 1)
    expected = dense(binned(spikes, 1, clip), order)
    np.testing.assert_array_equal(found.reshape(4, 10, 11).swapaxes(0, 1), expected)


@given(samples, st.booleans(), st.randoms())
def test_events_sent_to_a_device_become_the_dense_batch(spikes: Spikes, clip: bool, random):
    order = random.choices(range(len(spikes)), k=4)
    indptr, channels = map(torch.from_numpy, event_batch(binned(spikes, 1, clip), np.array(order)))
    bins, numbers = places_of_events(indptr, 10)
    found = dense_counts(bins, channels.long(), numbers, shape=(10, 4, 11), clip=False)
    np.testing.assert_array_equal(found.numpy(), dense(binned(spikes, 1, clip), order))


@given(samples, st.booleans(), st.randoms())
def test_spikes_binned_on_a_device_give_the_same_batches(spikes: Spikes, clip: bool, random):
    flat = [(i, k, unit) for i, sample in enumerate(spikes) for k, unit in sample]
    columns = torch.tensor(random.sample(flat, len(flat)), dtype=torch.int64).view(-1, 3).T
    binning = make_binning(0.01, 0.1, n_units=11, units_per_channel=2)
    times_s = ((columns[1].double() + 0.5) * 0.01).float()
    places = bin_on_device(times_s, columns[2], columns[0], binning)
    everything = list(range(len(spikes)))
    shape = (10, len(spikes), 6)
    counts = dense_counts(*places, shape=shape, clip=clip).numpy()
    np.testing.assert_array_equal(counts, dense(binned(spikes, 2, clip), everything, 6))
    indptr, channels = sorted_events(*places, shape=shape, clip=clip)
    expected = event_batch(binned(spikes, 2, clip), np.array(everything))
    assert (indptr.dtype, channels.dtype) == (torch.int64, torch.uint16)
    np.testing.assert_array_equal(indptr.numpy(), expected[0])
    np.testing.assert_array_equal(channels.numpy(), expected[1])


def make_events(spikes: Spikes) -> EventBatch:
    order = np.arange(len(spikes))
    indptr, channels = map(torch.from_numpy, event_batch(binned(spikes), order))
    return EventBatch(indptr, channels, torch.from_numpy(order), torch.from_numpy(order), 10, 11)


def dense_of_events(batch: EventBatch) -> np.ndarray:
    bins, numbers = places_of_events(batch.indptr, batch.n_steps)
    shape = (batch.n_steps, batch.n_samples, batch.n_channels)
    return dense_counts(bins, batch.channels.long(), numbers, shape=shape, clip=False).numpy()


@given(samples, st.integers(0, 9), st.integers(1, 10))
@settings(max_examples=30)
def test_a_stretch_of_steps_holds_the_spikes_of_those_steps(spikes: Spikes, first: int, n: int):
    batch, stop = make_events(spikes), min(10, first + n)
    part = events_of_steps(batch, first, stop)
    assert (part.n_steps, part.n_samples, part.n_channels) == (stop - first, len(spikes), 11)
    assert (part.indptr.dtype, part.channels.dtype) == (torch.int64, torch.uint16)
    assert (int(part.indptr[0]), int(part.indptr[-1])) == (0, len(part.channels))
    assert torch.equal(part.labels, batch.labels)
    np.testing.assert_array_equal(dense_of_events(part), dense_of_events(batch)[first:stop])


@given(samples, st.lists(st.integers(1, 9), max_size=3, unique=True))
@settings(max_examples=30)
def test_stretches_together_are_the_batch(spikes: Spikes, cuts: list[int]):
    batch = make_events(spikes)
    edges = [0, *sorted(cuts), 10]
    parts = [events_of_steps(batch, a, b) for a, b in pairwise(edges)]
    assert sum(len(part.channels) for part in parts) == len(batch.channels)
    whole = np.concatenate([dense_of_events(part) for part in parts])
    np.testing.assert_array_equal(whole, dense_of_events(batch))
    everything = events_of_steps(batch, 0, 10)
    assert torch.equal(everything.indptr, batch.indptr)
    assert torch.equal(everything.channels, batch.channels)


@pytest.mark.parametrize("view", [lambda t: t, lambda t: t[1:, :2], lambda t: t.detach().view(-1)])
def test_memory_is_lent_again_when_the_last_view_is_gone(view):
    memory = ReusedMemory()
    first = torch.from_numpy(memory.lend((4, 3, 2)))
    place = first.data_ptr()
    kept = view(first)
    del first
    second = torch.from_numpy(memory.lend((4, 3, 2)))
    assert second.data_ptr() != place
    del kept
    assert torch.from_numpy(memory.lend((2, 3, 2))).data_ptr() == place


def test_memory_is_not_lent_while_a_gradient_needs_it():
    memory = ReusedMemory()
    spikes = torch.from_numpy(memory.lend((4, 2)))
    place = spikes.data_ptr()
    weight = torch.ones(2, 3, requires_grad=True)
    output = spikes @ weight
    del spikes
    assert torch.from_numpy(memory.lend((4, 2))).data_ptr() != place
    del output
    gc.collect()
    assert place in {torch.from_numpy(memory.lend((4, 2))).data_ptr() for _ in range(2)}


def test_a_larger_batch_gets_more_memory():
    memory = ReusedMemory()
    del_me = memory.lend((3,))
    del del_me
    assert memory.lend((5, 2)).shape == (5, 2)


def take_steps(memory: ReusedMemory, sizes: list[int], n: int) -> set[int]:
    """Ask n times for tensors of these sizes, each held until the next but one; what memory has then."""
    for _ in range(n):
        alive: list[np.ndarray] = []
        for size in sizes:
            alive = [*alive[-1:], memory.lend((size,), np.uint8)]
        del alive
    return {id(block) for _, block in memory._free}


@given(st.lists(st.integers(100, 5000), min_size=1, max_size=12))
def test_who_asks_for_the_same_sizes_again_soon_gets_the_same_memory(sizes: list[int]):
    memory = ReusedMemory()
    settled = take_steps(memory, sizes, 20)
    held = list(memory._free)  # so that nothing new can have its place
    assert take_steps(memory, sizes, 5) == settled
    del held


@pytest.mark.parametrize("widths", [[512, 544, 576, 608, 640], [640, 608, 576, 544, 512]])
def test_networks_one_after_the_other_leave_no_more_than_the_largest_needs(widths: list[int]):
    def kept_after(widths: list[int]) -> int:
        memory = ReusedMemory()
        for width in widths:
            for _ in range(3):
                alive = [memory.lend((4, width)) for _ in range(4)]
                del alive
        return memory.free_bytes

    assert kept_after(widths) <= kept_after([640])


def test_a_small_tensor_does_not_hold_a_large_memory():
    memory = ReusedMemory()
    large = memory.lend((1_000_000,), np.uint8)
    del large
    small = memory.lend((1000,), np.uint8)
    assert memory.free_bytes >= 1_000_000
    del small


def test_memory_that_nobody_wants_any_more_is_given_back():
    memory = ReusedMemory()
    large = memory.lend((1_000_000,), np.uint8)
    del large
    for _ in range(1002):
        memory.lend((1000,), np.uint8)
    assert memory.free_bytes < 2000


@pytest.mark.parametrize("n_events", [7, 0])
def test_places_of_events_need_no_numbers_from_the_device(n_events: int):
    # what has no numbers, as a CUDA graph in the making, stands for a GPU that may not be asked
    counts = torch.tensor([3, 0, 4, 0] if n_events else [0, 0, 0, 0])
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    bins, numbers = places_of_events(indptr, 2, n_events=n_events)
    assert torch.equal(torch.stack([bins, numbers]), torch.stack(places_of_events(indptr, 2)))
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(indptr)
        assert [len(t) for t in places_of_events(fake, 2, n_events=n_events)] == [n_events] * 2
        with pytest.raises(DynamicOutputShapeException):
            places_of_events(fake, 2)
