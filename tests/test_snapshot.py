"""Snapshots of a network: its own weights, rates as spikes per second, spikes where they were."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from snnbench.checkpoint import build_for
from snnbench.data_prep.loader import SpikeLoader
from snnbench.models.layers import SpikingLayer
from snnbench.models.network import NetworkOutput, SpikingNetwork
from snnbench.snapshot import take_snapshot
from snnbench.spec import RunSpec
from tests.toy_spikes import heard, split_from_samples, toy_spec, toy_split

CPU = torch.device("cpu")


def network_and_spec() -> tuple[SpikingNetwork, RunSpec]:
    spec = toy_spec(model__hidden=[16, 8], model__recurrent=True, model__input_gain=6.0)
    network = build_for(spec, torch.Generator().manual_seed(0))
    assert isinstance(network, SpikingNetwork)
    return network, spec


def test_weights_are_named_by_what_they_connect():
    network, spec = network_and_spec()
    weights = take_snapshot(network, SpikeLoader(toy_split(20, seed=1), spec, CPU), spec).weights
    assert {name: w.shape for name, w in weights.items()} == {
        "input to hidden1": (16, 12),
        "within hidden1": (16, 16),
        "hidden1 to hidden2": (8, 16),
        "within hidden2": (8, 8),
        "hidden2 to readout": (3, 8),
    }
    state = network.state_dict()
    np.testing.assert_array_equal(weights["within hidden2"], state["layers.1.recurrent_weight"])
    np.testing.assert_array_equal(weights["hidden2 to readout"], state["readout.weight"])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"model__delays": {"max_s": 0.05, "where": "input"}},
            {"input to hidden1", "hidden1 to hidden2"},
        ),
        (
            {"model__conv": {"kernels": [3, 3], "strides": [1, 1], "recurrent_kernel": 3}},
            {"input to hidden1", "hidden1 to hidden2"},
        ),
    ],
    ids=["delays", "conv"],
)
def test_delays_and_convolutions_are_named_likewise(changes: dict[str, Any], names: set[str]):
    spec = toy_spec(model__hidden=[4, 3], model__recurrent=True, **changes)
    network = build_for(spec, torch.Generator().manual_seed(0))
    snapshot = take_snapshot(network, SpikeLoader(toy_split(5, seed=1), spec, CPU), spec)
    common = {"within hidden1", "within hidden2", "hidden2 to readout"}
    assert set(snapshot.weights) == names | common


@pytest.mark.parametrize(
    ("changes", "n_first"),
    [
        ({"model__delays": {"kind": "fixed", "taps_s": [0.0, 0.02, 0.05]}}, 3),
        ({"model__conv": {"kernels": [3, 5], "strides": [2, 1], "recurrent_kernel": 3}}, 1),
        ({"model__delays": {"max_s": 0.05, "where": "hidden"}}, 1),
    ],
    ids=["line", "conv", "delays"],
)
def test_matrices_are_what_a_spike_of_each_input_does(changes: dict[str, Any], n_first: int):
    spec = toy_spec(model__hidden=[4, 3], model__recurrent=True, **changes)
    network = build_for(spec, torch.Generator().manual_seed(0)).eval()
    assert isinstance(network, SpikingNetwork)
    matrices = take_snapshot(network, SpikeLoader(toy_split(5, seed=1), spec, CPU), spec).matrices
    first = {name: w for name, w in matrices.items() if name.startswith("input to hidden1")}
    assert len(first) == n_first
    layer = network.spiking_layers[0]
    if n_first == 3:
        assert list(first)[1:] == ["input to hidden1, 20 ms later", "input to hidden1, 50 ms later"]
    for channel in range(12):
        impulse = torch.zeros(8, 1, 12)
        impulse[0, 0, channel] = 1
        received = heard(layer, impulse).sum(dim=0)[0].detach()
        total = sum(w[:, channel] for w in first.values())
        np.testing.assert_allclose(received, total, rtol=1e-5, atol=1e-6)
    assert layer.recurrence is not None
    np.testing.assert_array_equal(matrices["within hidden1"], layer.recurrence.detach())
    assert all(w.ndim == 2 for w in matrices.values())


def test_a_snapshot_keeps_its_weights_while_the_network_trains_on():
    network, spec = network_and_spec()
    weights = take_snapshot(network, SpikeLoader(toy_split(20, seed=1), spec, CPU), spec).weights
    before = weights["hidden2 to readout"].copy()
    with torch.no_grad():
        network.readout.weight.add_(1.0)
    np.testing.assert_array_equal(weights["hidden2 to readout"], before)


def test_rates_and_rasters_are_those_of_the_network():
    network, spec = network_and_spec()
    loader = SpikeLoader(toy_split(20, seed=1), spec, CPU)
    snapshot = take_snapshot(network, loader, spec)
    batch = loader.batch(torch.arange(20))
    with torch.no_grad():
        hidden = network.hidden_spikes(batch.spikes)
        logits = network(batch.spikes).logits
    assert snapshot.sample == 0
    assert snapshot.predicted == int(logits[0].argmax())
    for name, spikes in zip(("hidden1", "hidden2"), hidden, strict=True):
        rates = spikes.sum(dim=0).mean(dim=0) / 0.2
        assert float(rates.max()) > 0
        np.testing.assert_allclose(snapshot.rates_hz[name], rates, rtol=1e-6)
        raster = snapshot.rasters[name]
        drawn = np.zeros((spec.n_steps, raster.n_units))
        drawn[raster.bins, raster.units] = 1
        np.testing.assert_array_equal(drawn, spikes[:, 0])
        assert raster.n_spikes == int(spikes[:, 0].sum())


def test_a_bin_with_several_input_spikes_is_one_place():
    network, spec = network_and_spec()
    split = split_from_samples([[0.012, 0.013, 0.05]], [[3, 3, 7]], [1])
    raster = take_snapshot(network, SpikeLoader(split, spec, CPU), spec).rasters["input"]
    assert list(zip(raster.bins.tolist(), raster.units.tolist(), strict=True)) == [(1, 3), (5, 7)]
    assert (raster.n_spikes, raster.n_units) == (3, 12)


@pytest.mark.parametrize("n", [1, 255, 256, 600])
def test_samples_are_spread_over_the_whole_split(n: int):
    network, spec = network_and_spec()
    split = toy_split(n, seed=1)
    chosen: list[int] = []

    class Watched(SpikeLoader):
        def event_batch(self, indices):
            chosen.extend(indices.tolist())
            return super().event_batch(indices)

    take_snapshot(network, Watched(split, spec, CPU), spec)
    assert len(set(chosen)) == len(chosen) == min(n, 256)
    gaps = np.diff([*chosen, n])
    assert chosen[0] == 0
    assert gaps.max() - gaps.min() <= 1


def test_constants_are_shown_as_such_and_not_among_the_weights():
    spec = toy_spec(
        model__hidden=[16, 8],
        model__norm="batch",
        model__neuron__tau_mem_s={"low": 0.01, "high": 0.1, "learned": True},
        model__neuron__threshold={"low": 0.5, "high": 2.0},
    )
    network = build_for(spec, torch.Generator().manual_seed(0))
    snapshot = take_snapshot(network, SpikeLoader(toy_split(20, seed=1), spec, CPU), spec)
    assert list(snapshot.weights) == [
        *("input to hidden1", "factor of hidden1", "shift of hidden1"),
        *("hidden1 to hidden2", "factor of hidden2", "shift of hidden2"),
        "hidden2 to readout",
    ]
    assert snapshot.delays_s == {}
    assert {name: len(c["threshold"].values) for name, c in snapshot.constants.items()} == {
        "hidden1": 16,
        "hidden2": 8,
    }
    tau, threshold = (snapshot.constants["hidden2"][name] for name in ("tau_mem_s", "threshold"))
    assert (tau.low, tau.high, tau.learned, threshold.learned) == (0.01, 0.1, True, False)
    assert tau.logarithmic
    assert isinstance(network, SpikingNetwork)
    layer = network.layers[1]
    assert isinstance(layer, SpikingLayer)
    for name, values in (("tau_mem_s", tau.values), ("threshold", threshold.values)):
        np.testing.assert_array_equal(values, layer.constants[name].detach())


def test_delays_of_a_layer_that_has_them_go_by_their_connection():
    class Delayed(SpikingLayer):
        delays_s: torch.Tensor | None = None

    network, spec = network_and_spec()
    second = network.layers[1]
    second.__class__ = Delayed
    second.delays_s = torch.rand(8, 16)
    delays = take_snapshot(network, SpikeLoader(toy_split(20, seed=1), spec, CPU), spec).delays_s
    assert list(delays) == ["hidden1 to hidden2"]
    np.testing.assert_array_equal(delays["hidden1 to hidden2"], second.delays_s)


def test_activity_is_the_mean_rate_of_a_unit_in_every_bin():
    network, spec = network_and_spec()
    loader = SpikeLoader(toy_split(20, seed=1), spec, CPU)
    snapshot = take_snapshot(network, loader, spec)
    batch = loader.batch(torch.arange(20))
    with torch.no_grad():
        spikes = dict(zip(("hidden1", "hidden2"), network.hidden_spikes(batch.spikes), strict=True))
    for name, of_layer in {"input": batch.spikes, **spikes}.items():
        expected = [float(of_layer[n].sum()) / 20 / of_layer.shape[2] / 0.01 for n in range(20)]
        np.testing.assert_allclose(snapshot.activity_hz[name], expected, rtol=1e-6)
        if name != "input":
            # the same spikes, counted another way
            assert snapshot.activity_hz[name].mean() == pytest.approx(
                snapshot.rates_hz[name].mean()
            )


def test_any_sample_may_be_the_raster_and_changes_nothing_else():
    network, spec = network_and_spec()
    loader = SpikeLoader(toy_split(300, seed=1), spec, CPU)
    first = take_snapshot(network, loader, spec)
    spread = set((torch.arange(256) * 300 // 256).tolist())
    for sample in (5, next(i for i in range(300) if i not in spread), 299):
        snapshot = take_snapshot(network, loader, spec, sample)
        assert snapshot.sample == sample
        for name in ("hidden1", "hidden2"):
            np.testing.assert_allclose(snapshot.rates_hz[name], first.rates_hz[name])
            np.testing.assert_allclose(snapshot.activity_hz[name], first.activity_hz[name])
        batch = loader.batch(torch.tensor([sample]))
        with torch.no_grad():
            (spikes, _), logits = network.hidden_spikes(batch.spikes), network(batch.spikes).logits
        raster = snapshot.rasters["hidden1"]
        places = list(zip(raster.bins.tolist(), raster.units.tolist(), strict=True))
        assert places == [tuple(place) for place in spikes[:, 0].nonzero().tolist()]
        assert places
        assert snapshot.predicted == int(logits.argmax())
        assert snapshot.rasters["input"].n_spikes == int(batch.spikes.sum())


def test_a_network_without_hidden_layers_has_a_snapshot():
    class Rates(torch.nn.Module):
        """A linear map of spike counts: what the snapshot needs of a network, and no spike."""

        layer_names: ClassVar[list[str]] = []

        def __init__(self):
            super().__init__()
            self.readout = torch.nn.Linear(12, 3)

        def forward(self, batch):
            counts = torch.stack(
                [
                    torch.bincount(batch.channels[slice(*ends)].int(), minlength=12).float()
                    for ends in pairwise(batch.indptr[:: batch.n_steps].tolist())
                ]
            )
            return NetworkOutput(self.readout(counts), ())

    _, spec = network_and_spec()
    network: Any = Rates()
    snapshot = take_snapshot(network, SpikeLoader(toy_split(20, seed=1), spec, CPU), spec)
    assert set(snapshot.weights) == {"readout.weight", "readout.bias"}
    assert (snapshot.rates_hz, snapshot.constants, snapshot.delays_s) == ({}, {}, {})
    assert list(snapshot.rasters) == list(snapshot.activity_hz) == ["input"]
