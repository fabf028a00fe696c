"""Batches cover every sample once, whatever their size and order."""

from __future__ import annotations

import pytest
import torch

from snnbench.data_prep.loader import SpikeLoader
from snnbench.errors import SnnbenchError
from tests.toy_spikes import split_from_samples, toy_spec, toy_split

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch_size", [1, 7, 10, 25, 100])
def test_every_sample_once_with_the_last_partial_batch(batch_size: int):
    split = toy_split(25, seed=1)
    loader = SpikeLoader(split, toy_spec(), CPU)
    batches = list(loader.batches(batch_size))
    assert [len(b.labels) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(25))
    assert torch.cat([b.labels for b in batches]).tolist() == split.labels.tolist()
    assert sum(float(b.spikes.sum()) for b in batches) == len(split.times)


def test_batches_are_time_first_counts():
    loader = SpikeLoader(toy_split(5, seed=1), toy_spec(), CPU)
    (batch,) = loader.batches(8)
    assert batch.spikes.shape == (20, 5, 12)
    assert batch.spikes.dtype == torch.float32
    assert batch.labels.dtype == torch.int64


def test_shuffling_moves_samples_with_their_labels():
    loader = SpikeLoader(toy_split(30, seed=1), toy_spec(), CPU)
    (plain,) = loader.batches(30)
    (shuffled,) = loader.batches(30, torch.Generator().manual_seed(3))
    order = shuffled.indices
    assert sorted(order.tolist()) == list(range(30))
    assert order.tolist() != list(range(30))
    assert torch.equal(shuffled.labels, plain.labels[order])
    assert torch.equal(shuffled.spikes, plain.spikes[:, order])


def test_each_pass_shuffles_anew_and_a_seed_repeats_them():
    loader = SpikeLoader(toy_split(30, seed=1), toy_spec(), CPU)
    orders = []
    for seed in (3, 3):
        generator = torch.Generator().manual_seed(seed)
        orders.append([next(loader.batches(30, generator)).indices.tolist() for _ in range(2)])
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]


def test_bin_mode_and_channels_come_from_the_spec():
    split = split_from_samples([[0.001, 0.002, 0.002, 0.195]], [[0, 0, 1, 11]], [0])
    (count,) = SpikeLoader(split, toy_spec(train__units_per_channel=5), CPU).batches(1)
    assert count.spikes.shape == (20, 1, 3)
    assert count.spikes[0, 0].tolist() == [3, 0, 0]
    assert count.spikes[19, 0].tolist() == [0, 0, 1]
    (clip,) = SpikeLoader(split, toy_spec(train__bin_mode="clip"), CPU).batches(1)
    assert clip.spikes[0, 0, :2].tolist() == [1, 1]
    assert clip.spikes.sum() == 3


def test_a_silent_sample_is_a_sample():
    split = split_from_samples([[], [0.01], []], [[], [4], []], [0, 1, 2])
    (batch,) = SpikeLoader(split, toy_spec(), CPU).batches(8)
    assert batch.spikes.sum(dim=(0, 2)).tolist() == [0, 1, 0]


def test_an_empty_split_is_refused():
    with pytest.raises(SnnbenchError, match="no samples"):
        SpikeLoader(split_from_samples([], [], []), toy_spec(), CPU)


def test_a_label_out_of_range_is_refused():
    with pytest.raises(SnnbenchError, match="label 3 is out of range"):
        SpikeLoader(split_from_samples([[0.1]], [[0]], [3]), toy_spec(), CPU)
