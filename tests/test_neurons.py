"""Neurons against traces worked out by hand and closed forms, in every engine of the CPU."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnbench.model_spec import LifSpec
from snnbench.models.kinds import constants_of, decay, kind_of
from snnbench.models.neuron import ResetMode
from snnbench.models.neurons import adlif, leaky, lif, lif_delta
from snnbench.models.scan import scan
from snnbench.models.scan_types import Cell
from tests.scan_cases import CPU_ENGINES, surrogate

SLOPE = 10.0

engines = pytest.mark.parametrize("engine", CPU_ENGINES)


def lif_cell(
    alpha: float = 0.5,
    beta: float = 0.5,
    reset: ResetMode = "subtract",
    through: bool = False,
    threshold: float = 1.0,
) -> Cell:
    p = lif.Parameters(alpha, beta, threshold)
    return Cell(lif.LIF, p, surrogate("superspike", SLOPE), reset, through)


def lif_delta_cell(beta: float = 0.5, reset: ResetMode = "subtract") -> Cell:
    p = lif_delta.Parameters(beta, 1.0)
    return Cell(lif_delta.LIF_DELTA, p, surrogate("superspike", SLOPE), reset)


def adlif_cell(a: float, b: float, reset: ResetMode = "subtract", threshold: float = 1.0) -> Cell:
    p = adlif.Parameters(0.5, 0.5, a, b, threshold)
    return Cell(adlif.ADLIF, p, surrogate("superspike", SLOPE), reset)


def leaky_cell(alpha: float, beta: float) -> Cell:
    return Cell(leaky.LEAKY, leaky.Parameters(alpha, beta))


def run(drive: list[float], cell: Cell, engine: Any) -> tuple[list[float], list[float]]:
    """Spikes and membranes of one unit."""
    column = torch.tensor(drive, dtype=torch.float64)[:, None, None]
    result = scan(column, None, None, cell, keep_membranes=True, engine=engine)
    return result.spikes.flatten().tolist(), result.membranes.flatten().tolist()


def impulse_response(alpha: float, beta: float, n_steps: int) -> list[float]:
    """Membrane after a drive of 1 in step 0: the difference of two exponentials."""
    return [0.0] + [
        (alpha ** (n - 1) - beta ** (n - 1)) / (alpha - beta) for n in range(1, n_steps)
    ]


# ---- LIF with a synaptic current --------------------------------------------------------------


@engines
def test_trace_by_hand_with_reset_by_subtraction(engine: Any):
    # alpha = beta = 1/2, theta = 1, one drive of 2 at n = 0:
    #   n     0    1    2     3     4      5
    #   I     0    2    1    1/2   1/4    1/8
    #   U     0    0    2    2/2 + 1 - 1 = 1    1/2 + 1/2 = 1    1/2 + 1/4 = 3/4
    # U = 1 at n = 3 is at threshold and not above it
    spikes, membranes = run([2.0, 0, 0, 0, 0, 0], lif_cell(), engine)
    assert membranes == [0, 0, 2, 1, 1, 0.75]
    assert spikes == [0, 0, 1, 0, 0, 0]


@engines
def test_trace_by_hand_with_reset_to_zero(engine: Any):
    #   U     0    0    2    (2/2 + 1) * 0 = 0    0 + 1/2    1/4 + 1/4
    spikes, membranes = run([2.0, 0, 0, 0, 0, 0], lif_cell(reset="zero"), engine)
    assert membranes == [0, 0, 2, 0, 0.5, 0.5]
    assert spikes == [0, 0, 1, 0, 0, 0]


@engines
def test_trace_by_hand_of_two_coupled_neurons(engine: Any):
    # Neuron 0 gets a drive of 2 at n = 0 and spikes at n = 2 as above. It excites neuron 1 with weight 3:
    # I_1 = 3, 3/2, 3/4 from n = 3 on, so U_1[4] = 3, U_1[5] = 3/2 + 3/2 - 1 = 2, U_1[6] = 1 + 3/4 - 1.
    # Neuron 1 inhibits neuron 0 with weight -1: I_0[5] = 1/8 - 1, U_0[6] = 3/8 - 7/8.
    drive = torch.zeros(7, 1, 2, dtype=torch.float64)
    drive[0, 0, 0] = 2.0
    weight = torch.tensor([[0.0, -1.0], [3.0, 0.0]], dtype=torch.float64)
    result = scan(drive, None, weight, lif_cell(), keep_membranes=True, engine=engine)
    assert result.membranes[:, 0, 0].tolist() == [0, 0, 2, 1, 1, 0.75, -0.5]
    assert result.membranes[:, 0, 1].tolist() == [0, 0, 0, 0, 3, 2, 0.75]
    assert result.spikes[:, 0, 0].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert result.spikes[:, 0, 1].tolist() == [0, 0, 0, 0, 1, 1, 0]


@engines
def test_the_last_state_by_hand(engine: Any):
    # the trace above, cut after three steps: I[3] = 1/2 and U[3] = 1 are what the next scan begins with
    column = torch.tensor([2.0, 0, 0], dtype=torch.float64)[:, None, None]
    state = scan(column, None, None, lif_cell(), engine=engine).state
    assert (state.current.item(), state.membrane.item()) == (0.5, 1.0)
    later = scan(
        torch.zeros_like(column), None, None, lif_cell(), state=state, keep_membranes=True,
        engine=engine,
    )  # fmt: skip
    assert later.membranes.flatten().tolist() == [1, 1, 0.75]


@engines
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.8), (0.9, 0.5)])
def test_response_to_one_spike_is_the_difference_of_exponentials(
    alpha: float, beta: float, engine: Any
):
    _, membranes = run([1.0] + [0.0] * 29, lif_cell(alpha, beta, threshold=100.0), engine)
    assert membranes == pytest.approx(impulse_response(alpha, beta, 30), abs=1e-12)


@engines
@pytest.mark.parametrize("current", [0.25, 0.3, 0.7])
def test_interspike_interval_under_constant_current(current: float, engine: Any):
    # After a reset to zero U climbs as I (1 - beta^k) / (1 - beta) and has to exceed theta
    beta = 0.8
    spikes, _ = run([current * 0.5] * 300, lif_cell(0.5, beta, reset="zero"), engine)
    times = [n for n, s in enumerate(spikes) if s][5:]
    climb = math.floor(math.log(1 - (1 - beta) / current) / math.log(beta)) + 1
    assert {b - a for a, b in pairwise(times)} == {climb + 1}


@engines
def test_no_spike_where_the_current_cannot_reach_the_threshold(engine: Any):
    spikes, _ = run([0.2 * 0.5 * 0.999] * 300, lif_cell(0.5, 0.8), engine)
    assert not any(spikes)


@engines
def test_rate_with_subtraction_follows_the_current(engine: Any):
    # What enters the membrane has to leave by leak or by reset: mean S = mean I - (1 - beta) mean U
    spikes, membranes = run([0.6] * 2000, lif_cell(0.5, 0.9), engine)
    current = 0.6 / (1 - 0.5)
    tail = slice(1000, 2000)
    balance = current - 0.1 * sum(membranes[tail]) / 1000
    assert sum(spikes[tail]) / 1000 == pytest.approx(balance, abs=2e-3)


def test_decays_follow_from_the_bin_width():
    spec = LifSpec(tau_mem_s=20e-3, tau_syn_s=10e-3)
    p = kind_of(spec, dt_s=10e-3).parameters(constants_of(spec))
    assert (p.alpha, p.beta) == pytest.approx((math.exp(-1), math.exp(-0.5)), rel=1e-15)
    assert decay(2e-3, 10e-3) ** 5 == pytest.approx(p.alpha, rel=1e-12)


@engines
def test_spikes_converge_as_the_bin_shrinks(engine: Any):
    # A constant input that would settle at U = 2, switched on at t = 0; the factors undo the bin width.
    def first_spike_s(dt_s: float) -> float:
        alpha, beta = decay(dt_s, 5e-3), decay(dt_s, 20e-3)
        n = round(0.2 / dt_s)
        spikes, _ = run([2.0 * (1 - alpha) * (1 - beta)] * n, lif_cell(alpha, beta), engine)
        return spikes.index(1.0) * dt_s

    # In continuous time U(t) = 2 (1 - (tau_m e^(-t/tau_m) - tau_s e^(-t/tau_s)) / (tau_m - tau_s))
    def membrane(t: float) -> float:
        decayed = (20e-3 * math.exp(-t / 20e-3) - 5e-3 * math.exp(-t / 5e-3)) / 15e-3
        return 2.0 * (1 - decayed)

    low, high = 0.0, 0.1
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if membrane(middle) > 1 else (middle, high)
    errors = [abs(first_spike_s(dt_s) - low) for dt_s in (4e-3, 1e-3, 0.1e-3)]
    assert errors[2] < errors[0]
    assert all(e <= 2.5 * dt_s for e, dt_s in zip(errors, (4e-3, 1e-3, 0.1e-3), strict=True))


# ---- LIF without a synaptic current ------------------------------------------------------------


@engines
@pytest.mark.parametrize(
    ("reset", "expected"),
    # beta = 1/2, theta = 1: U[1] = 3/2 spikes; U[2] = 3/4 + 1/2 - 1, or nothing is left of it
    [("subtract", [0, 1.5, 0.25, 0.125]), ("zero", [0, 1.5, 0, 0])],
)
def test_trace_by_hand_without_a_current(reset: ResetMode, expected: list[float], engine: Any):
    spikes, membranes = run([1.5, 0.5, 0, 0], lif_delta_cell(reset=reset), engine)
    assert membranes == expected
    assert spikes == [0, 1, 0, 0]


@engines
@pytest.mark.parametrize("drive", [0.25, 0.3, 0.7])
def test_interspike_interval_without_a_current(drive: float, engine: Any):
    spikes, _ = run([drive] * 300, lif_delta_cell(0.8, "zero"), engine)
    times = [n for n, s in enumerate(spikes) if s]
    climb = math.floor(math.log(1 - 0.2 / drive) / math.log(0.8)) + 1
    assert times[0] == climb
    # the step of the spike clears the membrane, so the climb begins in the next
    assert {b - a for a, b in pairwise(times)} == {climb + 1}


@engines
@given(drive=st.lists(st.floats(-2, 2), min_size=2, max_size=30))
@settings(max_examples=30)
def test_is_a_lif_neuron_with_an_infinitely_short_current(drive: list[float], engine: Any):
    with_current, _ = run(drive, lif_cell(0.0, 0.8), engine)
    without, _ = run(drive, lif_delta_cell(0.8), engine)
    assert with_current == [0, *without[:-1]]


# ---- adaptive LIF ------------------------------------------------------------------------------


@engines
def test_trace_by_hand_of_an_adaptive_neuron(engine: Any):
    # alpha = beta = 1/2, a = 1/2, b = 1, theta = 1, drive 4, 4, 0, 0:
    #   w[1] = 0                          U[1] = (4 - 0) / 2 = 2                        spikes
    #   w[2] = 0 + 2/2 + 1 = 2            U[2] = (2 - 1) / 2 + (4 - 2) / 2 = 3/2        spikes
    #   w[3] = 2/2 + 3/4 + 1 = 11/4       U[3] = (3/2 - 1) / 2 - 11/8 = -9/8
    #   w[4] = 11/8 - 9/16 = 13/16        U[4] = -9/16 - 13/32 = -31/32
    drive = torch.tensor([4.0, 4, 0, 0], dtype=torch.float64)[:, None, None]
    result = scan(drive, None, None, adlif_cell(0.5, 1.0), keep_membranes=True, engine=engine)
    assert result.membranes.flatten().tolist() == [0, 2, 1.5, -9 / 8]
    assert result.spikes.flatten().tolist() == [0, 1, 1, 0]
    assert (result.state.membrane.item(), result.state.adaptation.item()) == (-31 / 32, 13 / 16)


@engines
def test_trace_by_hand_of_an_adaptive_neuron_with_reset_to_zero(engine: Any):
    # nothing is left of U[1], so U[2] = (4 - 2) / 2 = 1, at threshold and not above it
    #   w[3] = 2/2 + 1/2 = 3/2            U[3] = 1/2 - 3/4 = -1/4
    #   w[4] = 3/4 - 1/8 = 5/8            U[4] = -1/8 - 5/16 = -7/16
    cell = adlif_cell(0.5, 1.0, "zero")
    drive = torch.tensor([4.0, 4, 0, 0], dtype=torch.float64)[:, None, None]
    result = scan(drive, None, None, cell, keep_membranes=True, engine=engine)
    assert result.membranes.flatten().tolist() == [0, 2, 1, -0.25]
    assert result.spikes.flatten().tolist() == [0, 1, 0, 0]
    assert (result.state.membrane.item(), result.state.adaptation.item()) == (-7 / 16, 5 / 8)


@engines
@pytest.mark.parametrize("a", [-0.2, 0.0, 0.7])
def test_adaptation_settles_where_it_balances_the_membrane(a: float, engine: Any):
    # without spikes, at rest under a constant drive: w = a U / (1 - beta) and U = D - w
    cell = adlif_cell(a, 0.3, threshold=100.0)
    _, membranes = run([2.0] * 400, cell, engine)
    assert membranes[-1] == pytest.approx(2.0 / (1 + a / 0.5), rel=1e-12)


@engines
def test_intervals_grow_as_a_neuron_adapts(engine: Any):
    spikes, _ = run([2.5] * 100, adlif_cell(0.0, 0.4), engine)
    intervals = [b - a for a, b in pairwise(n for n, s in enumerate(spikes) if s)]
    fixed, _ = run([2.5] * 100, adlif_cell(0.0, 0.0), engine)
    assert max(intervals) > intervals[0]
    assert sum(spikes) < sum(fixed)


# ---- the leaky integrator ------------------------------------------------------------------------


@engines
@given(drive=st.lists(st.floats(-2, 2), min_size=1, max_size=30))
@settings(max_examples=30)
def test_a_leaky_integrator_convolves_with_its_response(drive: list[float], engine: Any):
    _, membranes = run(drive, leaky_cell(0.4, 0.7), engine)
    response = impulse_response(0.4, 0.7, len(drive))
    expected = [sum(response[n - m] * drive[m] for m in range(n + 1)) for n in range(len(drive))]
    assert membranes == pytest.approx(expected, abs=1e-9)


@engines
@given(drive=st.lists(st.floats(-2, 2), min_size=1, max_size=30))
@settings(max_examples=30)
def test_a_lif_neuron_without_spikes_is_a_leaky_integrator(drive: list[float], engine: Any):
    spikes, membranes = run(drive, lif_cell(0.4, 0.7, threshold=1e6), engine)
    assert not any(spikes)
    assert membranes == pytest.approx(run(drive, leaky_cell(0.4, 0.7), engine)[1], abs=1e-12)


@engines
def test_equal_time_constants_are_no_special_case(engine: Any):
    # I = 1, 1/2, 1/4 from n = 1 on; U[3] = 1/2 + 1/2, U[4] = 1/2 + 1/4
    assert run([1.0, 0, 0, 0, 0], leaky_cell(0.5, 0.5), engine)[1] == [0, 0, 1, 1, 0.75]


@engines
def test_area_of_the_response(engine: Any):
    _, membranes = run([1.0] + [0.0] * 399, leaky_cell(0.6, 0.7), engine)
    assert sum(membranes) == pytest.approx(1 / (0.4 * 0.3), rel=1e-12)


# ---- gradients by hand ---------------------------------------------------------------------------


def superspike_slope(u: float) -> float:
    return 1 / (1 + SLOPE * abs(u - 1)) ** 2


def scalar_gradient(spike_at: int, cell: Cell, drive: float, engine: Any) -> float:
    """Derivative of S[spike_at] by the drive at n = 0."""
    d: Tensor = torch.zeros(6, 1, 1, dtype=torch.float64)
    d[0] = drive
    d.requires_grad_()
    scan(d, None, None, cell, engine=engine).spikes[spike_at].sum().backward()
    assert d.grad is not None
    return float(d.grad[0])


@engines
def test_gradient_of_the_first_possible_spike(engine: Any):
    # U[2] = I[1] = D[0], so dS[2]/dD[0] is the surrogate at U = D; at n = 0 and 1 nothing has arrived
    expected = pytest.approx(superspike_slope(1.3), rel=1e-12)
    assert scalar_gradient(2, lif_cell(), 1.3, engine) == expected
    assert scalar_gradient(1, lif_cell(), 1.3, engine) == 0.0


@engines
@pytest.mark.parametrize("through", [False, True])
def test_gradient_one_step_after_a_spike_with_subtraction(through: bool, engine: Any):
    # U[3] = (alpha + beta) D - S[2] = 0.3: dU[3]/dD = alpha + beta, minus dS[2]/dD through the reset
    slope = 1.0 - (superspike_slope(1.3) if through else 0.0)
    expected = superspike_slope(0.3) * slope
    found = scalar_gradient(3, lif_cell(through=through), 1.3, engine)
    assert found == pytest.approx(expected, rel=1e-12)


@engines
@pytest.mark.parametrize("through", [False, True])
def test_gradient_one_step_after_a_spike_with_reset_to_zero(through: bool, engine: Any):
    # U[3] = (alpha + beta) D (1 - S[2]) = 0: the factor is zero, and through the reset -D dS[2]/dD is left
    slope = -1.3 * superspike_slope(1.3) if through else 0.0
    expected = superspike_slope(0.0) * slope
    cell = lif_cell(reset="zero", through=through)
    assert scalar_gradient(3, cell, 1.3, engine) == pytest.approx(expected, rel=1e-12)


@engines
def test_gradient_through_a_recurrent_weight(engine: Any):
    # One neuron onto itself with weight v, spiking at n = 2 (U = 1.3). With the reset detached
    # U[3] = U[2] beta + I[2] - 1, U[4] = beta U[3] + I[3] and I[3] = alpha I[2] + v S[2]
    d = torch.tensor([1.3, 0, 0, 0, 0], dtype=torch.float64)[:, None, None].requires_grad_()
    v = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    scan(d, None, v, lif_cell(), engine=engine).spikes[4].sum().backward()
    u4 = 0.5 * 0.3 + (0.25 * 1.3 + 0.4)
    assert v.grad is not None
    assert d.grad is not None
    assert float(v.grad) == pytest.approx(superspike_slope(u4), rel=1e-12)
    by_drive = 0.5 * 1.0 + 0.25 + 0.4 * superspike_slope(1.3)
    assert float(d.grad[0]) == pytest.approx(superspike_slope(u4) * by_drive, rel=1e-12)


@engines
def test_gradient_past_a_recurrent_weight(engine: Any):
    # as above, but for the way from U[4] over I[3] and v to S[2]: v learns the same, the drive less
    d = torch.tensor([1.3, 0, 0, 0, 0], dtype=torch.float64)[:, None, None].requires_grad_()
    v = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    cell = replace(lif_cell(), gradient_through_recurrence=False)
    scan(d, None, v, cell, engine=engine).spikes[4].sum().backward()
    u4 = 0.5 * 0.3 + (0.25 * 1.3 + 0.4)
    assert v.grad is not None
    assert d.grad is not None
    assert float(v.grad) == pytest.approx(superspike_slope(u4), rel=1e-12)
    expected = superspike_slope(u4) * (0.5 * 1.0 + 0.25)
    assert float(d.grad[0]) == pytest.approx(expected, rel=1e-12)


@engines
def test_gradient_by_a_neurons_own_decay(engine: Any):
    # alpha I and beta U of unit 0 as in the trace by hand: U[3] = beta D + alpha D - 1 = 0.3, so that
    # dS[3]/dbeta = dS[3]/dalpha = D sigma'(0.3). Unit 1 receives nothing and learns nothing.
    constants = torch.full((2, 2), 0.5, dtype=torch.float64, requires_grad=True)
    alpha, beta = constants.unbind(0)
    cell = Cell(lif.LIF, lif.Parameters(alpha, beta, 1.0), surrogate("superspike", SLOPE))
    drive = torch.zeros(4, 1, 2, dtype=torch.float64)
    drive[0, 0, 0] = 1.3
    scan(drive, None, None, cell, engine=engine).spikes[3].sum().backward()
    assert constants.grad is not None
    expected = 1.3 * superspike_slope(0.3)
    assert constants.grad.flatten().tolist() == pytest.approx([expected, 0, expected, 0], rel=1e-12)


@engines
def test_adaptation_carries_a_gradient_from_spike_to_later_spikes(engine: Any):
    # b couples the spike itself, reset or not: with a = 0, U[1] = D/2 spikes, w[2] = b S[1] and
    # U[2] = (U[1] - 1) / 2 - w[2] / 2; U[1] = 1.3 gives dU[2]/dD = 1/4 - b sigma'(1.3) / 4
    b = 0.2
    found = scalar_gradient(2, adlif_cell(0.0, b), 2.6, engine)
    u2 = 0.15 - b / 2
    expected = superspike_slope(u2) * (0.25 - b * superspike_slope(1.3) / 4)
    assert found == pytest.approx(expected, rel=1e-12)
