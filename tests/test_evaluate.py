"""Predictions do not depend on the batch, and operations equal a count by brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from snnbench.checkpoint import build_for
from snnbench.data_prep.loader import SpikeLoader
from snnbench.evaluate import accuracy_over_time, footprint, predict, predict_loader
from snnbench.metrics import count_correct
from snnbench.models.layers import SpikingLayer
from snnbench.models.network import SpikingNetwork
from tests.toy_spikes import heard, split_from_samples, toy_spec, toy_split

CPU = torch.device("cpu")


def test_predictions_do_not_depend_on_the_batch_size():
    spec = toy_spec("rec-lif")
    network = build_for(spec, torch.Generator().manual_seed(0))
    loader = SpikeLoader(toy_split(300, seed=1), spec, CPU)
    results = [predict_loader(network, loader, batch_size) for batch_size in (1, 7, 256)]
    assert len(set(results[0].predictions.tolist())) > 1
    for result in results[1:]:
        np.testing.assert_array_equal(result.predictions, results[0].predictions)
        assert result.operations.spikes == pytest.approx(results[0].operations.spikes)


def test_two_passes_agree_bit_for_bit_and_ignore_dropout():
    spec = toy_spec(model__dropout=0.5)
    network = build_for(spec, torch.Generator().manual_seed(0))
    split = toy_split(50, seed=1)
    first, second = (predict(network, split, spec, CPU) for _ in range(2))
    assert first.predictions.dtype == np.uint16
    assert first.predictions.tobytes() == second.predictions.tobytes()
    assert first.operations == second.operations


@pytest.mark.parametrize("recurrent", [False, True])
def test_operations_equal_a_count_by_brute_force(recurrent: bool):
    spec = toy_spec(model__hidden=[5, 4], model__recurrent=recurrent, model__input_gain=6.0)
    network = build_for(spec, torch.Generator().manual_seed(0))
    # unit 3 fires three times in one bin: each counts
    split = split_from_samples(
        [[0.012, 0.013, 0.014, *np.linspace(0.02, 0.15, 30)], [0.05] * 25],
        [[3, 3, 3, *range(12), *range(12), *range(6)], [1] * 25],
        [0, 1],
    )
    loader = SpikeLoader(split, spec, CPU)
    operations = predict_loader(network, loader).operations

    (batch,) = loader.batches(2)
    with torch.no_grad():
        hidden = network.hidden_spikes(batch.spikes)
    below = [batch.spikes, *hidden]
    # (spikes into it, weight): every matrix of the network by its name
    matrices = []
    for name, weight in network.named_parameters():
        if name == "readout.weight":
            source = hidden[-1]
        else:
            index = int(name.split(".")[1])
            source = below[index + name.endswith("recurrent_weight")]
        layer = "readout" if name == "readout.weight" else f"hidden{index + 1}"
        matrices.append((layer, source, weight))
    macs = dict.fromkeys(operations.layers, 0)
    acs = dict.fromkeys(operations.layers, 0)
    for layer, source, weight in matrices:
        n_out, n_in = weight.shape
        for n in range(spec.n_steps):
            for sample in range(2):
                for unit in range(n_in):
                    macs[layer] += n_out
                    acs[layer] += int(source[n, sample, unit]) * n_out
    assert list(operations.layers) == ["hidden1", "hidden2", "readout"]
    for layer, found in operations.layers.items():
        assert found.dense == macs[layer] / 2
        assert found.effective_acs == pytest.approx(acs[layer] / 2, rel=1e-12)
        assert found.effective_macs == 0
    assert operations.dense_macs == sum(macs.values()) / 2
    assert operations.effective_acs == pytest.approx(sum(acs.values()) / 2, rel=1e-12)
    assert operations.spikes == {
        "hidden1": pytest.approx(float(hidden[0].sum()) / 2),
        "hidden2": pytest.approx(float(hidden[1].sum()) / 2),
    }
    assert min(operations.spikes.values()) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"model__delays": {"max_s": 0.05}},
        {"model__delays": {"kind": "fixed", "taps_s": [0.0, 0.02, 0.05]}},
        {"model__delays": {"kind": "fixed", "taps_s": [0.01, 0.02], "where": "hidden"}},
        {"model__conv": {"kernels": [5, 4], "strides": [2, 3]}},
        {"model__conv": {"kernels": [5, 3], "strides": [3, 1], "recurrent_kernel": 3}},
        {
            "model__conv": {"kernels": [5], "strides": [3]},
            "model__recurrent": [False, True],
            "model__delays": {"kind": "fixed", "taps_s": [0.0, 0.02], "where": "hidden"},
        },
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_operations_of_delays_and_convolutions_equal_a_count_of_their_synapses(
    changes: dict[str, Any],
):
    changes = {"model__recurrent": True, **changes}
    spec = toy_spec(model__hidden=[5, 4], model__input_gain=8.0, **changes)
    network = build_for(spec, torch.Generator().manual_seed(0)).eval()
    assert isinstance(network, SpikingNetwork)
    loader = SpikeLoader(toy_split(2, seed=1), spec, CPU)
    operations = predict_loader(network, loader).operations
    # a synapse is what a spike of one unit moves in the drive of another one, at one time
    macs, expected = 0, 0.0
    spikes = [float(loader.batch(torch.arange(2)).spikes.sum()) / 2, *operations.spikes.values()]
    for i, (layer, size) in enumerate(zip(network.layers, network.layer_sizes(), strict=False)):
        assert isinstance(layer, SpikingLayer)
        one_by_one = torch.zeros(20, size.n_inputs, size.n_inputs)
        one_by_one[0] = torch.eye(size.n_inputs)
        forward = int(heard(layer, one_by_one).count_nonzero())
        within = 0 if layer.recurrence is None else int(layer.recurrence.count_nonzero())
        macs += forward + within
        expected += spikes[i] * forward / size.n_inputs + spikes[i + 1] * within / size.n_units
    macs += network.readout.weight.numel()
    expected += spikes[-1] * 3
    assert operations.dense_macs == 20 * macs
    assert operations.effective_acs == pytest.approx(expected, rel=1e-6)
    assert min(operations.spikes.values()) > 0


@pytest.mark.parametrize("model", ["lstm", "cnn", "counts-linear"])
def test_layers_of_a_baseline_multiply_all_but_the_spikes(model: str):
    spec = toy_spec(model)
    network = build_for(spec, torch.Generator().manual_seed(0)).eval()
    split = toy_split(10, seed=1)
    operations = predict_loader(network, SpikeLoader(split, spec, CPU)).operations
    sizes = {size.name: size for size in network.layer_sizes()}
    first, *others = operations.layers
    arriving = split.n_spikes / len(split)
    assert operations.layers[first].effective_acs == pytest.approx(
        arriving * sizes[first].accumulates(spec.n_steps), rel=0.05
    )
    for name in others:
        assert operations.layers[name].effective_acs == 0
        assert operations.layers[name].effective_macs == operations.layers[name].dense > 0
    # of an LSTM's gates, what comes from its own state
    own = sizes[first].runs(spec.n_steps) * sizes[first].n_recurrent_synapses
    assert operations.layers[first].effective_macs == own
    assert sum(layer.dense for layer in operations.layers.values()) == operations.dense_macs


@pytest.mark.parametrize("model", ["ff-lif", "cnn"])
def test_a_sample_ends_early_or_is_followed_by_silence(model: str):
    spec = toy_spec(model)
    network = build_for(spec, torch.Generator().manual_seed(0)).eval()
    split = toy_split(30, seed=1)
    moments = accuracy_over_time(network, SpikeLoader(split, spec, CPU), spec)
    assert [m.seen_s for m in moments] == pytest.approx([0.02 * k for k in range(1, 10)])
    for moment in moments:
        kept = split.times < moment.seen_s - 1e-9
        counts = [kept[a:b].sum() for a, b in pairwise(split.offsets)]
        cut = replace(
            split,
            times=split.times[kept],
            units=split.units[kept],
            offsets=np.concatenate(([0], np.cumsum(counts))),
        )
        shorter = spec
        if model == "ff-lif":
            task = spec.task.model_copy(update={"duration_s": moment.seen_s})
            shorter = spec.model_copy(update={"task": task})
        expected = predict(network, cut, shorter, CPU).predictions
        assert moment.test == count_correct(expected, split.labels)


def test_footprint_counts_zeros_and_bytes():
    spec = toy_spec("rec-lif", model__hidden=[5])
    network = build_for(spec, torch.Generator().manual_seed(0))
    assert isinstance(network, SpikingNetwork)
    layer = network.layers[0]
    assert isinstance(layer, SpikingLayer)
    with torch.no_grad():
        layer.weight[:, :6] = 0
    found = footprint(network, {"hidden1": 0.5})
    assert found.connection_sparsity == 5 * 6 / (5 * 12 + 5 * 5 + 3 * 5)
    assert found.n_bytes >= 4 * (5 * 12 + 5 * 5 + 3 * 5)
    assert found.activation_sparsity == {"hidden1": 0.5}
