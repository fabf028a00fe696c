"""Constants of each unit: their bounds, how they begin, whether they learn, and that they are kept."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnbench.checkpoint import build_for, load_network, save_network
from snnbench.model_spec import ModelSpec, PerUnit, PositivePerUnit
from snnbench.models.constants import UnitConstant, first_values
from snnbench.models.network import SpikingNetwork, build
from tests.scan_cases import CPU_ENGINES, as_events
from tests.toy_spikes import toy_spec

TAU: dict[str, Any] = {"low": 10e-3, "high": 100e-3}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(seed: int = 0, **neuron: Any) -> SpikingNetwork:
    spec = ModelSpec.model_validate(
        {
            "name": "test",
            "hidden": (8, 5),
            "recurrent": True,
            "input_gain": 4.0,
            "surrogate": {"slope": 5.0},
            "neuron": neuron,
        }
    )
    return build(spec, 6, 3, 10e-3, generator(seed))


def random_input() -> torch.Tensor:
    return torch.poisson(torch.full((40, 5, 6), 0.4), generator=generator(1))


# ---- values --------------------------------------------------------------------------------------


@given(
    raw=st.lists(st.floats(-1e9, 1e9, width=32), min_size=1, max_size=5),
    low=st.floats(1e-4, 1.0),
    factor=st.floats(1.01, 1e3),
    positive=st.booleans(),
)
def test_no_value_leaves_its_bounds(raw: list[float], low: float, factor: float, positive: bool):
    kind = PositivePerUnit if positive else PerUnit
    low = low if positive else -low
    spec = kind(low=low, high=low + abs(low) * (factor - 1), learned=True)
    constant = UnitConstant(spec, len(raw), generator())
    with torch.no_grad():
        constant.raw.copy_(torch.tensor(raw))
    values = constant().detach().double()
    rounding = 3e-6 * max(abs(spec.low), abs(spec.high))  # of float32
    assert float(values.min()) >= spec.low - rounding
    assert float(values.max()) <= spec.high + rounding
    if positive:
        assert float(values.min()) > 0


def test_a_value_between_bounds_by_hand():
    # s = 3/4 where raw = ln 3
    tau = UnitConstant(PositivePerUnit(low=1.0, high=16.0), 1, generator())
    a = UnitConstant(PerUnit(low=-1.0, high=1.0), 1, generator())
    for constant, value in ((tau, 8.0), (a, 0.5)):
        constant.raw.fill_(np.log(3))
        assert constant().item() == pytest.approx(value, rel=1e-6)


def test_the_middle_is_the_same_for_all():
    tau = UnitConstant(PositivePerUnit(low=1.0, high=16.0, draw="middle"), 4, generator())
    a = UnitConstant(PerUnit(low=-1.0, high=2.0, draw="middle"), 4, generator())
    assert tau().tolist() == pytest.approx([4.0] * 4, rel=1e-6)
    assert a().tolist() == pytest.approx([0.5] * 4, rel=1e-6)


@pytest.mark.parametrize("positive", [True, False])
def test_uniform_on_the_scale_on_which_it_is_trained(positive: bool):
    spec = (PositivePerUnit if positive else PerUnit)(low=5e-3, high=80e-3)
    values = first_values(spec, 20_000, generator()).numpy()
    share = np.log(values / 5e-3) / np.log(16) if positive else (values - 5e-3) / 75e-3
    assert 0 <= share.min() < 1e-3
    assert 1 - 1e-3 < share.max() <= 1
    # the largest distance between the distributions (Kolmogorov, at one in a thousand)
    distance = np.abs(np.sort(share) - (np.arange(20_000) + 0.5) / 20_000).max()
    assert distance < 1.95 / 20_000**0.5


def test_gamma_has_its_mean_and_is_cut_off():
    wide = PositivePerUnit(low=1e-4, high=1.0, draw="gamma", mean=20e-3)
    values = first_values(wide, 20_000, generator()).numpy()
    assert values.mean() == pytest.approx(20e-3, rel=0.05)
    assert values.std() == pytest.approx(20e-3 / 3**0.5, rel=0.05)  # of shape 3
    narrow = PositivePerUnit(low=10e-3, high=40e-3, draw="gamma", mean=20e-3)
    cut = first_values(narrow, 20_000, generator()).numpy()
    assert (cut.min(), cut.max()) == (10e-3, 40e-3)
    np.testing.assert_array_equal(cut, values.clip(10e-3, 40e-3))


@pytest.mark.parametrize("draw", ["uniform", "gamma", "middle"])
def test_a_constant_begins_where_it_was_drawn(draw: Any):
    mean = 20e-3 if draw == "gamma" else None
    spec = PositivePerUnit(low=5e-3, high=100e-3, draw=draw, mean=mean)
    drawn = first_values(spec, 500, generator(3)).float()
    began = UnitConstant(spec, 500, generator(3))()
    # a thousandth of the way from each bound, so that those at a bound can leave it
    inside = (drawn > 5.1e-3) & (drawn < 99e-3)
    assert inside.sum() > 400
    torch.testing.assert_close(began[inside], drawn[inside], rtol=1e-4, atol=0)
    torch.testing.assert_close(began, drawn, rtol=4e-3, atol=0)


# ---- in a network --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize(
    ("neuron", "names"),
    [
        ({"kind": "lif", "tau_mem_s": TAU, "tau_syn_s": TAU}, ["tau_mem_s", "tau_syn_s"]),
        ({"kind": "lif", "threshold": {"low": 0.5, "high": 1.5}}, ["threshold"]),
        ({"kind": "lif", "refractory_s": 0.02, "tau_mem_s": TAU}, ["tau_mem_s"]),
        ({"kind": "lif-delta", "tau_mem_s": TAU}, ["tau_mem_s"]),
        (
            {"kind": "adlif", "tau_adapt_s": TAU, "a": {"low": -0.5, "high": 1.0}},
            ["tau_adapt_s", "a"],
        ),
        (
            {"kind": "se-adlif", "b": {"low": 0.0, "high": 2.0}, "tau_mem_s": TAU, "q": 5.0},
            ["tau_mem_s", "b"],
        ),
    ],
    ids=lambda v: v["kind"] if isinstance(v, dict) else "-".join(v),
)
def test_learned_ones_are_parameters_with_a_gradient(
    neuron: dict[str, Any], names: list[str], engine: Any
):
    ranges = {k: {**v, "learned": True} for k, v in neuron.items() if isinstance(v, dict)}
    network = make(**{**neuron, **ranges})
    network.engine = engine
    network(as_events(random_input())).logits.square().sum().backward()
    learned = {k: p for k, p in network.named_parameters() if "per_unit" in k}
    expected = {f"layers.{i}.per_unit.{name}.raw" for i in (0, 1) for name in names}
    assert learned.keys() == expected
    for name, parameter in learned.items():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0, name
    assert not [k for k, _ in network.named_buffers() if "per_unit" in k]


def test_a_step_of_training_moves_them_within_their_bounds():
    network = make(tau_mem_s={**TAU, "learned": True})
    optimiser = torch.optim.SGD(network.parameters(), lr=1e4)
    before = [layer.constants["tau_mem_s"].detach() for layer in network.spiking_layers]
    network(random_input()).logits.square().sum().backward()
    optimiser.step()
    for layer, old in zip(network.spiking_layers, before, strict=True):
        tau = layer.constants["tau_mem_s"]
        assert not torch.equal(tau, old)
        assert (tau >= 10e-3 * (1 - 1e-6)).all()
        assert (tau <= 100e-3 * (1 + 1e-6)).all()
        assert torch.equal(layer.cell.parameters.beta, (-10e-3 / tau).exp())


def test_others_are_buffers_that_a_checkpoint_keeps(tmp_path: Path):
    spec = toy_spec(model__neuron={"tau_mem_s": TAU, "threshold": {"low": 0.5, "high": 2.0}})
    network = build_for(spec, generator(4))
    names = {f"layers.0.per_unit.{name}.raw" for name in ("tau_mem_s", "threshold")}
    assert {k for k, _ in network.named_buffers()} == names
    assert not names & {k for k, _ in network.named_parameters()}
    save_network(tmp_path / "weights.safetensors", network, spec)
    loaded, loaded_spec = load_network(tmp_path / "weights.safetensors")
    assert loaded_spec == spec
    assert names <= loaded.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    fresh = build_for(spec, generator(5))
    for name in names:
        assert not torch.equal(fresh.state_dict()[name], network.state_dict()[name])


@pytest.mark.parametrize("learned", [True, False])
def test_a_seed_gives_the_same_constants_again(learned: bool):
    tau = {**TAU, "learned": learned}
    first, again, other = (make(seed, tau_mem_s=tau).state_dict() for seed in (1, 1, 2))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, other[name])
    one, two = (first[f"layers.{i}.per_unit.tau_mem_s.raw"] for i in (0, 1))
    assert not torch.equal(one[:5], two)


def test_without_them_a_network_begins_as_it_always_did():
    # drawn layer by layer: input weights, then recurrent ones; the readout last
    network, draws = make(), generator(0)
    alpha, beta = np.exp(-1.0), np.exp(-0.5)
    weights: list[tuple[torch.Tensor, float]] = []
    for layer in network.spiking_layers:
        assert layer.recurrent_weight is not None
        weights += [(layer.weight, 4.0), (layer.recurrent_weight, 1.0)]
    for weight, gain in [*weights, (network.readout.weight, 1.0)]:
        n_out, n_in = weight.shape
        bound = gain / n_in**0.5 * (1 - alpha) * (1 - beta) * 2.0  # tau_mem / dt
        expected = (2 * torch.rand(n_out, n_in, generator=draws) - 1) * bound
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=0)


def test_the_first_layers_weights_do_not_depend_on_them():
    # they are drawn after a layer's weights
    plain, ranged = (
        make(),
        make(tau_mem_s={"low": 10e-3, "high": 40e-3}),
    )  # with 20 ms in the middle
    torch.testing.assert_close(plain.spiking_layers[0].weight, ranged.spiking_layers[0].weight)


def test_a_gradient_by_a_time_constant_is_that_of_finite_differences():
    # far below threshold all is smooth: a lif-delta neuron with one drive, U[n] = beta^(n - 1)
    tau: dict[str, Any] = {**TAU, "learned": True}
    layer = make(kind="lif-delta", threshold=1e9, tau_mem_s=tau).spiking_layers[0].double()
    constant = layer.per_unit["tau_mem_s"]
    assert isinstance(constant, UnitConstant)
    drive = torch.zeros(10, 1, 8, dtype=torch.float64)
    drive[0] = 1.0
    first = constant.raw.detach().clone()

    def total(shift: float) -> torch.Tensor:
        with torch.no_grad():
            constant.raw.copy_(first + shift)
        membranes = layer(drive, weight=None, engine="reference", keep_membranes=True).membranes
        return torch.as_tensor(membranes.sum(dim=(0, 1)))

    (grad,) = torch.autograd.grad(total(0.0).sum(), [constant.raw])
    expected = (total(1e-5) - total(-1e-5)) / 2e-5
    torch.testing.assert_close(grad, expected.detach(), rtol=1e-6, atol=1e-9)
    assert all(a != b for a, b in pairwise(grad.tolist()))
