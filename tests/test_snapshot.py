"""Snapshots of a network: its own weights, rates as spikes per second, spikes where they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from snnbench.checkpoint import build_for
from snnbench.data_prep.loader import SpikeLoader
from snnbench.models.network import SpikingNetwork
from snnbench.snapshot import take_snapshot
from snnbench.spec import RunSpec
from tests.toy_spikes import split_from_samples, toy_spec, toy_split

CPU = torch.device("cpu")


def network_and_spec() -> tuple[SpikingNetwork, RunSpec]:
    spec = toy_spec(model__hidden=[16, 8], model__recurrent=True, model__input_gain=6.0)
    network = build_for(spec, torch.Generator().manual_seed(0))
    assert isinstance(network, SpikingNetwork)
    return network, spec


def test_weights_are_named_by_what_they_connect():
    network, spec = network_and_spec()
    weights = take_snapshot(network, SpikeLoader(toy_split(20, seed=1), spec, CPU), 0.2).weights
    assert {name: len(w) for name, w in weights.items()} == {
        "input to hidden1": 12 * 16,
        "within hidden1": 16 * 16,
        "hidden1 to hidden2": 16 * 8,
        "within hidden2": 8 * 8,
        "hidden2 to readout": 8 * 3,
    }
    state = network.state_dict()
    np.testing.assert_array_equal(
        weights["within hidden2"], state["layers.1.recurrent_weight"].flatten()
    )
    np.testing.assert_array_equal(weights["hidden2 to readout"], state["readout.weight"].flatten())


def test_a_snapshot_keeps_its_weights_while_the_network_trains_on():
    network, spec = network_and_spec()
    weights = take_snapshot(network, SpikeLoader(toy_split(20, seed=1), spec, CPU), 0.2).weights
    before = weights["hidden2 to readout"].copy()
    with torch.no_grad():
        network.readout.weight.add_(1.0)
    np.testing.assert_array_equal(weights["hidden2 to readout"], before)


def test_rates_and_rasters_are_those_of_the_network():
    network, spec = network_and_spec()
    loader = SpikeLoader(toy_split(20, seed=1), spec, CPU)
    snapshot = take_snapshot(network, loader, spec.task.duration_s)
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
    raster = take_snapshot(network, SpikeLoader(split, spec, CPU), 0.2).rasters["input"]
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

    take_snapshot(network, Watched(split, spec, CPU), 0.2)
    assert len(set(chosen)) == len(chosen) == min(n, 256)
    gaps = np.diff([*chosen, n])
    assert chosen[0] == 0
    assert gaps.max() - gaps.min() <= 1
