"""Delays: spikes arrive when they should, kernels and gradients are those of the equations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snnbench.checkpoint import build_for
from snnbench.connection_spec import DelayLineSpec, LearnedDelaySpec
from snnbench.data_prep.loader import SpikeLoader
from snnbench.data_prep.store import SpikeSplit
from snnbench.models.delays import DelayLine, LearnedDelays, delay_positions
from snnbench.models.layers import SpikingLayer
from snnbench.models.network import SpikingNetwork
from snnbench.spec import RunSpec
from snnbench.train import fit, make_optimiser
from tests.scan_cases import CPU_ENGINES, as_events, assert_near
from tests.test_train import assert_resumed_is_bit_identical
from tests.toy_spikes import split_from_samples, toy_spec, toy_split

CPU = torch.device("cpu")
DT_S = 10e-3
LEARNED: dict[str, Any] = {"kind": "learned", "max_s": 0.05}
LINE: dict[str, Any] = {"kind": "fixed", "taps_s": [0.0, 0.02, 0.05]}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learned(
    n_units: int = 3,
    n_in: int = 4,
    n_bins: int = 5,
    dtype: torch.dtype = torch.float64,
    **keys: Any,
) -> LearnedDelays:
    weight = nn.Parameter(torch.randn(n_units, n_in, generator=generator()))
    spec = LearnedDelaySpec(max_s=n_bins * DT_S, **keys)
    return LearnedDelays(weight, spec, DT_S, generator(1)).to(dtype)


def random_spikes(n_steps: int = 12, n_batch: int = 2, n_in: int = 4) -> Tensor:
    return (torch.rand(n_steps, n_batch, n_in, generator=generator(2)) < 0.3).double()


def build(seed: int = 0, **changes: Any) -> tuple[SpikingNetwork, RunSpec]:
    spec = toy_spec(**changes)
    network = build_for(spec, generator(seed))
    assert isinstance(network, SpikingNetwork)
    return network, spec


def layers_of(network: SpikingNetwork) -> list[SpikingLayer]:
    return [layer for layer in network.layers if isinstance(layer, SpikingLayer)]


# ---- learned delays --------------------------------------------------------------------------------


@given(delay=st.floats(0, 5), at=st.integers(0, 11))
@settings(deadline=None, max_examples=40)
def test_in_evaluation_a_spike_arrives_after_its_delay_and_at_no_other_time(delay: float, at: int):
    delays = learned(1, 1).eval()
    with torch.no_grad():
        delays.position.fill_(delay)
        delays.weight.fill_(0.7)
    spikes = torch.zeros(12, 1, 1, dtype=torch.float64)
    spikes[at] = 1.0
    expected = torch.zeros(12, dtype=torch.float64)
    arrives = at + round(delay)
    if arrives < 12:
        expected[arrives] = 0.7
    assert torch.equal(delays(spikes).flatten().detach(), expected)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 1.0])
def test_the_drive_is_that_of_the_equations(share: float):
    delays, spikes = learned(), random_spikes()
    delays.begin_epoch(share)
    sigma, weight, position = delays.sigma, delays.weight.detach(), delays.position.detach()
    expected = torch.zeros(12, 2, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(4):
            d = float(position[i, j])
            bell = [math.exp(-((k - d) ** 2) / (2 * sigma**2)) for k in range(6)]
            for n in range(12):
                for k in range(min(5, n) + 1):
                    tap = float(weight[i, j]) * bell[k] / sum(bell)
                    expected[n, :, i] += tap * spikes[n - k, :, j]
    torch.testing.assert_close(delays(spikes).detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sigma", [100.0, 1.0, 0.23, 1e-3])
def test_a_kernel_sums_to_its_weight_however_narrow(sigma: float):
    delays = learned()
    delays.sigma = sigma
    torch.testing.assert_close(delays.kernel().sum(dim=2), delays.weight, rtol=1e-12, atol=1e-12)


def test_a_narrow_gaussian_is_what_evaluation_takes():
    delays, spikes = learned(), random_spikes()
    delays.sigma = 0.01
    training = delays(spikes)
    position = delays.position.detach()
    assert float((position - position.round()).abs().max()) < 0.49  # no tie
    torch.testing.assert_close(training, delays.eval()(spikes), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_gradients_by_weight_delay_and_spikes(share: float):
    delays = learned(2, 3)
    delays.begin_epoch(share)
    spikes = random_spikes(6, 2, 3).requires_grad_()

    def drive(weight: Tensor, position: Tensor, spikes: Tensor) -> Tensor:
        named = {"weight": weight, "position": position}
        result: Tensor = torch.func.functional_call(delays, named, (spikes,))
        return result

    assert torch.autograd.gradcheck(drive, (delays.weight, delays.position, spikes))


def test_the_gaussian_narrows_in_the_first_quarter_and_then_stays():
    spec = LearnedDelaySpec(max_s=0.25)
    sigmas = [spec.sigma(epoch / 16, DT_S) for epoch in range(16)]
    assert sigmas[0] == 13.0  # half of 26 bins
    assert sigmas[:4] == pytest.approx([13.0 * (0.23 / 13) ** (n / 4) for n in range(4)])
    assert sigmas[4:] == [0.23] * 12
    other = LearnedDelaySpec(max_s=0.25, sigma_start=4.0, sigma_end=1.0, anneal_share=1.0)
    assert [other.sigma(share, DT_S) for share in (0.0, 0.5, 1.0)] == [4.0, 2.0, 1.0]


def test_delays_begin_anywhere_and_are_kept_within_their_bounds():
    delays = learned(100, 100, 25, torch.float32)
    first = delays.position.detach()
    assert 0 <= float(first.min()) < 0.1
    assert 24.9 < float(first.max()) <= 25
    assert float(first.mean()) == pytest.approx(12.5, abs=0.3)
    with torch.no_grad():
        delays.position[0, :3] = torch.tensor([-2.0, 25.5, 13.25])
    delays.constrain()
    assert delays.position[0, :3].tolist() == [0.0, 25.0, 13.25]


# ---- the delay line --------------------------------------------------------------------------------


@given(taps=st.lists(st.integers(0, 14), min_size=1, max_size=4, unique=True))
@settings(deadline=None, max_examples=25)
def test_a_delay_line_is_a_sum_over_taps(taps: list[int]):
    spec = DelayLineSpec(kind="fixed", taps_s=tuple(d * DT_S for d in taps))
    weight = torch.randn(3, len(taps) * 4, generator=generator(), dtype=torch.float64)
    line, spikes = DelayLine(nn.Parameter(weight), spec, DT_S), random_spikes(12)
    expected = torch.zeros(12, 2, 3, dtype=torch.float64)
    for k, d in enumerate(taps):
        for n in range(d, 12):
            for i in range(3):
                for j in range(4):
                    expected[n, :, i] += weight[i, k * 4 + j] * spikes[n - d, :, j]
    found = line(spikes @ line.of_all_taps.t()).detach()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# ---- networks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("delays", [LEARNED, LINE], ids=["learned", "fixed"])
@pytest.mark.parametrize("where", ["all", "input", "hidden"])
def test_delays_are_where_they_are_asked_for(delays: dict[str, Any], where: str):
    network, _ = build(model__hidden=[8, 5, 4], model__delays={**delays, "where": where})
    has = [layer.afferent is not None for layer in layers_of(network)]
    assert has == [where in ("all", "input"), *[where in ("all", "hidden")] * 2]
    assert len(delay_positions(network)) == sum(has) * (delays is LEARNED)


def test_delays_in_seconds_are_those_of_evaluation():
    network, _ = build(model__delays={**LEARNED, "where": "input"}, model__hidden=[16, 8])
    first, second = layers_of(network)
    assert isinstance(first.afferent, LearnedDelays)
    assert first.delays_s is not None
    assert first.delays_s.shape == (16, 12)
    expected = DT_S * first.afferent.position.detach().round()
    torch.testing.assert_close(first.delays_s, expected)
    assert second.delays_s is None


@pytest.mark.parametrize("delays", [LEARNED, LINE], ids=["learned", "fixed"])
def test_initial_weights_have_the_scale_of_their_fan_in(delays: dict[str, Any]):
    (plain,) = layers_of(build(model__hidden=[200])[0])
    (delayed,) = layers_of(build(model__hidden=[200], model__delays=delays)[0])
    assert delayed.afferent is not None
    fewer = math.sqrt(len(delays.get("taps_s", [0])))
    found = float(delayed.afferent.weight.detach().abs().max())
    assert found == pytest.approx(float(plain.weight.detach().abs().max()) / fewer, rel=0.01)


@pytest.mark.parametrize("delays", [LEARNED, LINE], ids=["learned", "fixed"])
@pytest.mark.parametrize("engine", [e for e in CPU_ENGINES if e != "reference"])
def test_engines_agree_on_a_network_with_delays(delays: dict[str, Any], engine: Any):
    network, _ = build(
        model__hidden=[16, 8], model__delays=delays, model__recurrent=True, model__input_gain=20.0
    )
    spikes = torch.poisson(torch.full((20, 5, 12), 0.4), generator=generator(3))
    found: dict[str, Any] = {}
    runs: list[tuple[Any, Any]] = [("reference", spikes), (engine, as_events(spikes))]
    for name, inputs in runs:
        network.engine = name
        network.zero_grad()
        output = network(inputs)
        nn.functional.cross_entropy(output.logits, torch.arange(5) % 3).backward()
        grads = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        found[name] = output, grads
    (truth, gradients), (output, others) = found["reference"], found[engine]
    assert all(float(counts.detach().sum()) > 20 for counts in truth.spike_counts)
    assert gradients.keys() == dict(network.named_parameters()).keys()
    for one, two in zip(truth.spike_counts, output.spike_counts, strict=True):
        assert torch.equal(one, two)
    assert_near("logits", output.logits.detach(), truth.logits.detach(), 1e-4)
    for name, gradient in gradients.items():
        assert_near(name, others[name], gradient, 1e-4)


def test_hidden_spikes_are_those_that_are_counted():
    network, spec = build(model__hidden=[16, 8], model__delays=LEARNED, model__input_gain=20.0)
    batch = SpikeLoader(toy_split(5, seed=1), spec, CPU).event_batch(torch.arange(5))
    output, hidden = network(batch, generator(4)), network.hidden_spikes(batch, generator(4))
    for counts, spikes in zip(output.spike_counts, hidden, strict=True):
        assert float(counts.detach().sum()) > 0
        assert torch.equal(counts, spikes.sum(dim=0))


# ---- training --------------------------------------------------------------------------------------


def test_delays_are_a_group_of_their_own_and_nothing_else_changes():
    network, spec = build(
        model__delays=LEARNED, train__delay_lr=0.5, train__weight_decay=0.1, train__lr=0.01
    )
    weights, delays = make_optimiser(network, spec.train).param_groups
    assert delays["params"] == delay_positions(network)
    assert (weights["lr"], weights["weight_decay"]) == (0.01, 0.1)
    assert (delays["lr"], delays["weight_decay"]) == (0.5, 0.0)
    assert len(weights["params"]) + 1 == len(list(network.parameters()))
    plain, spec = build(train__weight_decay=0.1)
    (group,) = make_optimiser(plain, spec.train).param_groups
    assert group["params"] == list(plain.parameters())
    assert "lr_factor" not in group


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_resumed_with_delays_a_run_is_bit_identical(tmp_path: Path, optimiser: str):
    spec = toy_spec(
        model__delays=LEARNED,
        model__norm="batch",
        model__dropout=0.2,
        train__delay_lr=0.3,
        train__optimiser=optimiser,
        train__schedule="cosine",
        train__ema_decay=0.5,
        train__epochs=5,  # the Gaussian still narrows in the second
    )
    assert_resumed_is_bit_identical(spec, tmp_path, stop_after=1)


def test_training_narrows_the_gaussian_and_keeps_delays_within_their_bounds(tmp_path: Path):
    # a step of Adam is as long as its learning rate: two bins of five
    spec = toy_spec(model__delays=LEARNED, train__delay_lr=2.0, train__epochs=8)
    train, valid = toy_split(60, seed=1), toy_split(20, seed=2)
    network = fit(spec, train, valid, folder=tmp_path, device=CPU).network
    assert isinstance(network, SpikingNetwork)
    (layer,) = layers_of(network)
    assert isinstance(layer.afferent, LearnedDelays)
    position = layer.afferent.position.detach()
    assert (float(position.min()), float(position.max())) == (0.0, 5.0)
    assert layer.afferent.sigma == 0.23
    network.begin_epoch(1 / 8)
    assert layer.afferent.sigma == pytest.approx(math.sqrt(3 * 0.23))


def pairs_of_spikes(n_samples: int, seed: int) -> SpikeSplit:
    """Two channels spike once each, 100 ms apart; the class is which of them comes first."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_samples) % 2
    first = rng.uniform(0.0, 0.05, n_samples)
    times = [[t, t + 0.1] for t in first]
    units = [[label, 1 - label] for label in labels]
    return split_from_samples(times, units, labels)


def accuracy(tmp_path: Path, **changes: Any) -> float:
    # neurons that forget within 15 ms and a readout that takes the largest membrane
    spec = toy_spec(
        task__n_units=2,
        task__n_classes=2,
        task__duration_s=0.25,
        model__hidden=[16],
        model__neuron={"kind": "lif-delta", "tau_mem_s": 0.01},
        model__readout={"tau_mem_s": 0.01, "tau_syn_s": 0.01},
        model__surrogate={"kind": "sigmoid", "slope": 4.0},
        train__epochs=20,
        train__batch_size=16,
        train__lr=0.02,
        **changes,
    )
    valid = pairs_of_spikes(40, seed=2)
    result = fit(spec, pairs_of_spikes(160, seed=1), valid, folder=tmp_path, device=CPU)
    assert result.validation is not None
    return result.validation.accuracy


def test_with_delays_moments_far_apart_meet_in_one_unit(tmp_path: Path):
    delays = {"kind": "learned", "max_s": 0.15}
    learnt = accuracy(tmp_path / "delays", model__delays=delays, train__delay_lr=0.2)
    assert learnt > 0.95
    assert accuracy(tmp_path / "plain") < 0.75
