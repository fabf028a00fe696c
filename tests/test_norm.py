"""Normalisation of what reaches a layer: batch and layer, in training, in evaluation and on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnbench.checkpoint import build_for, load_network, save_network
from snnbench.connection_spec import Connections
from snnbench.data_prep.loader import SpikeLoader
from snnbench.evaluate import predict, predict_loader
from snnbench.model_spec import ModelSpec
from snnbench.models.layers import BatchNorm, SpikingLayer
from snnbench.models.network import SpikingNetwork, build
from snnbench.train import fit
from tests.scan_cases import CPU_ENGINES, as_events
from tests.toy_spikes import toy_spec, toy_split

CPU = torch.device("cpu")
MOMENTUM = 0.05

engines = pytest.mark.parametrize("engine", CPU_ENGINES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(norm: str, engine: Any = "auto", **fields: Any) -> SpikingNetwork:
    spec = ModelSpec.model_validate(
        {
            "name": "test",
            "hidden": (8, 5),
            "recurrent": True,
            "input_gain": 2.0,
            "surrogate": {"slope": 5.0},
            "norm": norm,
            **fields,
        }
    )
    network = build(spec, 6, 3, 10e-3, generator())
    network.engine = engine
    return network


def random_input(seed: int = 1) -> Tensor:
    return torch.poisson(torch.full((40, 5, 6), 0.4), generator=generator(seed))


def normed(drive: Tensor, mean: Tensor, variance: Tensor, gain: float) -> Tensor:
    return gain * (drive - mean) / (variance + 1e-5).sqrt()


def first_gain(layer: SpikingLayer) -> float:
    p = layer.cell.parameters
    return float(2.0 * (1 - p.alpha) * (1 - p.beta))


@engines
def test_batch_norm_takes_the_batch_in_training_and_running_figures_after_it(engine: Any):
    network = make("batch", engine)
    layer, inputs = network.spiking_layers[0], random_input()
    drive = inputs @ layer.weight.t()
    mean, variance = drive.mean(dim=(0, 1)), drive.var(dim=(0, 1), unbiased=False)
    assert isinstance(layer.norm, BatchNorm)
    gain = first_gain(layer)
    torch.testing.assert_close(
        layer.norm(drive), normed(drive, mean, variance, gain), rtol=1e-4, atol=1e-5
    )
    # as in PyTorch, the running variance is the unbiased one
    running_mean, running_var = layer.norm.norm.running_mean, layer.norm.norm.running_var
    assert running_mean is not None
    assert running_var is not None
    unbiased = drive.var(dim=(0, 1), unbiased=True)
    torch.testing.assert_close(running_mean, MOMENTUM * mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        running_var, 1 - MOMENTUM + MOMENTUM * unbiased, rtol=1e-4, atol=1e-6
    )
    network.eval()
    expected = normed(drive, running_mean, running_var, gain)
    torch.testing.assert_close(layer.norm(drive), expected, rtol=1e-4, atol=1e-5)


@engines
@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_receives_its_normalised_drive(norm: str, training: bool, engine: Any):
    network = make(norm, engine)
    layer, inputs = network.spiking_layers[0], as_events(random_input())
    assert layer.norm is not None
    for _ in range(100):  # until running figures are those of the data
        layer.norm(random_input(2) @ layer.weight.detach().t())
    network.train(training)
    drive = random_input() @ layer.weight.t()
    dim = (0, 1) if norm == "batch" else 2
    mean = drive.mean(dim=dim, keepdim=norm == "layer")
    variance = drive.var(dim=dim, keepdim=norm == "layer", unbiased=False)
    if norm == "batch" and not training:
        assert isinstance(layer.norm, BatchNorm)
        assert layer.norm.norm.running_mean is not None
        assert layer.norm.norm.running_var is not None
        mean, variance = layer.norm.norm.running_mean, layer.norm.norm.running_var
    plain = SpikingLayer(
        Connections(6, 8, None, recurrent=True, around=None),
        ModelSpec(name="test", input_gain=2.0),
        10e-3,
        generator(),
    )
    with torch.no_grad():
        assert plain.recurrent_weight is not None
        assert layer.recurrent_weight is not None
        plain.recurrent_weight.copy_(layer.recurrent_weight)
    expected = plain(
        normed(drive, mean, variance, first_gain(layer)),
        weight=None,
        engine=engine,
        keep_membranes=True,
    )
    found = layer(inputs, weight=layer.weight, engine=engine, keep_membranes=True)
    assert expected.counts.sum() > 0
    torch.testing.assert_close(found.membranes, expected.membranes, rtol=1e-3, atol=1e-4)


@engines
@pytest.mark.parametrize("reduce", ["max", "softmax-sum"])
def test_a_readout_integrates_its_normalised_drive(reduce: str, engine: Any):
    network = make("none", engine, readout={"norm": "batch", "reduce": reduce})
    plain = make("none", engine, readout={"reduce": reduce})
    readout, others = network.readout, plain.readout
    torch.testing.assert_close(others.weight, readout.weight, rtol=0, atol=0)
    drive = torch.randn(40, 5, 3, generator=generator()) + torch.tensor([0.0, 1.0, -2.0])
    mean, variance = drive.mean(dim=(0, 1)), drive.var(dim=(0, 1), unbiased=False)
    gain = float(np.prod([1 - p for p in readout.cell.parameters]))
    expected = others(normed(drive, mean, variance, gain), engine=engine).partial
    torch.testing.assert_close(
        readout(drive, engine=engine).partial, expected, rtol=1e-3, atol=1e-4
    )
    # a drive of one deviation, for long, is a membrane of 1
    lasting = others(torch.full((500, 1, 3), gain), engine=engine)
    torch.testing.assert_close(lasting.state.membrane, torch.ones(1, 3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_lasting_drive_of_one_deviation_brings_the_membrane_to_the_gain(norm: str):
    # of a LIF neuron that does not spike: D / ((1 - alpha) (1 - beta))
    network = make(norm, hidden=(8,), recurrent=False, neuron={"threshold": 1e6})
    layer = network.spiking_layers[0]
    drive = torch.ones(400, 1, 8) * first_gain(layer)
    membranes = SpikingLayer.forward(
        make("none", hidden=(8,), recurrent=False, neuron={"threshold": 1e6}).spiking_layers[0],
        drive,
        weight=None,
        keep_membranes=True,
    ).membranes
    assert membranes[-1, 0].tolist() == pytest.approx([2.0] * 8, rel=1e-4)
    assert isinstance(layer.norm, BatchNorm | nn.LayerNorm)
    inner = layer.norm.norm if isinstance(layer.norm, BatchNorm) else layer.norm
    assert inner.weight.tolist() == pytest.approx([first_gain(layer)] * 8)


@engines
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_everything_learns_and_engines_agree(norm: str, engine: Any):
    network, reference = make(norm, engine), make(norm, "reference")
    for each in (network, reference):
        each(as_events(random_input())).logits.square().sum().backward()
    expected = dict(reference.named_parameters())
    for name, parameter in network.named_parameters():
        theirs = expected[name].grad
        assert parameter.grad is not None
        assert theirs is not None
        assert parameter.grad.abs().sum() > 0, name
        torch.testing.assert_close(
            parameter.grad, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max())
        )


def test_layer_norm_in_stretches_is_the_same():
    network = make("layer")
    whole = network(random_input()).logits
    network.recompute_steps = 7
    torch.testing.assert_close(network(random_input()).logits, whole, rtol=1e-5, atol=1e-6)


def test_running_figures_are_in_the_checkpoint(tmp_path: Path):
    spec = toy_spec("rec-lif", model__norm="batch")
    network = build_for(spec, generator())
    split = toy_split(20, seed=3)
    loader = SpikeLoader(split, spec, CPU)
    for _ in range(3):
        network(loader.event_batch(torch.arange(20)))
    save_network(tmp_path / "w.safetensors", network, spec)
    loaded, _ = load_network(tmp_path / "w.safetensors")
    kept = network.state_dict()
    names = [n for n in kept if "running" in n]
    assert len(names) == 2
    for name in names:
        assert torch.equal(loaded.state_dict()[name], kept[name])
        assert not torch.equal(build_for(spec, generator()).state_dict()[name], kept[name])
    network.eval()
    loaded.eval()
    batch = loader.event_batch(torch.arange(20))
    assert torch.equal(loaded(batch).logits, network(batch).logits)


def test_evaluation_gathers_no_figures_and_does_not_depend_on_the_batch():
    spec = toy_spec("rec-lif", model__norm="batch")
    network = build_for(spec, generator())
    split = toy_split(40, seed=3)
    network(SpikeLoader(split, spec, CPU).event_batch(torch.arange(20)))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    together = predict(network, split, spec, CPU)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    apart = predict_loader(network, SpikeLoader(split, spec, CPU), batch_size=7)
    assert (together.predictions == apart.predictions).all()
    assert together.operations.spikes == pytest.approx(apart.operations.spikes)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_normalised_network_learns_and_is_read_back(norm: str, tmp_path: Path):
    spec = toy_spec("rec-lif", model__norm=norm, train__epochs=6)
    train, valid = toy_split(64, seed=1), toy_split(32, seed=2)
    fit(spec, train, valid, folder=tmp_path, device=CPU)
    [weights] = [p for p in tmp_path.glob("*.safetensors") if "best" in p.name or "model" in p.name]
    network, _ = load_network(weights)
    correct = (predict(network, valid, spec, CPU).predictions == valid.labels).mean()
    assert correct > 0.6
