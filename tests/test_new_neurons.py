"""Symplectic adaptive and refractory neurons against loops in NumPy, in every engine of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from snnbench.model_spec import LifSpec, SeAdlifSpec
from snnbench.models.kinds import constants_of, kind_of
from snnbench.models.neuron import ResetMode
from snnbench.models.neurons import lif, lif_refractory, se_adlif
from snnbench.models.scan import scan
from snnbench.models.scan_types import Cell, ScanResult
from tests.scan_cases import CPU_ENGINES, RESETS, surrogate

Floats = NDArray[np.float64]

engines = pytest.mark.parametrize("engine", CPU_ENGINES)
resets = pytest.mark.parametrize("reset", RESETS)


def se_adlif_cell(
    alpha: float, beta: float, a: float, b: float, q: float, reset: ResetMode = "zero"
) -> Cell:
    p = se_adlif.Parameters(alpha, beta, a, b, q, 1.0)
    return Cell(se_adlif.SE_ADLIF, p, surrogate(), reset)


def refractory_cell(period: float, reset: ResetMode = "subtract", beta: float = 0.8) -> Cell:
    p = lif_refractory.Parameters(0.6, beta, 1.0, period)
    return Cell(lif_refractory.LIF_REFRACTORY, p, surrogate(), reset)


def run(drive: Floats, cell: Cell, engine: Any) -> ScanResult:
    """A drive of shape (step, unit) as a batch of one."""
    column = torch.from_numpy(drive)[:, None]
    return scan(column, None, None, cell, keep_membranes=True, engine=engine)


def random_drive(seed: int, steps: int, strength: float, mean: float) -> Floats:
    return np.random.default_rng(seed).normal(mean, strength, (steps, 3))


# ---- SE-adLIF ------------------------------------------------------------------------------------


def se_adlif_by_loop(drive: Floats, cell: Cell) -> tuple[Floats, Floats, Floats]:
    """Spikes, membranes, and the last adaptation, unit by unit."""
    p = cell.parameters
    spikes, membranes = np.zeros_like(drive), np.zeros_like(drive)
    last = np.zeros(drive.shape[1])
    for i in range(drive.shape[1]):
        u = w = 0.0
        for n in range(len(drive)):
            s = 1.0 if u > p.threshold else 0.0
            spikes[n, i], membranes[n, i] = s, u
            kept = u * (1 - s) if cell.reset == "zero" else u - p.threshold * s
            w = p.beta * w + (1 - p.beta) * p.q * (p.a * kept + p.b * s)
            u = p.alpha * kept + (1 - p.alpha) * (drive[n, i] - w)
        last[i] = w
    return spikes, membranes, last


@engines
@resets
@pytest.mark.parametrize("a", [0.0, 0.4])
def test_symplectic_equals_its_equations(reset: ResetMode, a: float, engine: Any):
    cell = se_adlif_cell(0.8, 0.95, a, 0.5, 6.0, reset)
    drive = random_drive(1, 200, 4.0, 2.0)
    spikes, membranes, last = se_adlif_by_loop(drive, cell)
    assert 5 < spikes.sum() < 400
    result = run(drive, cell, engine)
    np.testing.assert_array_equal(result.spikes[:, 0], spikes)
    np.testing.assert_allclose(result.membranes[:, 0], membranes, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(result.state.adaptation[0], last, rtol=1e-10, atol=1e-11)


@engines
def test_symplectic_trace_by_hand(engine: Any):
    # alpha = beta = 1/2, q = 2, so that (1 - beta) q = 1; a = 1/2, b = 1, theta = 1, reset to zero;
    # drive 4, 4, 0:
    #   w[1] = 0                  U[1] = 4 / 2 = 2                              spikes
    #   w[2] = 0 + 1 = 1          U[2] = 0 + (4 - 1) / 2 = 3/2                  spikes
    #   w[3] = 1/2 + 1 = 3/2      U[3] = 0 - 3/4
    cell = se_adlif_cell(0.5, 0.5, 0.5, 1.0, 2.0)
    result = run(np.array([[4.0], [4.0], [0.0]]), cell, engine)
    assert result.membranes.flatten().tolist() == [0, 2, 1.5]
    assert result.spikes.flatten().tolist() == [0, 1, 1]
    assert result.state.membrane.item() == -0.75
    assert result.state.adaptation.item() == 1.5


@engines
def test_symplectic_adaptation_settles_where_it_balances_the_membrane(engine: Any):
    # without spikes w = q a U and U = D - w
    p = se_adlif.Parameters(0.6, 0.8, 0.3, 0.5, 4.0, 100.0)
    cell = Cell(se_adlif.SE_ADLIF, p, surrogate(), "zero")
    membranes = run(np.full((500, 1), 2.0), cell, engine).membranes
    assert membranes[-1].item() == pytest.approx(2.0 / (1 + 4.0 * 0.3), rel=1e-10)


def test_symplectic_constants_follow_from_the_spec():
    spec = SeAdlifSpec(kind="se-adlif", tau_mem_s=20e-3, tau_adapt_s=100e-3, a=0.1, b=0.2, q=60.0)
    p = kind_of(spec, 4e-3).parameters(constants_of(spec))
    expected = (np.exp(-4 / 20), np.exp(-4 / 100), 0.1, 0.2, 60.0, 1.0)
    assert tuple(p) == pytest.approx(expected, rel=1e-15)
    assert (spec.reset, SeAdlifSpec(kind="se-adlif").q) == ("zero", 120.0)


# ---- LIF with a refractory period ----------------------------------------------------------------


def refractory_by_loop(drive: Floats, cell: Cell) -> tuple[Floats, Floats]:
    """Spikes and membranes, with the steps since the last spike counted and no state for it."""
    p = cell.parameters
    spikes, membranes = np.zeros_like(drive), np.zeros_like(drive)
    for i in range(drive.shape[1]):
        current = u = 0.0
        spiked = -(10**9)
        for n in range(len(drive)):
            s = float(u > p.threshold)
            spikes[n, i], membranes[n, i] = s, u
            if s:
                spiked = n
            after = p.beta * u + current
            after = after - p.threshold * s if cell.reset == "subtract" else after * (1 - s)
            u = 0.0 if n + 1 <= spiked + p.period else after
            current = p.alpha * current + drive[n, i]
    return spikes, membranes


@engines
@resets
@pytest.mark.parametrize("period", [0.0, 1.0, 2.0, 5.0])
def test_refractory_equals_its_equations(reset: ResetMode, period: float, engine: Any):
    cell, drive = refractory_cell(period, reset), random_drive(2, 200, 0.8, 0.4)
    spikes, membranes = refractory_by_loop(drive, cell)
    assert spikes.sum() > 20
    result = run(drive, cell, engine)
    np.testing.assert_array_equal(result.spikes[:, 0], spikes)
    np.testing.assert_allclose(result.membranes[:, 0], membranes, rtol=1e-11, atol=1e-12)


@engines
@given(
    drive=st.lists(st.floats(-1, 5), min_size=2, max_size=60),
    period=st.integers(0, 6),
    reset=st.sampled_from(RESETS),
)
@settings(max_examples=40)
def test_spikes_of_a_unit_keep_their_distance(
    drive: list[float], period: int, reset: ResetMode, engine: Any
):
    result = run(np.array(drive)[:, None], refractory_cell(float(period), reset), engine)
    times = np.flatnonzero(result.spikes.numpy())
    assert (np.diff(times) >= period + 1).all()
    for n in times:
        assert not result.membranes[n + 1 : n + 1 + period].any()


@engines
@pytest.mark.parametrize("period", [1, 2, 5])
def test_a_strong_current_makes_spikes_as_dense_as_they_may_be(period: int, engine: Any):
    spikes = run(np.full((60, 1), 10.0), refractory_cell(float(period)), engine).spikes
    assert set(np.diff(np.flatnonzero(spikes.numpy()))) == {period + 1}


@engines
@resets
@given(seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_without_a_period_it_is_a_lif_neuron(reset: ResetMode, seed: int, engine: Any):
    drive = random_drive(seed, 40, 0.8, 0.4)
    plain = Cell(lif.LIF, lif.Parameters(0.6, 0.8, 1.0), surrogate(), reset)
    found = [torch.from_numpy(drive)[:, None].requires_grad_() for _ in range(2)]
    results = [
        scan(d, None, None, cell, keep_membranes=True, engine=engine)
        for d, cell in zip(found, (refractory_cell(0.0, reset), plain), strict=True)
    ]
    assert torch.equal(results[0].spikes, results[1].spikes)
    torch.testing.assert_close(results[0].membranes, results[1].membranes, rtol=1e-12, atol=1e-12)
    for result in results:
        result.spikes.sum().backward()
    assert found[0].grad is not None
    torch.testing.assert_close(found[0].grad, found[1].grad, rtol=1e-10, atol=1e-12)


@engines
def test_no_gradient_goes_through_a_membrane_that_is_held(engine: Any):
    # a drive of 2 at n = 0 spikes at n = 2 (alpha = 0.6); the membrane is held at n = 3 and 4, so what
    # arrives there moves nothing, and U[5] is the current of n = 4 alone
    drive = torch.tensor([2.0, 0, 0, 0, 0, 0], dtype=torch.float64)[:, None, None].requires_grad_()
    result = scan(drive, None, None, refractory_cell(2.0), keep_membranes=True, engine=engine)
    assert result.spikes.flatten().tolist() == [0, 0, 1, 0, 0, 0]
    # I[1] = 2, I[4] = 2 * 0.6^3
    assert result.membranes.flatten().tolist() == pytest.approx([0, 0, 2, 0, 0, 2 * 0.6**3])
    (grad,) = torch.autograd.grad(result.membranes[5].sum(), drive)
    # D[3] reaches I[4]
    assert grad.flatten().tolist() == pytest.approx([0.6**3, 0.6**2, 0.6, 1, 0, 0])


@pytest.mark.parametrize(
    ("refractory_s", "steps"), [(4e-3, 4), (3.6e-3, 4), (3.4e-3, 3), (0.2e-3, 1)]
)
def test_a_period_is_told_in_whole_bins(refractory_s: float, steps: int):
    spec = LifSpec(refractory_s=refractory_s)
    kind = kind_of(spec, 1e-3)
    assert kind.neuron is lif_refractory.LIF_REFRACTORY
    assert kind.parameters(constants_of(spec)).period == steps
    assert kind_of(LifSpec(), 1e-3).neuron is lif.LIF
