"""What readouts make of membranes and spikes, against plain torch and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from snnbench.model_spec import ModelSpec, SpikingReadoutSpec
from snnbench.models.network import SpikingNetwork, build
from snnbench.models.neurons.lif import LIF
from snnbench.models.readout import SpikingReadout
from snnbench.models.scan import scan
from tests.scan_cases import CPU_ENGINES, as_events, assert_near

DT_S = 10e-3
REDUCTIONS = {
    "max": lambda u: u.max(dim=0).values,
    "last": lambda u: u[-1],
    "sum": lambda u: u.sum(dim=0),
    "mean": lambda u: u.mean(dim=0),
    "softmax-sum": lambda u: u.softmax(dim=-1).sum(dim=0),
}
READOUTS: list[dict[str, Any]] = [
    *({"reduce": reduce} for reduce in REDUCTIONS),
    {"kind": "spike-count", "threshold": 0.2},
]

engines = pytest.mark.parametrize("engine", CPU_ENGINES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(readout: dict[str, Any], engine: Any, **fields: Any) -> SpikingNetwork:
    spec = ModelSpec.model_validate(
        {
            "name": "test",
            "hidden": (8,),
            "input_gain": 4.0,
            "surrogate": {"slope": 5.0},
            "readout": readout,
            **fields,
        }
    )
    network = build(spec, 6, 3, DT_S, generator())
    network.engine = engine
    return network


def random_input(steps: int = 40) -> Tensor:
    return torch.poisson(torch.full((steps, 5, 6), 0.4), generator=generator(1))


def gradients(network: SpikingNetwork, logits: Tensor) -> dict[str, Tensor]:
    factors = torch.randn(logits.shape, generator=generator(9))
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad((factors * logits).sum(), parameters)
    return dict(zip(names, found, strict=True))


@engines
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_a_reduction_is_that_of_the_membranes(reduce: str, engine: Any):
    network = make({"reduce": reduce}, engine)
    inputs = random_input()
    logits = network(inputs).logits
    drive = network.hidden_spikes(inputs)[0] @ network.readout.weight.t()
    alpha, beta = network.readout.cell.parameters
    current, membrane, all_membranes = torch.zeros(5, 3), torch.zeros(5, 3), []
    for d in drive:
        all_membranes.append(membrane)
        current, membrane = alpha * current + d, beta * membrane + current
    expected = REDUCTIONS[reduce](torch.stack(all_membranes))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    theirs = gradients(network, expected)
    for name, gradient in gradients(network, logits).items():
        assert gradient.abs().sum() > 0
        assert_near(name, gradient, theirs[name], 1e-4)


@engines
def test_a_count_is_the_number_of_spikes(engine: Any):
    network = make({"kind": "spike-count", "threshold": 0.2}, engine)
    inputs = random_input()
    logits = network(inputs).logits
    drive = network.hidden_spikes(inputs)[0] @ network.readout.weight.t()
    spikes = scan(drive, None, None, network.readout.cell, engine="reference").spikes
    assert 0 < spikes.sum() < spikes.numel()
    assert torch.equal(logits, spikes.sum(dim=0))
    theirs = gradients(network, spikes.sum(dim=0))
    for name, gradient in gradients(network, logits).items():
        assert gradient.abs().sum() > 0
        assert_near(name, gradient, theirs[name], 1e-4)


@engines
@pytest.mark.parametrize("readout", READOUTS, ids=lambda r: r.get("reduce", "spike-count"))
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_stretches_give_the_same_logits(readout: dict[str, Any], steps: int, engine: Any):
    network = make(readout, engine, recurrent=True)
    for inputs in (random_input(), as_events(random_input())):
        network.recompute_steps = None
        whole = network(inputs).logits
        expected = gradients(network, whole)
        network.recompute_steps = steps
        parts = network(inputs).logits
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
        for name, gradient in gradients(network, parts).items():
            assert_near(name, gradient, expected[name], 1e-4)


# ---- the time of the first spike -----------------------------------------------------------------


def first_spike(scale_s: float = 20e-3, threshold: float = 1.0) -> SpikingReadout:
    model = ModelSpec.model_validate({"name": "test", "surrogate": {"slope": 2.0}})
    spec = SpikingReadoutSpec(kind="first-spike", scale_s=scale_s, threshold=threshold)
    return SpikingReadout(1, 4, spec, model, DT_S, generator())


def drives(steps: int = 12) -> Tensor:
    """Of four classes: two that spike at 5 (a drive of 3 at 3), one at 2 and again, one never."""
    drive = torch.zeros(steps, 1, 4)
    drive[3, 0, :2] = 3.0
    drive[0, 0, 2] = drive[4, 0, 2] = 3.0
    return drive


@engines
def test_the_logit_is_minus_the_time_of_the_first_spike(engine: Any):
    readout, drive = first_spike(), drives()
    spikes = scan(drive, None, None, readout.cell, engine=engine).spikes[:, 0]
    assert [int(s.argmax()) for s in spikes.t()] == [5, 5, 2, 0]
    assert spikes[:, 2].sum() > 1
    assert not spikes[:, 3].any()
    partial = readout(drive, engine=engine).partial
    logits = readout.finish(partial[None], len(drive))
    # in units of 20 ms, with 12 steps of 10 ms
    assert logits.tolist() == [pytest.approx([-2.5, -2.5, -1.0, -6.0])]


@engines
def test_a_gradient_by_the_time_of_the_first_spike_by_hand(engine: Any):
    # one class, T = 4 steps, below threshold: U[2] = D[0], U[3] = (alpha + beta) D[0] + D[1]. With no spike
    # logit = -(dt / scale) sum_n prod_{m <= n} (1 - S[m]), and each S[m] is in T - m of its products
    model = ModelSpec.model_validate({"name": "test", "surrogate": {"slope": 2.0}})
    spec = SpikingReadoutSpec(kind="first-spike", scale_s=20e-3)
    readout = SpikingReadout(1, 1, spec, model, DT_S, generator())
    assert readout.cell.neuron is LIF
    alpha, beta, _ = readout.cell.parameters
    drive = torch.tensor([0.4, 0.2, 0, 0]).view(4, 1, 1).requires_grad_()
    logit = readout.finish(readout(drive, engine=engine).partial[None], 4)
    assert logit.item() == pytest.approx(-2.0)
    (grad,) = torch.autograd.grad(logit.sum(), drive)

    def slope(u: float) -> float:
        return 1 / (1 + 2 * abs(u - 1)) ** 2

    at_2, at_3 = 0.4, (alpha + beta) * 0.4 + 0.2
    expected = [0.5 * (2 * slope(at_2) + (alpha + beta) * slope(at_3)), 0.5 * slope(at_3), 0, 0]
    assert grad.flatten().tolist() == pytest.approx(expected, rel=1e-5)


@engines
def test_the_first_spike_has_a_gradient_and_later_ones_have_none(engine: Any):
    # of class 2 the first spike is at n = 2, which D[0] made; D[4] comes too late for it. More drive is an
    # earlier spike, so a larger logit
    drive = drives().requires_grad_()
    readout = first_spike()
    logits = readout.finish(readout(drive, engine=engine).partial[None], 12)
    (grad,) = torch.autograd.grad(logits[0, 2], drive)
    assert grad[0, 0, 2] > 0
    assert not grad[1:, 0, 2].any()
    assert not grad[..., [0, 1, 3]].any()


@engines
@pytest.mark.parametrize("kind", ["spike-count", "first-spike"])
def test_a_network_learns_by_a_spiking_readout(kind: str, engine: Any):
    network = make({"kind": kind}, engine)
    inputs, labels = as_events(random_input()), torch.tensor([0, 1, 2, 0, 1])
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(network(inputs).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
