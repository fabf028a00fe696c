"""Batches cover every sample once, whatever their size and order, layout and the place of the spikes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from snnbench.data_prep import loader as loader_module
from snnbench.data_prep.batch import Batch, EventBatch
from snnbench.data_prep.loader import SpikeLoader
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.spec import RunSpec
from tests.tiny_data import write_dataset
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


# --- the same from a file, in a file, as events


CHANGES: list[dict[str, Any]] = [
    {},
    {"train__bin_mode": "clip", "train__units_per_channel": 5},
    {"train__dt_s": 0.007},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_spikes_kept_in_a_file_give_the_same_batches(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    split, spec = toy_split(30, seed=1), toy_spec(**changes)
    batches = []
    for memory_bytes, read_at_once in ((None, 1 << 19), (0, 1 << 19), (0, 100)):
        # blocks of 100 spikes are two samples: the pieces must fit together
        monkeypatch.setattr(loader_module, "_READ_AT_ONCE", read_at_once)
        loader = SpikeLoader(split, spec, CPU, memory_bytes=memory_bytes)
        batches.append(list(loader.batches(7, torch.Generator().manual_seed(3))))
    for other in batches[1:]:
        for one, same in zip(batches[0], other, strict=True):
            assert all(map(torch.equal, one, same))


def test_a_split_of_a_file_gives_the_batches_of_the_split_in_memory(tmp_path: Path):
    spec = toy_spec(task__n_units=700, task__n_classes=20, task__duration_s=1.0)
    with SpikeDataset.open(write_dataset(tmp_path / "data.h5")) as dataset:
        whole, reader = dataset.read("train"), dataset.split("train")
        loaders = [SpikeLoader(split, spec, CPU) for split in (whole, reader)]
    # the file is closed: a loader has read what it needs
    for one, same in zip(*(loader.batches(16) for loader in loaders), strict=True):
        assert one.spikes.sum() > 0
        assert all(map(torch.equal, one, same))


def counts_of(events: EventBatch) -> torch.Tensor:
    """The batch as dense counts, (time, batch, channel)."""
    n_batch = len(events.labels)
    counts = torch.zeros(n_batch * events.n_steps, events.n_channels)
    rows = torch.repeat_interleave(torch.arange(len(counts)), events.indptr.diff())
    counts.index_put_((rows, events.channels.long()), torch.ones(()), accumulate=True)
    return counts.view(n_batch, events.n_steps, events.n_channels).transpose(0, 1)


@pytest.mark.parametrize("changes", CHANGES)
def test_events_are_the_dense_batches(changes: dict[str, Any]):
    loader = SpikeLoader(toy_split(25, seed=1), toy_spec(**changes), CPU)
    orders = [torch.Generator().manual_seed(3) for _ in range(2)]
    pairs = zip(loader.batches(10, orders[0]), loader.event_batches(10, orders[1]), strict=True)
    for dense, events in pairs:
        assert torch.equal(dense.labels, events.labels)
        assert torch.equal(dense.indices, events.indices)
        assert torch.equal(counts_of(events), dense.spikes)


def test_a_batch_that_is_kept_stays_as_it_is():
    loader = SpikeLoader(toy_split(30, seed=1), toy_spec(), CPU)
    kept, copies = [], []
    for epoch in range(3):
        for batch in loader.batches(7, torch.Generator().manual_seed(epoch)):
            kept.append(batch.spikes)
            copies.append(batch.spikes.clone())
    assert all(map(torch.equal, kept, copies))


def test_batches_that_are_let_go_share_memory():
    # two pieces in turn for batches of seven, and one for the two samples that are left
    loader = SpikeLoader(toy_split(30, seed=1), toy_spec(), CPU)
    assert len({batch.spikes.data_ptr() for _ in range(3) for batch in loader.batches(7)}) == 3


# --- random changes


JITTER: dict[str, Any] = {
    "train__augment": {"channel_jitter": 1.0, "time_jitter_s": 0.01, "noise_hz": 5.0}
}


def changed(spec: RunSpec, seed: int, **options: Any) -> list[Batch]:
    loader = SpikeLoader(
        toy_split(30, seed=1),
        spec,
        CPU,
        augmentation=torch.Generator().manual_seed(seed),
        **options,
    )
    return [batch for _ in range(2) for batch in loader.batches(30)]


@pytest.mark.parametrize("clip", [False, True])
def test_changes_are_drawn_anew_and_a_seed_repeats_them(clip: bool):
    spec = toy_spec(**JITTER, train__bin_mode="clip" if clip else "count")
    first, second = changed(spec, 3)
    again = changed(spec, 3, memory_bytes=0)
    other = changed(spec, 4)
    (plain,) = SpikeLoader(toy_split(30, seed=1), spec, CPU).batches(30)
    spikes = [batch.spikes for batch in (plain, first, second, other[0])]
    assert not any(torch.equal(a, b) for i, a in enumerate(spikes) for b in spikes[:i])
    assert torch.equal(first.spikes, again[0].spikes)
    assert torch.equal(second.spikes, again[1].spikes)
    assert torch.equal(first.labels, plain.labels)
    assert int(first.spikes.max()) == 1 or not clip


def test_changes_of_no_strength_leave_the_batches_as_they_are():
    (plain,) = SpikeLoader(toy_split(30, seed=1), toy_spec(), CPU).batches(30)
    for batch in changed(toy_spec(), 3):
        assert torch.equal(batch.spikes, plain.spikes)


@pytest.mark.parametrize("mode", ["count", "clip"])
def test_changed_events_are_the_changed_dense_batches(mode: str):
    spec = toy_spec(**JITTER, train__bin_mode=mode)
    dense, events = (
        SpikeLoader(toy_split(25, seed=1), spec, CPU, augmentation=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    for one, other in zip(dense.batches(10), events.event_batches(10), strict=True):
        assert torch.equal(counts_of(other), one.spikes)


@pytest.mark.parametrize("augmentation", [None, torch.Generator()])
def test_a_unit_out_of_range_is_refused(augmentation: torch.Generator | None):
    split = split_from_samples([[0.1]], [[12]], [0])
    with pytest.raises(SnnbenchError, match="unit 12 is out of range"):
        SpikeLoader(split, toy_spec(), CPU, augmentation=augmentation)
