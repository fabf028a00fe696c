"""Readout, layers, whole networks, activity regularisers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from snnbench.models.layers import SpikingLayer, initial_weight
from snnbench.models.network import SpikingNetwork, build
from snnbench.models.readout import LeakyReadout
from snnbench.models.regularise import activity_loss
from snnbench.seeding import deterministic, make_generator
from snnbench.spec import ActivitySpec, ModelSpec, NeuronSpec, ReadoutSpec

DT_S = 10e-3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(n_inputs: int = 6, n_outputs: int = 3, seed: int = 0, **fields: object) -> SpikingNetwork:
    spec = ModelSpec.model_validate({"name": "test", "hidden": (8,), "input_gain": 4.0, **fields})
    return build(spec, n_inputs, n_outputs, DT_S, generator(seed))


def random_input(steps: int = 40, batch: int = 5, channels: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.poisson(torch.full((steps, batch, channels), 0.4), generator=generator(seed))


def test_readout_equals_its_equations_step_by_step():
    readout = LeakyReadout(4, 3, ReadoutSpec(), DT_S, generator())
    spikes = random_input(30, 2, 4)
    current, membrane, expected = torch.zeros(2, 3), torch.zeros(2, 3), []
    for s in spikes:
        expected.append(membrane)
        current, membrane = (
            readout.alpha * current + s @ readout.weight.t(),
            readout.beta * membrane + current,
        )
    stacked = torch.stack(expected)
    torch.testing.assert_close(readout.membranes(spikes), stacked, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(readout(spikes), stacked.amax(dim=0), rtol=1e-5, atol=1e-6)


def test_gradient_reaches_only_what_the_largest_step_saw():
    readout = LeakyReadout(1, 1, ReadoutSpec(), DT_S, generator())
    with torch.no_grad():
        readout.weight.fill_(1.0)
    spikes = torch.zeros(12, 1, 1)
    spikes[2] = 1.0
    spikes.requires_grad_()
    membranes = readout.membranes(spikes)
    last = int(membranes.argmax())
    assert 0 < last < 11
    membranes.max(dim=0).values.sum().backward()
    assert spikes.grad is not None
    # the step at n sees spikes up to n - 2, weighted by the response to them; later ones not at all
    response = readout.membranes(torch.eye(12)[:, :1, None]).detach().flatten()
    expected = [float(response[last - m]) if m <= last else 0.0 for m in range(12)]
    assert spikes.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert expected[last - 1 :] == [0.0] * (13 - last)


def test_a_tie_over_time_gives_the_gradient_to_one_step():
    readout = LeakyReadout(1, 1, ReadoutSpec(), DT_S, generator())
    with torch.no_grad():
        readout.weight.fill_(1.0)
    # two equal spikes far apart in a readout that forgets at once
    readout.alpha, readout.beta = 0.0, 0.0
    spikes = torch.zeros(12, 1, 1)
    spikes[2], spikes[8] = 1.0, 1.0
    spikes.requires_grad_()
    readout(spikes).sum().backward()
    assert spikes.grad is not None
    assert sorted(spikes.grad.flatten().tolist()) == [0.0] * 11 + [1.0]


def test_initial_response_area_does_not_depend_on_the_bin_width():
    taus = {"tau_mem_s": 20e-3, "tau_syn_s": 10e-3}
    areas = []
    for dt_s in (1e-3, 5e-3, 10e-3):
        weight = initial_weight(50, 40, gain=2.0, dt_s=dt_s, generator=generator(), **taus)
        alpha, beta = np.exp(-dt_s / 10e-3), np.exp(-dt_s / 20e-3)
        areas.append(weight.detach() * dt_s / ((1 - alpha) * (1 - beta)))
    torch.testing.assert_close(areas[0], areas[1])
    torch.testing.assert_close(areas[0], areas[2])
    bound = 2.0 / np.sqrt(40) * 20e-3
    assert 0.98 * bound < float(areas[0].abs().max()) <= bound


@pytest.mark.parametrize("recurrent", [False, True])
def test_initial_rates_are_reasonable_for_every_bin_width(recurrent: bool):
    # as many spikes as a spoken digit through the cochlea: 7,600 in 0.7 s over 140 channels, unevenly
    rng = np.random.default_rng(0)
    profile = rng.gamma(0.7, size=140)
    for dt_s in (2e-3, 5e-3, 10e-3, 14e-3):
        n = round(0.7 / dt_s)
        counts = rng.poisson(7600 / n * profile / profile.sum(), size=(n, 8, 140))
        spec = ModelSpec(
            name="test",
            recurrent=recurrent,
            neuron=NeuronSpec(tau_syn_s=14e-3),
            readout=ReadoutSpec(tau_syn_s=14e-3),
        )
        network = build(spec, 140, 20, dt_s, generator())
        with torch.no_grad():
            output = network(torch.from_numpy(counts).float())
        assert 2 < float(output.spike_counts[0].mean()) / 0.7 < 50


def test_time_constants_become_decays_of_the_real_bin():
    layer = make(neuron={"tau_mem_s": 0.02, "tau_syn_s": 0.01}).layers[0]
    assert isinstance(layer, SpikingLayer)
    assert layer.neuron.alpha == pytest.approx(np.exp(-1))
    assert layer.neuron.beta == pytest.approx(np.exp(-0.5))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("hidden", [(8,), (8, 5)])
def test_every_weight_gets_a_gradient(recurrent: bool, hidden: tuple[int, ...]):
    network = make(hidden=hidden, recurrent=recurrent, surrogate={"slope": 5.0})
    network(random_input()).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


def test_counts_are_the_sums_of_the_spikes():
    network = make(hidden=(8, 5), recurrent=True)
    spikes = random_input()
    output = network(spikes)
    hidden = network.hidden_spikes(spikes)
    assert [h.shape for h in hidden] == [(40, 5, 8), (40, 5, 5)]
    for counts, layer in zip(output.spike_counts, hidden, strict=True):
        assert counts.sum() > 0
        assert torch.equal(counts, layer.sum(dim=0))


def test_same_seed_same_weights_another_seed_others():
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_number_of_parameters():
    assert make(hidden=(8,)).n_parameters == 6 * 8 + 8 * 3
    assert make(hidden=(8, 5), recurrent=True).n_parameters == 48 + 64 + 40 + 25 + 15


def test_dropout_silences_units_for_a_whole_sample_and_keeps_the_mean():
    network = make(n_inputs=6, hidden=(400,), dropout=0.25)
    spikes = random_input(30, 20, 6)
    (full,) = network(spikes).spike_counts
    (dropped,) = network(spikes, generator(3)).spike_counts
    active = full > 0
    kept = dropped[active] > 0
    assert abs(float(kept.float().mean()) - 0.75) < 0.03
    torch.testing.assert_close(dropped[active][kept], full[active][kept] / 0.75)


def test_without_a_generator_nothing_is_dropped():
    network = make(dropout=0.9)
    spikes = random_input()
    assert torch.equal(network(spikes).logits, network(spikes).logits)


def test_silence_gives_zero_logits():
    output = make()(torch.zeros(20, 2, 6))
    assert not output.logits.any()
    assert not output.spike_counts[0].any()


def test_activity_loss_by_hand():
    # layer 1: unit means 0 and 4; layer 2: unit means 10
    counts = [torch.tensor([[0.0, 3.0], [0.0, 5.0]]), torch.tensor([[8.0], [12.0]])]
    spec = ActivitySpec(lower_strength=2.0, lower=1.0, upper_strength=0.5, upper=7.0)
    lower = 2.0 * (1.0**2 + 0) / 2
    upper = 0.5 * (10.0 - 7.0) ** 2
    assert float(activity_loss(counts, spec)) == pytest.approx(lower + upper)
    assert float(activity_loss(counts, ActivitySpec())) == 0.0


def test_streams_of_a_seed_are_independent_and_repeatable():
    draws = {
        (seed, stream): torch.rand(3, generator=make_generator(seed, stream)).tolist()
        for seed in (0, 1)
        for stream in ("init", "order", "dropout")
    }
    assert len({tuple(d) for d in draws.values()}) == 6
    assert torch.rand(3, generator=make_generator(0, "init")).tolist() == draws[0, "init"]


def test_deterministic_mode_ends_with_its_block():
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        with deterministic():
            assert torch.are_deterministic_algorithms_enabled()
            raise KeyError
    except KeyError:
        pass
    assert not torch.are_deterministic_algorithms_enabled()
