"""Networks without spiking neurons against their equations, and in training, evaluation and reports."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnbench.checkpoint import build_for, load_network
from snnbench.data_prep.loader import SpikeLoader
from snnbench.errors import SnnbenchError
from snnbench.evaluate import predict_loader
from snnbench.explain import explain
from snnbench.memory import estimate_memory, require_memory
from snnbench.models.baselines import ConvolutionalNetwork, CountsNetwork, LstmNetwork
from snnbench.models.network_base import Network
from snnbench.profiling import Profile
from snnbench.sizes import count_operations, layer_sizes
from snnbench.snapshot import take_snapshot
from snnbench.spec import RunSpec
from snnbench.train import fit
from tests.test_train import assert_resumed_is_bit_identical
from tests.toy_spikes import toy_spec, toy_split

CPU = torch.device("cpu")
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("lstm", {}),
    ("lstm", {"hidden": [7, 5], "reduce": "last", "dropout": 0.3}),
    ("lstm", {"hidden": [7, 5], "bidirectional": True, "reduce": "mean"}),
    ("cnn", {"dropout": 0.3}),
    ("cnn", {"kernel": [5, 3], "stride": [3, 1], "norm": "none"}),
    ("cnn", {"kernel": [3], "stride": [2]}),
    ("counts-linear", {}),
    ("counts-linear", {"time_bins": 20, "channel_bins": 5, "log": False}),
]
every_model = pytest.mark.parametrize(("name", "model"), MODELS, ids=str)


def spec_of(name: str, model: dict[str, Any], **more: Any) -> RunSpec:
    return toy_spec(name, **{f"model__{key}": value for key, value in model.items()}, **more)


def network_of(spec: RunSpec, seed: int = 0) -> Network:
    return build_for(spec, torch.Generator().manual_seed(seed))


def poisson(*shape: int, seed: int = 0) -> Tensor:
    return torch.poisson(torch.full(shape, 0.7), generator=torch.Generator().manual_seed(seed))


# --- what they compute


def lstm_by_hand(weights: Mapping[str, Tensor], inputs: Tensor, suffix: str = "") -> list[Tensor]:
    """H of one sample in all steps, from inputs of shape (time, input)."""
    w, v, b_in, b_own = (
        weights[f"{kind}_l0{suffix}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    n_units = v.shape[1]
    hidden, cell, sent = torch.zeros(n_units), torch.zeros(n_units), []
    for x in inputs:
        i, f, g, o = (w @ x + b_in + v @ hidden + b_own).split(n_units)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        sent.append(hidden)
    return sent


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("reduce", ["max", "last", "mean"])
def test_an_lstm_follows_its_equations(bidirectional: bool, reduce: str):
    model = {"hidden": [5], "bidirectional": bidirectional, "reduce": reduce}
    network = network_of(spec_of("lstm", model))
    assert isinstance(network, LstmNetwork)
    inputs = poisson(6, 2, 12)
    given = network(inputs).logits
    weights = dict(network.layers[0].get_submodule("lstm").named_parameters())
    for sample in range(2):
        ahead = lstm_by_hand(weights, inputs[:, sample])
        sent, at_end = torch.stack(ahead), ahead[-1]
        if bidirectional:
            back = lstm_by_hand(weights, inputs[:, sample].flip(0), "_reverse")
            sent = torch.cat([sent, torch.stack(back).flip(0)], dim=1)
            at_end = torch.cat([at_end, back[-1]])
        a, bias = network.readout.weight, network.readout.bias
        values = sent @ a.T + bias
        expected = {
            "max": values.max(dim=0).values,
            "mean": values.mean(dim=0),
            "last": a @ at_end + bias,
        }[reduce]
        torch.testing.assert_close(given[sample], expected, rtol=1e-4, atol=1e-5)


def test_gates_of_an_lstm_begin_open_to_what_it_holds():
    network = network_of(spec_of("lstm", {"hidden": [9], "bidirectional": True}))
    parameters = dict(network.named_parameters())
    for suffix in ("", "_reverse"):
        biases = [parameters[f"layers.0.lstm.bias_{way}_l0{suffix}"] for way in ("ih", "hh")]
        total = sum(biases[1:], biases[0])
        assert torch.equal(total[9:18], torch.ones(9))
        others = torch.cat([b[part] for b in biases for part in (slice(9), slice(18, 36))])
        assert 0 < others.abs().max() <= 1 / 3
    drawn = parameters["layers.0.lstm.weight_ih_l0"]
    assert 0.9 / 3 < drawn.abs().max() <= 1 / 3


@pytest.mark.parametrize("over", ["time", "both"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_convolution_by_brute_force(over: str, norm: str):
    sizes: dict[str, Any] = {"kernel": [3], "stride": [2]}
    if over == "both":
        sizes = {"kernel": [3, 5], "stride": [2, 3]}
    network = network_of(spec_of("cnn", {"channels": [4], "norm": norm, **sizes}))
    assert isinstance(network, ConvolutionalNetwork)
    network.eval()
    inputs = poisson(7, 2, 12)
    parameters = dict(network.named_parameters())
    kernel = parameters["layers.0.0.weight"].detach()
    n_steps, places = 4, 1 if over == "time" else 4
    maps = torch.zeros(2, 4, n_steps, places)
    for b, m, n, c in itertools.product(range(2), range(4), range(n_steps), range(places)):
        total = 0.0 if norm == "batch" else parameters["layers.0.0.bias"][m].item()
        for dn in range(3):
            for dc in range(12 if over == "time" else 5):
                at, channel = 2 * n + dn - 1, dc if over == "time" else 3 * c + dc - 2
                if 0 <= at < 7 and 0 <= channel < 12:
                    w = kernel[m, dc, dn, 0] if over == "time" else kernel[m, 0, dn, dc]
                    total += float(w) * float(inputs[at, b, channel])
        # running mean 0 and variance 1 before training
        maps[b, m, n, c] = max(total / (math.sqrt(1 + 1e-5) if norm == "batch" else 1), 0.0)
    features = maps.mean(dim=2).flatten(1)
    expected = features @ network.readout.weight.T + network.readout.bias
    torch.testing.assert_close(network(inputs).logits, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_counts_by_brute_force(time_bins: int, channel_bins: int, log: bool, seed: int):
    model = {"time_bins": time_bins, "channel_bins": channel_bins, "log": log}
    network = network_of(spec_of("counts-linear", model), seed)
    assert isinstance(network, CountsNetwork)
    inputs = poisson(9, 2, 12, seed=seed)
    counts = np.zeros((2, time_bins, channel_bins))
    for n, b, c in itertools.product(range(9), range(2), range(12)):
        counts[b, n * time_bins // 9, c * channel_bins // 12] += float(inputs[n, b, c])
    assert counts.sum() == float(inputs.sum())
    features = np.log(1 + counts) if log else counts
    weight, bias = (p.detach().numpy() for p in (network.readout.weight, network.readout.bias))
    expected = features.reshape(2, -1) @ weight.T + bias
    np.testing.assert_allclose(
        network(inputs).logits.detach().numpy(), expected, rtol=1e-4, atol=1e-5
    )


@every_model
def test_events_and_dense_counts_are_the_same(name: str, model: dict[str, Any]):
    spec = spec_of(name, model)
    network = network_of(spec).eval()
    loader = SpikeLoader(toy_split(6, seed=1), spec, CPU)
    indices = torch.arange(6)
    given = network(loader.event_batch(indices))
    assert torch.equal(given.logits, network(loader.batch(indices).spikes).logits)
    assert given.spike_counts == () == tuple(network.hidden_spikes(loader.event_batch(indices)))


@every_model
def test_weights_and_dropout_come_from_the_given_generators(name: str, model: dict[str, Any]):
    spec, state = spec_of(name, model), torch.get_rng_state()
    one, same, other = (network_of(spec, seed) for seed in (1, 1, 2))
    for a, b, c in zip(one.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.dim() == 1 or not torch.equal(a, c)
    inputs = poisson(20, 8, 12)
    noisy = [one(inputs, torch.Generator().manual_seed(seed)).logits for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert torch.equal(noisy[0], noisy[2]) == (not model.get("dropout"))
    assert torch.equal(state, torch.get_rng_state())


# --- what is told of them


@every_model
def test_sizes_are_those_of_the_network(name: str, model: dict[str, Any]):
    spec = spec_of(name, model)
    network = network_of(spec)
    sizes = layer_sizes(spec)
    assert sizes == network.layer_sizes()
    assert sum(size.n_parameters for size in sizes) == network.n_parameters
    assert [size.name for size in sizes] == [part for part, _ in network.parts]
    told = explain(spec)
    assert sum(layer["parameters"] for layer in told["layers"]) == network.n_parameters
    assert told["memory"]["total"] > 0
    assert told["per_sample"]["spikes"] == {}
    assert network.layer_names == []


@every_model
def test_multiply_accumulates_are_those_of_the_modules(name: str, model: dict[str, Any]):
    spec = spec_of(name, model)
    network = network_of(spec)
    done = []

    def count(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if isinstance(module, torch.nn.Linear):
            done.append(output.numel() * module.in_features)
        elif isinstance(module, torch.nn.Conv2d):
            done.append(output.numel() * module.weight[0].numel())
        elif isinstance(module, torch.nn.LSTM):
            matrices = [p.numel() for n, p in module.named_parameters() if n.startswith("weight")]
            done.append(inputs[0].shape[0] * inputs[0].shape[1] * sum(matrices))

    for module in network.modules():
        module.register_forward_hook(count)
    network(poisson(20, 2, 12))
    work = count_operations(layer_sizes(spec), n_steps=20, input_spikes=240, hidden_spikes=[])
    assert work.dense_macs == sum(done) / 2
    # with one spike at every place of the input, the first layer does all it can
    first = layer_sizes(spec)[0]
    if len(done) > 1:
        assert work.effective_acs == pytest.approx(
            first.macs(20) - first.runs(20) * first.n_recurrent_weights
        )
    else:
        assert (
            work.effective_acs == 240 * 3
        )  # every spike is in one count, every count in three sums


@every_model
def test_autograd_holds_what_is_estimated(name: str, model: dict[str, Any]):
    spec = spec_of(name, model)
    if name == "lstm":
        pytest.skip("oneDNN reserves more than it uses; test_memory.py measures it")
    network = network_of(spec)
    batch = SpikeLoader(toy_split(32, seed=1), spec, CPU).event_batch(torch.arange(32))
    own = {p.data_ptr() for p in network.parameters()}
    held: dict[int, int] = {}

    def hold(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own and tensor.dim() in (2, 4):
            held[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        network(batch, torch.Generator().manual_seed(0))
    estimated = sum(estimate_memory(spec, input_spikes=48).activations.values())
    assert sum(held.values()) == pytest.approx(estimated, rel=0.2)


# --- what is done with them


@every_model
def test_learns_round_trips_and_ignores_the_batch(name: str, model: dict[str, Any], tmp_path: Path):
    if name == "counts-linear" and not model:
        model = {"time_bins": 5}
    spec = spec_of(name, model, train__epochs=12)
    profile = Profile()
    result = fit(
        spec,
        toy_split(120, seed=1),
        toy_split(40, seed=2),
        folder=tmp_path,
        device=CPU,
        profile=profile,
    )
    assert result.network is not None
    unseen = toy_split(100, seed=3)
    loader = SpikeLoader(unseen, spec, CPU)
    evaluation = predict_loader(result.network, loader)
    # chance is 33 of 100; 60 would be a one in ten million accident
    assert (evaluation.predictions == unseen.labels).sum() > 60
    assert evaluation.operations.spikes == {}
    network, saved = load_network(tmp_path / "model.safetensors")
    assert saved == spec
    for batch_size in (256, 7):
        again = predict_loader(network, loader, batch_size)
        np.testing.assert_array_equal(again.predictions, evaluation.predictions)
        assert again.operations == evaluation.operations
    assert (tmp_path / "history.csv").read_text().splitlines()[0] == (
        "epoch,loss,train_accuracy,valid_accuracy,events_per_s,train_seconds,seconds"
    )
    names = [part for part, _ in network.parts]
    regions = {part.name for part in profile.parts}
    assert {f"{way}, {part}" for way in ("forward", "backward") for part in names} <= regions
    look = take_snapshot(network, loader, spec)
    assert (look.rates_hz, list(look.rasters)) == ({}, ["input"])
    assert set(look.weights) == {parameter for parameter, _ in network.named_parameters()}


@pytest.mark.parametrize(("name", "model"), [MODELS[1], MODELS[3], MODELS[6]], ids=str)
def test_goes_on_with_the_same_bits(name: str, model: dict[str, Any], tmp_path: Path):
    spec = spec_of(name, model, train__epochs=3, train__ema_decay=0.9)
    assert_resumed_is_bit_identical(spec, tmp_path, stop_after=1)


def test_no_stretches_are_advised_where_there_are_none():
    spec = spec_of("lstm", {"hidden": [100_000]}, train__batch_size=1_000_000)
    with pytest.raises(SnnbenchError, match=r"take a smaller train\.batch_size") as caught:
        require_memory(estimate_memory(spec, input_spikes=48), spec, CPU)
    assert "recompute" not in str(caught.value)
