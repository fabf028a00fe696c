"""Real-time recurrent learning gives the gradients of backpropagation through time, and keeps no past."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models.rtrl import RealTimeLearner, RtrlResult, StepLoss, rtrl
from snnbench.models.scan import scan
from snnbench.models.surrogate import DERIVATIVES
from tests.scan_cases import NEURONS, Case, Options, Shape, assert_near, make_case

SPIKING = [kind for kind, neuron in NEURONS.items() if neuron.distance is not None]


def case_of(options: Options, shape: Shape, seed: int, **others: Any) -> Case:
    return make_case(
        options._replace(dtype="float64"), shape, seed, layout="spikes", density=0.7, **others
    )


def random_loss(case: Case, seed: int) -> Any:
    """Random factors on spikes and squares of membranes of every step."""
    inputs, weight = inputs_and_weight(case)
    size = (*inputs.shape[:2], weight.shape[0])
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(size, generator=g, dtype=torch.float64) for _ in range(2))
    return lambda n, spikes, membranes: (a[n] * spikes + b[n] * membranes**2).sum()


def inputs_and_weight(case: Case) -> tuple[Tensor, Tensor]:
    assert isinstance(case.inputs, Tensor)
    assert case.weight is not None
    return case.inputs, case.weight


def run(case: Case, loss: StepLoss) -> RtrlResult:
    inputs, weight = inputs_and_weight(case)
    return rtrl(inputs, weight, case.recurrent, case.cell, loss, state=case.state, gate=case.gate)


def assert_equals_bptt(case: Case, seed: int) -> None:
    loss = random_loss(case, seed)
    unrolled = scan(
        case.inputs,
        case.weight,
        case.recurrent,
        case.cell,
        state=case.state,
        gate=case.gate,
        keep_membranes=True,
        engine="reference",
    )
    spikes = unrolled.spikes if case.spiking else torch.zeros_like(unrolled.membranes)
    total = torch.stack(
        [loss(n, spikes[n], u) for n, u in enumerate(unrolled.membranes)],
    ).sum()
    wanted = [t for t in (case.weight, case.recurrent) if t is not None]
    total = (
        total + 0 * inputs_and_weight(case)[1].sum()
    )  # in a single step nothing depends on the weights yet
    expected = torch.autograd.grad(total, wanted, materialize_grads=True)

    found = run(case, loss)
    assert_near("loss", found.loss, total.detach(), 1e-12)
    assert_near("gradient of weight", found.gradients.weight, expected[0], 1e-10)
    if case.recurrent is None:
        assert found.gradients.recurrent_weight is None
    else:
        assert found.gradients.recurrent_weight is not None
        assert_near("gradient of V", found.gradients.recurrent_weight, expected[1], 1e-10)
    for ours, theirs in zip(found.state, unrolled.state, strict=True):
        assert_near("last state", ours, theirs, 1e-12)


@pytest.mark.parametrize("kind", SPIKING)
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("through_reset", [False, True])
@pytest.mark.parametrize("through_recurrence", [False, True])
def test_equals_backpropagation_through_time(
    kind: str, reset: Any, through_reset: bool, through_recurrence: bool
) -> None:
    case = case_of(Options(kind, reset, through_reset), Shape(25, 3, 4, 5), seed=1)
    cell = replace(case.cell, gradient_through_recurrence=through_recurrence)
    assert_equals_bptt(replace(case, cell=cell), seed=2)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(SPIKING),
    surrogate=st.sampled_from(sorted(DERIVATIVES)),
    steps=st.integers(1, 12),
    batch=st.integers(1, 3),
    inputs=st.integers(1, 4),
    units=st.integers(1, 4),
    recurrent=st.booleans(),
    gated=st.booleans(),
    first_state=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_equals_it_for_any_layer(
    kind: str,
    surrogate: str,
    steps: int,
    batch: int,
    inputs: int,
    units: int,
    recurrent: bool,
    gated: bool,
    first_state: bool,
    seed: int,
) -> None:
    case = case_of(
        Options(kind, "subtract", True, surrogate),
        Shape(steps, batch, inputs, units),
        seed,
        recurrent=recurrent,
        gated=gated,
        first_state=first_state,
    )
    assert_equals_bptt(case, seed)


def test_equals_it_for_a_neuron_that_never_spikes() -> None:
    assert_equals_bptt(case_of(Options("leaky"), Shape(9, 2, 3, 4), 0, recurrent=False), seed=0)


def test_recurrence_matters_in_the_comparison() -> None:
    case = case_of(Options("lif", "subtract", True), Shape(25, 3, 4, 5), seed=1)
    loss = random_loss(case, 2)
    cut = replace(case.cell, gradient_through_recurrence=False)
    whole, without = (
        run(replace(case, cell=cell), loss).gradients.weight for cell in (case.cell, cut)
    )
    assert (whole - without).norm() > 0.01 * whole.norm()


def test_memory_does_not_grow_with_time() -> None:
    case = case_of(Options("lif", "subtract", True), Shape(1, 2, 3, 4), seed=1)
    born: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    sizes = set()

    def steps() -> Iterator[Tensor]:
        for seed in range(60):
            g = torch.Generator().manual_seed(seed)
            step = torch.poisson(torch.full((2, 3), 0.7, dtype=torch.float64), generator=g)
            born.append(weakref.ref(step))
            yield step

    def loss(n: int, spikes: Tensor, membranes: Tensor) -> Tensor:
        born.extend(weakref.ref(t) for t in (spikes, membranes))
        alive.append(sum(ref() is not None for ref in born))
        tensors = [o for o in gc.get_objects() if type(o) is Tensor]
        sizes.add((n > 1, sum(t.numel() for t in tensors)))
        return (spikes + membranes).sum()

    rtrl(steps(), inputs_and_weight(case)[1], case.recurrent, case.cell, loss)
    assert len(alive) == 60
    assert max(alive) <= 6  # this step's three, and those of the step before not yet let go
    assert (
        len([s for s in sizes if s[0]]) == 1
    )  # numbers in all tensors alive, from the second step on


def test_shape_of_the_influence() -> None:
    case = case_of(Options("adlif"), Shape(4, 2, 3, 5), seed=1)
    inputs, weight = inputs_and_weight(case)
    learner = RealTimeLearner(weight, case.recurrent, case.cell, 2)
    assert learner.influence.shape == (2, 2, 5, 5, 3 + 5)
    for step in inputs:
        learner.advance(step)
    assert learner.influence.shape == (2, 2, 5, 5, 3 + 5)
    found = learner.credit(None, torch.ones(2, 5, dtype=torch.float64))
    assert found.weight.shape == (5, 3)
    assert found.recurrent_weight is not None
    assert found.recurrent_weight.shape == (5, 5)


def test_influence_is_the_derivative_by_hand() -> None:
    """One LIF unit without synaptic current, below threshold: U[2] = w (beta x0 + x1)."""
    case = case_of(Options("lif-delta"), Shape(1, 1, 1, 1), seed=0, recurrent=False)
    parameters = case.cell.neuron.Parameters(beta=0.5, threshold=100.0)
    cell = replace(case.cell, parameters=parameters)
    learner = RealTimeLearner(torch.ones(1, 1, dtype=torch.float64), None, cell, 1)
    for x in (3.0, 2.0):
        learner.advance(torch.full((1, 1), x, dtype=torch.float64))
    assert float(learner.influence) == 0.5 * 3 + 2
    assert float(learner.membranes) == 0.5 * 3 + 2


def test_a_learner_can_follow_the_gradient_while_it_runs() -> None:
    """Weights that change at every step bring the membrane to a target."""
    case = case_of(Options("lif-delta"), Shape(1, 1, 2, 1), seed=3, recurrent=False)
    cell = replace(case.cell, parameters=case.cell.neuron.Parameters(beta=0.8, threshold=100.0))
    weight = torch.zeros(1, 2, dtype=torch.float64)
    learner = RealTimeLearner(weight, None, cell, 1)
    for _ in range(300):
        learner.advance(torch.ones(1, 2, dtype=torch.float64))
        weight -= 1e-3 * learner.credit(None, learner.membranes - 2.0).weight
    assert abs(float(learner.membranes) - 2.0) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.zeros(3, 2, 7)}, "inputs has shape"),
        ({"recurrent": torch.zeros(2, 2)}, "recurrent_weight has shape"),
        ({"gate": torch.zeros(1, 1)}, "gate has shape"),
        ({"inputs": torch.zeros(0, 2, 3)}, "no time steps"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    case = replace(case_of(Options("lif"), Shape(3, 2, 3, 4), seed=0), **change)
    with pytest.raises(SnnbenchError, match=message):
        run(case, lambda n, spikes, membranes: membranes.sum())
