"""Rules of the families of credit assignment: each against the derivative that it claims to be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from snnbench.models import credit_eventprop as eventprop
from snnbench.models.credit_escape import (
    draw_spikes,
    escape_step,
    expected_spikes,
    log_likelihood,
)
from snnbench.models.credit_spike_times import LATE, first_spikes, loss_of, weight_cost
from snnbench.models.credit_tempotron import (
    peak_time_s,
    potentials,
    tempotron_scores,
    tempotron_step,
)
from snnbench.studies import credit_families
from snnbench.studies.credit_families import Parameters, Presentations, judge

GRID = torch.arange(1, 61, dtype=torch.float64) * 1e-3


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def evoked(samples: int = 5, inputs: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    times = torch.rand(samples, inputs, generator=generator, dtype=torch.float64) * 40e-3
    return potentials(times, GRID)


LABELS = torch.tensor([0, 1, 2, 0, 1])


def numerical(function: Any, weights: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """Central differences of a scalar function."""
    gradient = torch.zeros_like(weights)
    for index in range(weights.numel()):
        moved = []
        for sign in (1, -1):
            other = weights.clone()
            other.view(-1)[index] += sign * step
            moved.append(float(function(other)))
        gradient.view(-1)[index] = (moved[0] - moved[1]) / (2 * step)
    return gradient


def test_a_potential_peaks_at_one_when_it_should():
    fine = torch.arange(1, 40_001, dtype=torch.float64) * 1e-6
    kernel = potentials(torch.zeros(1, 1, dtype=torch.float64), fine)[0, :, 0]
    assert float(kernel.max()) == pytest.approx(1, abs=1e-6)
    assert float(fine[kernel.argmax()]) == pytest.approx(peak_time_s(10e-3, 5e-3), abs=2e-6)
    assert (potentials(torch.full((1, 1), 0.03), torch.tensor([0.02, 0.03])) == 0).all()


def test_the_tempotrons_step_is_the_gradient_of_its_maximum():
    weights = drawn(3, 6).requires_grad_()
    x = evoked()
    largest = tempotron_scores(weights, x)
    wanted = torch.nn.functional.one_hot(LABELS, 3).bool()
    wrong = torch.where(wanted, 1 - largest, largest - 1).relu().sum() / len(LABELS)
    wrong.backward()
    step = tempotron_step(weights.detach(), x, LABELS, rate=0.5)
    assert wrong > 0
    assert weights.grad is not None
    torch.testing.assert_close(step, -0.5 * weights.grad)


def test_a_tempotron_that_is_right_stays():
    x = evoked()
    weights = torch.full((3, 6), -1.0, dtype=torch.float64)
    weights[0] = 10.0
    assert (tempotron_step(weights, x, torch.zeros(5, dtype=torch.long), rate=1.0) == 0).all()


def test_the_escape_rules_step_climbs_the_likelihood():
    weights, x = 0.3 * drawn(3, 6), evoked()

    def likelihood(w: torch.Tensor) -> torch.Tensor:
        return log_likelihood(expected_spikes(w, x, 1e-3)[0], LABELS).mean()

    step = escape_step(weights, x, LABELS, 1e-3, rate=1.0)
    torch.testing.assert_close(step, numerical(likelihood, weights), rtol=1e-6, atol=1e-8)


def test_chance_of_silence_is_that_of_a_poisson_process():
    """With constant membranes R is rho times the duration."""
    x = torch.ones(1, 60, 1, dtype=torch.float64)
    expected, _ = expected_spikes(torch.ones(1, 1, dtype=torch.float64), x, 1e-3)
    assert float(expected) == pytest.approx(20.0 * 60e-3)  # at threshold rho is rho0


def test_neurons_are_silent_as_often_as_the_likelihood_says():
    weights, x = 0.3 * drawn(3, 6), evoked()
    expected, _ = expected_spikes(weights, x, 1e-3)
    generator = torch.Generator().manual_seed(2)
    many = x.repeat(4000, 1, 1)
    silent = (draw_spikes(weights, many, 1e-3, generator) == 0).view(4000, 5, 3).double().mean(0)
    # four standard deviations of a share of 4000
    assert float((silent - torch.exp(-expected)).abs().max()) < 4 * 0.5 / 4000**0.5


def test_a_spike_time_by_hand():
    """One input of weight 2 at z = 1: z_out = 2 * 1 / (2 - 1) = 2; and a second one too late to matter."""
    z = torch.tensor([[1.0, 5.0]], dtype=torch.float64)
    assert first_spikes(z, torch.tensor([[2.0, 3.0]], dtype=torch.float64)).item() == pytest.approx(
        2.0
    )
    # earlier than z_out, it has its part: (2 + 3 * 1.5) / (5 - 1)
    z = torch.tensor([[1.0, 1.5]], dtype=torch.float64)
    found = first_spikes(z, torch.tensor([[2.0, 3.0]], dtype=torch.float64))
    assert found.item() == pytest.approx(6.5 / 4)
    # too weak to cross: never
    assert first_spikes(z, torch.tensor([[0.4, 0.5]], dtype=torch.float64)).item() == LATE


def test_the_membrane_of_a_spike_time_is_at_threshold():
    """u(t) = sum of w_i (1 - exp(-(t - t_i))) over inputs before t, in units of tau, is 1 there."""
    z = torch.exp(torch.rand(1, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    weights = drawn(1, 8, seed=4).abs()
    out = first_spikes(z, weights)
    assert out.item() < LATE
    before = z[0] < out[0, 0]
    u = (weights[0] * (1 - z[0] / out[0, 0]))[before].sum()
    assert float(u) == pytest.approx(1, abs=1e-9)


def test_gradients_of_spike_times_are_those_of_differences():
    z = torch.exp(torch.rand(4, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    below, above = (0.5 + 0.3 * drawn(m, n, seed=m).abs() for m, n in ((5, 8), (3, 5)))
    labels = torch.tensor([0, 1, 2, 1])

    def loss(w: torch.Tensor) -> torch.Tensor:
        return loss_of(first_spikes(first_spikes(z, w), above), labels)

    w = below.clone().requires_grad_()
    loss(w).backward()
    assert w.grad is not None
    assert w.grad.abs().max() > 0
    torch.testing.assert_close(w.grad, numerical(loss, below), rtol=1e-5, atol=1e-7)


EVENTS_IN_S = 40e-3 * torch.rand(
    4, 10, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64
)
LOWER, UPPER = 0.9 + 0.6 * drawn(5, 10, seed=6), 0.8 + 0.5 * drawn(3, 5, seed=7)


def test_spikes_found_as_events_are_those_of_a_fine_clock():
    """Exponential steps of 1 us for one layer; a crossing is seen at most one step late."""
    found = eventprop.spike_times(EVENTS_IN_S, LOWER)
    dt_s, decay = 1e-6, math.exp(-1e-6 / eventprop.TAU_MEM_S)
    arrivals = (EVENTS_IN_S[..., 0] / dt_s).ceil().long().tolist()
    membrane, current = torch.zeros(2, 4, 5, dtype=torch.float64)
    coming: dict[int, list[tuple[int, int]]] = {}
    for sample, ticks in enumerate(arrivals):
        for source, tick in enumerate(ticks):
            coming.setdefault(tick, []).append((sample, source))
    fired: list[tuple[int, int, float]] = []
    for tick in range(1, 80_001):
        membrane = (membrane + current * (1 - decay)) * decay
        current *= decay**2
        if (membrane >= 1).any():
            fired += [(s, u, tick * dt_s) for s, u in (membrane >= 1).nonzero().tolist()]
            membrane[membrane >= 1] = 0.0
        for sample, source in coming.get(tick, ()):
            current[sample] += LOWER[:, source]
    assert int(found.isfinite().sum()) == len(fired)
    assert found.shape[2] > 1  # some fire more than once
    by_neuron: dict[tuple[int, int], list[float]] = {}
    for s, u, t in fired:
        by_neuron.setdefault((s, u), []).append(t)
    for (s, u), times in by_neuron.items():
        assert found[s, u, : len(times)].tolist() == pytest.approx(times, abs=2e-5)


def test_an_event_by_hand():
    """A weight w at 0 gives V = w (x - x^2): for w = 4.5 it is 1 at x = 2 / 3, for w < 4 never."""
    at_0 = torch.zeros(1, 1, 1, dtype=torch.float64)
    found = eventprop.spike_times(at_0, torch.tensor([[4.5], [3.99]], dtype=torch.float64))
    assert found[0, 0, 0].item() == pytest.approx(eventprop.TAU_MEM_S * math.log(1.5))
    assert found[0, 1].isinf().all()
    # by the implicit function theorem dt/dw = -V_w / V_t = -(2/9) tau / (w (2 x^2 - x)) = -tau 2/9
    weight = torch.tensor([[4.5]], dtype=torch.float64, requires_grad=True)
    eventprop.spike_times(at_0, weight)[0, 0, 0].backward()
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(-eventprop.TAU_MEM_S * 2 / 9)


@pytest.mark.parametrize("of", ["lower weights", "upper weights", "input times"])
def test_eventprops_gradient_is_that_of_differences(of):
    labels = torch.tensor([0, 1, 2, 0])
    given = {"lower weights": LOWER, "upper weights": UPPER, "input times": EVENTS_IN_S}

    def loss(changed: torch.Tensor) -> torch.Tensor:
        now = {**given, of: changed}
        hidden = eventprop.spike_times(now["input times"], now["lower weights"])
        return eventprop.loss_of(eventprop.spike_times(hidden, now["upper weights"]), labels)

    x = given[of].clone().requires_grad_()
    loss(x).backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    step = 1e-9 if of == "input times" else 1e-6
    numbers = numerical(loss, given[of], step)
    torch.testing.assert_close(x.grad, numbers, rtol=1e-5, atol=1e-6 * float(numbers.abs().max()))


def test_a_network_that_stays_silent_has_no_gradient():
    weights = torch.full((2, 10), 0.01, dtype=torch.float64, requires_grad=True)
    out = eventprop.spike_times(EVENTS_IN_S, weights)
    assert out.shape == (4, 2, 1)
    assert out.isinf().all()
    eventprop.loss_of(out, torch.zeros(4, dtype=torch.long)).backward()
    assert weights.grad is not None
    assert (weights.grad == 0).all()


def test_the_weight_cost_asks_for_enough_weight():
    assert float(weight_cost(torch.tensor([[0.5, 0.5], [2.0, 1.0]]))) == pytest.approx(0.5)


def test_presentations_jitter_around_frozen_patterns():
    draws = Presentations(0, 2e-3, stream=1)
    times, labels = draws.draw(4000)
    middle = times[labels == 2].median(0).values
    assert float((middle - draws.patterns[2]).abs().max()) < 1e-3
    other = Presentations(0, 2e-3, stream=2).draw(4000)[0]
    assert not torch.equal(times, other)
    assert torch.equal(draws.patterns, Presentations(0, 0.0, stream=2).patterns)


def test_initial_weights_know_nothing_of_the_patterns():
    """Untrained it is at chance, 25 %; with weights and patterns of the same numbers 74 % were right."""
    a = {"family": "tempotron", "jitter_s": 1e-3, "presentations": 1, "passes": 0}
    found = [
        credit_families.learn({**a, "seed": seed}, lambda f: None, None)["accuracy"]  # type: ignore[arg-type]
        for seed in range(12)
    ]
    assert sum(found) / len(found) < 0.4


@pytest.mark.parametrize("name", credit_families.FAMILIES)
def test_every_family_learns_an_easy_task(name):
    a = {"family": name, "seed": 1, "jitter_s": 1e-3, "presentations": 400, "passes": 20,
         "online_s": 150.0}  # fmt: skip
    accuracy = credit_families.learn(a, lambda f: None, None)["accuracy"]  # type: ignore[arg-type]
    assert accuracy > 0.5  # chance is 0.25


def made_up(**changes: float) -> dict[str, Any]:
    mean = dict.fromkeys(credit_families.FAMILIES, 0.9) | changes
    return {"families": {name: {"accuracy": {"mean": m}} for name, m in mean.items()}}


def test_the_verdict_asks_for_all_and_for_the_surrogate():
    assert judge(Parameters(), made_up()).seen
    assert not judge(Parameters(), made_up(tempotron=0.5)).seen
    assert not judge(Parameters(), made_up(tempotron=0.99)).seen
    assert math.isclose(credit_families.BESIDE, 0.03)
