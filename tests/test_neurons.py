"""The LIF update against traces worked out by hand and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from snnbench.models.neurons import LIFParameters, decay, impulse_response
from snnbench.models.readout import impulse_matrix
from snnbench.models.scan import scan
from snnbench.models.surrogate import SuperSpike
from snnbench.spec import NeuronSpec

SUPERSPIKE = SuperSpike(slope=10.0)


def lif(
    alpha: float = 0.5,
    beta: float = 0.5,
    reset: Literal["subtract", "zero"] = "subtract",
    through: bool = False,
    threshold: float = 1.0,
) -> LIFParameters:
    return LIFParameters(alpha, beta, threshold, reset, through)


def run(drive: list[float], p: LIFParameters) -> tuple[list[float], list[float]]:
    column = torch.tensor(drive, dtype=torch.float64)[:, None, None]
    result = scan(column, None, p, SUPERSPIKE, keep_membranes=True)
    assert result.membranes is not None
    return result.spikes.flatten().tolist(), result.membranes.flatten().tolist()


def test_trace_by_hand_with_reset_by_subtraction():
    # alpha = beta = 1/2, theta = 1, one drive of 2 at n = 0:
    #   n     0    1    2     3     4      5
    #   I     0    2    1    1/2   1/4    1/8
    #   U     0    0    2    2/2 + 1 - 1 = 1    1/2 + 1/2 = 1    1/2 + 1/4 = 3/4
    # U = 1 at n = 3 is at threshold and not above it
    spikes, membranes = run([2.0, 0, 0, 0, 0, 0], lif())
    assert membranes == [0, 0, 2, 1, 1, 0.75]
    assert spikes == [0, 0, 1, 0, 0, 0]


def test_trace_by_hand_with_reset_to_zero():
    #   U     0    0    2    (2/2 + 1) * 0 = 0    0 + 1/2    1/4 + 1/4
    spikes, membranes = run([2.0, 0, 0, 0, 0, 0], lif(reset="zero"))
    assert membranes == [0, 0, 2, 0, 0.5, 0.5]
    assert spikes == [0, 0, 1, 0, 0, 0]


def test_trace_by_hand_of_two_coupled_neurons():
    # Neuron 0 gets a drive of 2 at n = 0 and spikes at n = 2 as above. It excites neuron 1 with weight 3:
    # I_1 = 3, 3/2, 3/4 from n = 3 on, so U_1[4] = 3, U_1[5] = 3/2 + 3/2 - 1 = 2, U_1[6] = 1 + 3/4 - 1.
    # Neuron 1 inhibits neuron 0 with weight -1: I_0[5] = 1/8 - 1, U_0[6] = 3/8 - 7/8.
    drive = torch.zeros(7, 1, 2, dtype=torch.float64)
    drive[0, 0, 0] = 2.0
    weight = torch.tensor([[0.0, -1.0], [3.0, 0.0]], dtype=torch.float64)
    result = scan(drive, weight, lif(), SUPERSPIKE, keep_membranes=True)
    assert result.membranes is not None
    assert result.membranes[:, 0, 0].tolist() == [0, 0, 2, 1, 1, 0.75, -0.5]
    assert result.membranes[:, 0, 1].tolist() == [0, 0, 0, 0, 3, 2, 0.75]
    assert result.spikes[:, 0, 0].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert result.spikes[:, 0, 1].tolist() == [0, 0, 0, 0, 1, 1, 0]


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.8), (0.9, 0.5)])
def test_response_to_one_spike_is_the_difference_of_exponentials(alpha: float, beta: float):
    _, membranes = run([1.0] + [0.0] * 29, lif(alpha, beta, threshold=100.0))
    expected = [0.0] + [(alpha ** (n - 1) - beta ** (n - 1)) / (alpha - beta) for n in range(1, 30)]
    assert membranes == pytest.approx(expected, abs=1e-12)
    assert impulse_response(alpha, beta, 30) == pytest.approx(expected, abs=1e-12)


def test_equal_time_constants_are_no_special_case():
    assert impulse_response(0.5, 0.5, 5) == [0, 0, 1, 1, 0.75]


def test_area_of_the_response():
    assert sum(impulse_response(0.6, 0.7, 400)) == pytest.approx(1 / (0.4 * 0.3), rel=1e-12)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=30))
def test_without_spikes_the_scan_is_the_impulse_matrix(drive: list[float]):
    _, membranes = run(drive, lif(0.4, 0.7, threshold=1e6))
    expected = impulse_matrix(0.4, 0.7, len(drive)) @ torch.tensor(drive, dtype=torch.float64)
    assert membranes == pytest.approx(expected.tolist(), abs=1e-9)


@pytest.mark.parametrize("current", [0.25, 0.3, 0.7])
def test_interspike_interval_under_constant_current(current: float):
    # After a reset to zero U climbs as I (1 - beta^k) / (1 - beta) and has to exceed theta
    beta = 0.8
    spikes, _ = run([current * 0.5] * 300, lif(0.5, beta, reset="zero"))
    times = [n for n, s in enumerate(spikes) if s][5:]
    climb = math.floor(math.log(1 - (1 - beta) / current) / math.log(beta)) + 1
    assert {b - a for a, b in pairwise(times)} == {climb + 1}


def test_no_spike_where_the_current_cannot_reach_the_threshold():
    spikes, _ = run([0.2 * 0.5 * 0.999] * 300, lif(0.5, 0.8))
    assert not any(spikes)


def test_rate_with_subtraction_follows_the_current():
    # What enters the membrane has to leave by leak or by reset: mean S = mean I - (1 - beta) mean U
    spikes, membranes = run([0.6] * 2000, lif(0.5, 0.9))
    current = 0.6 / (1 - 0.5)
    tail = slice(1000, 2000)
    balance = current - 0.1 * sum(membranes[tail]) / 1000
    assert sum(spikes[tail]) / 1000 == pytest.approx(balance, abs=2e-3)


def test_decays_follow_from_the_bin_width():
    p = LIFParameters.from_spec(NeuronSpec(tau_mem_s=20e-3, tau_syn_s=10e-3), dt_s=10e-3)
    assert (p.alpha, p.beta) == pytest.approx((math.exp(-1), math.exp(-0.5)), rel=1e-15)
    assert decay(2e-3, 10e-3) ** 5 == pytest.approx(p.alpha, rel=1e-12)


def test_spikes_converge_as_the_bin_shrinks():
    # A constant input that would settle at U = 2, switched on at t = 0; the factors undo the bin width.
    def first_spike_s(dt_s: float) -> float:
        alpha, beta = decay(dt_s, 5e-3), decay(dt_s, 20e-3)
        n = round(0.2 / dt_s)
        spikes, _ = run([2.0 * (1 - alpha) * (1 - beta)] * n, lif(alpha, beta))
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


def superspike_slope(u: float) -> float:
    return 1 / (1 + 10.0 * abs(u - 1)) ** 2


def scalar_gradient(spike_at: int, p: LIFParameters, drive: float = 1.3) -> float:
    """Derivative of S[spike_at] by the drive at n = 0."""
    d: Tensor = torch.zeros(6, 1, 1, dtype=torch.float64)
    d[0] = drive
    d.requires_grad_()
    scan(d, None, p, SUPERSPIKE).spikes[spike_at].sum().backward()
    assert d.grad is not None
    return float(d.grad[0])


def test_gradient_of_the_first_possible_spike():
    # U[2] = I[1] = D[0], so dS[2]/dD[0] is the surrogate at U = D; at n = 0 and 1 nothing has arrived
    assert scalar_gradient(2, lif(), 1.3) == pytest.approx(superspike_slope(1.3), rel=1e-12)
    assert scalar_gradient(1, lif(), 1.3) == 0.0


@pytest.mark.parametrize("through", [False, True])
def test_gradient_one_step_after_a_spike_with_subtraction(through: bool):
    # U[3] = (alpha + beta) D - S[2] = 0.3: dU[3]/dD = alpha + beta, minus dS[2]/dD through the reset
    slope = 1.0 - (superspike_slope(1.3) if through else 0.0)
    expected = superspike_slope(0.3) * slope
    assert scalar_gradient(3, lif(through=through), 1.3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("through", [False, True])
def test_gradient_one_step_after_a_spike_with_reset_to_zero(through: bool):
    # U[3] = (alpha + beta) D (1 - S[2]) = 0: the factor is zero, and through the reset -D dS[2]/dD is left
    slope = -1.3 * superspike_slope(1.3) if through else 0.0
    expected = superspike_slope(0.0) * slope
    p = lif(reset="zero", through=through)
    assert scalar_gradient(3, p, 1.3) == pytest.approx(expected, rel=1e-12)


def test_gradient_through_a_recurrent_weight():
    # One neuron onto itself with weight v, spiking at n = 2 (U = 1.3). With the reset detached
    # U[3] = U[2] beta + I[2] - 1, U[4] = beta U[3] + I[3] and I[3] = alpha I[2] + v S[2]
    d = torch.tensor([1.3, 0, 0, 0, 0], dtype=torch.float64)[:, None, None].requires_grad_()
    v = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    scan(d, v, lif(), SUPERSPIKE).spikes[4].sum().backward()
    u4 = 0.5 * 0.3 + (0.25 * 1.3 + 0.4)
    assert v.grad is not None
    assert d.grad is not None
    assert float(v.grad) == pytest.approx(superspike_slope(u4), rel=1e-12)
    by_drive = 0.5 * 1.0 + 0.25 + 0.4 * superspike_slope(1.3)
    assert float(d.grad[0]) == pytest.approx(superspike_slope(u4) * by_drive, rel=1e-12)


def test_surrogate_is_one_at_threshold_whatever_its_slope():
    for slope in (1.0, 100.0):
        u = torch.tensor([1.0, 1.5, 0.5], requires_grad=True)
        spikes = SuperSpike(slope)(u, 1.0)
        spikes.sum().backward()
        assert spikes.tolist() == [0, 1, 0]
        assert u.grad is not None
        side = 1 / (1 + slope * 0.5) ** 2
        assert u.grad.tolist() == pytest.approx([1.0, side, side], rel=1e-6)
