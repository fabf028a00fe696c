"""The whole-sequence operator: gradients against finite differences, causality, independence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from snnbench.models.neuron import ResetMode
from snnbench.models.neurons.lif import LIF, Parameters
from snnbench.models.scan import scan
from snnbench.models.scan_types import Cell, ScanResult
from snnbench.models.surrogate import DERIVATIVES, Surrogate
from tests.scan_cases import (
    CPU_ENGINES,
    NEURONS,
    RESETS,
    Asked,
    Case,
    Options,
    Shape,
    gradients,
    make_case,
    needs_compiler,
    outputs_of,
    random_factors,
    run_scan,
    surrogate,
)

SLOPE = 3.0
SUPERSPIKE = surrogate("superspike", SLOPE)

engines = pytest.mark.parametrize("engine", CPU_ENGINES)


class SmoothSpike(Surrogate):
    """A smooth neuron whose exact derivative is SuperSpike's surrogate, 1 / (1 + slope |x|)^2."""

    def __call__(self, distance: Tensor) -> Tensor:
        return distance / (1 + self.slope * distance.abs()) + 0.5


SMOOTH = SmoothSpike("smooth", DERIVATIVES["superspike"], SLOPE)


def random_case(seed: int, steps: int = 9, batch: int = 2, units: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drive = torch.randn(steps, batch, units, dtype=torch.float64, generator=generator) * 0.8
    weight = torch.randn(units, units, dtype=torch.float64, generator=generator) * 0.6
    return drive, weight


def lif_cell(
    reset: ResetMode = "subtract",
    through: bool = False,
    spike: Surrogate = SUPERSPIKE,
    recurrence: bool = True,
) -> Cell:
    return Cell(LIF, Parameters(0.6, 0.8, 0.7), spike, reset, through, recurrence)


def run(
    drive: Tensor, weight: Tensor | None, cell: Cell, engine: Any, gate: Tensor | None = None
) -> ScanResult:
    return scan(drive, None, weight, cell, gate=gate, keep_membranes=True, engine=engine)


# ---- the truth against finite differences ------------------------------------------------------

Long = NDArray[np.longdouble]


def smooth_step(
    kind: str, reset: ResetMode, drive: Long, state: dict[str, Long], p: dict[str, Long]
) -> dict[str, Long]:
    """One step of the smooth model, written from the papers' equations once more."""
    u = state["membrane"]
    s = smooth(u - p["threshold"]) if kind != "leaky" else np.zeros_like(u)

    def after_spike(membrane: Long) -> Long:
        return membrane - p["threshold"] * s if reset == "subtract" else membrane * (1 - s)

    if kind == "lif":
        current = state["current"]
        return {
            "current": p["alpha"] * current + drive,
            "membrane": after_spike(p["beta"] * u + current),
        }
    if kind == "lif-delta":
        return {"membrane": after_spike(p["beta"] * u + drive)}
    if kind == "leaky":
        current = state["current"]
        return {"current": p["alpha"] * current + drive, "membrane": p["beta"] * u + current}
    if kind == "se-adlif":
        after = after_spike(u)
        more = (1 - p["beta"]) * p["q"] * (p["a"] * after + p["b"] * s)
        w = p["beta"] * state["adaptation"] + more
        return {"membrane": p["alpha"] * after + (1 - p["alpha"]) * (drive - w), "adaptation": w}
    w = p["beta"] * state["adaptation"] + p["a"] * u + p["b"] * s
    return {
        "membrane": p["alpha"] * after_spike(u) + (1 - p["alpha"]) * (drive - w),
        "adaptation": w,
    }


def smooth(x: Long) -> Long:
    """What SmoothSpike sends."""
    return x / (1 + np.longdouble(SLOPE) * np.abs(x)) + np.longdouble(0.5)


def smooth_outputs(
    kind: str, reset: ResetMode, leaves: dict[str, Long]
) -> dict[str, list[Long] | Long]:
    """What a scan of the smooth model returns, under the names of `outputs_of`."""
    state = {k.removeprefix("first "): v for k, v in leaves.items() if k.startswith("first ")}
    p = {k.removeprefix("constant "): v for k, v in leaves.items() if k.startswith("constant ")}
    spikes, membranes = [], []
    for drive in leaves["inputs"]:
        membranes.append(state["membrane"])
        if kind != "leaky":
            spikes.append(smooth(state["membrane"] - p["threshold"]))
            drive = drive + spikes[-1] @ leaves["recurrent"].T
        state = smooth_step(kind, reset, drive, state, p)
    outputs: dict[str, list[Long] | Long] = {
        "membranes": membranes,
        "peaks": np.max(membranes, axis=0),
    }
    if kind != "leaky":
        outputs |= {"spikes": spikes, "counts": sum(spikes, np.zeros_like(spikes[0]))}
        outputs |= {"projected": [s @ leaves["outgoing"].T for s in spikes]}
    return outputs | {f"last {k}": v for k, v in state.items()}


def finite_difference(f: Callable[[Long], Any], x: Long, h: float = 1e-5) -> NDArray[np.float64]:
    """Gradient of `f` by central differences of two widths, extrapolated: the error is of order h^4."""
    gradient, flat = np.zeros(x.size, np.longdouble), x.reshape(-1)
    for k in range(x.size):

        def slope(width: float, k: int = k) -> Any:
            shift = np.zeros_like(flat)
            shift[k] = width
            return (f((flat + shift).reshape(x.shape)) - f((flat - shift).reshape(x.shape))) / (
                2 * np.longdouble(width)
            )

        gradient[k] = (4 * slope(h / 2) - slope(h)) / 3
    return gradient.reshape(x.shape).astype(np.float64)


def smooth_case(kind: str, reset: ResetMode, seed: int) -> Case:
    """Every kind of leaf wants a gradient: drive, V, all constants, the first state."""
    options = Options(kind, reset, through=True, learned="all", dtype="float64")
    case = make_case(
        options, Shape(6, 2, 4, 3), seed, layout="drive", first_state=True, density=0.5,
        recurrent=kind != "leaky", n_outgoing=2 * (kind != "leaky"),
    )  # fmt: skip
    drive = case.inputs
    assert isinstance(drive, Tensor)
    spike = SMOOTH if kind != "leaky" else None
    return replace(
        case,
        inputs=drive.detach().requires_grad_(),
        cell=replace(case.cell, surrogate=spike),
    )


@pytest.mark.skipif(bool(np.finfo(np.longdouble).eps > 1e-18), reason="needs numbers of 80 bits")
# a refractory period is left out: a neuron that is held or not jumps, and has no smooth model
@pytest.mark.parametrize("kind", [kind for kind in NEURONS if kind != "lif-refractory"])
@pytest.mark.parametrize("reset", RESETS)
def test_gradients_of_the_smooth_model_are_its_finite_differences(kind: str, reset: ResetMode):
    case = smooth_case(kind, reset, seed=7 if kind == "se-adlif" else 5)
    result = run_scan(case, "reference")
    outputs = outputs_of(case, result)
    found = gradients(case, outputs, seed=6)
    factors = {
        k: f.numpy().astype(np.longdouble) for k, f in random_factors(outputs, seed=6).items()
    }
    leaves = {k: v.detach().numpy().astype(np.longdouble) for k, v in case.leaves().items()}
    if kind != "leaky":
        # the second derivative jumps at threshold: differences must not reach across
        distance = result.membranes - case.cell.parameters.threshold
        assert float(distance.detach().abs().min()) > 1e-3
    wanted = {"inputs"} | ({"recurrent", "outgoing"} if kind != "leaky" else set())
    wanted |= {f"constant {k}" for k in case.cell.neuron.Parameters._fields}
    wanted |= {f"first {k}" for k in case.cell.neuron.State._fields}
    assert set(found) == wanted
    for name, gradient in found.items():

        def loss(x: Long, name: str = name) -> Any:
            made = smooth_outputs(kind, reset, {**leaves, name: x})
            return sum((f * np.asarray(made[k])).sum() for k, f in factors.items())

        expected = finite_difference(loss, leaves[name])
        error = np.abs(gradient.numpy() - expected).max()
        assert error <= 1e-10 * np.abs(expected).max(), name


# ---- the spiking backward pass, by hand ----------------------------------------------------------


def adjoint(
    membranes: np.ndarray,
    currents: np.ndarray,
    spikes: np.ndarray,
    grad_spikes: np.ndarray,
    weight: np.ndarray,
    cell: Cell,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients by drive and recurrent weight, derived by hand from the update equations."""
    p, subtract = cell.parameters, cell.reset == "subtract"
    steps, *shape = membranes.shape
    grad_drive, grad_weight = np.zeros_like(membranes), np.zeros_like(weight)
    later_i, later_u = np.zeros(shape), np.zeros(shape)
    for n in reversed(range(steps)):
        before_reset = p.beta * membranes[n] + currents[n]
        keep = 1.0 if subtract else 1.0 - spikes[n]
        grad_s = grad_spikes[n].copy()
        if cell.gradient_through_recurrence:
            grad_s += later_i @ weight
        if cell.gradient_through_reset:
            grad_s -= later_u * (p.threshold if subtract else before_reset)
        grad_drive[n] = later_i
        grad_weight += later_i.T @ spikes[n]
        slope = 1 / (1 + SLOPE * np.abs(membranes[n] - p.threshold)) ** 2
        later_i, later_u = (
            p.alpha * later_i + keep * later_u,
            p.beta * keep * later_u + slope * grad_s,
        )
    return grad_drive, grad_weight


@pytest.mark.parametrize(
    ("engine", "spike"),
    [
        ("reference", SMOOTH),
        ("reference", SUPERSPIKE),
        pytest.param("cpp", SUPERSPIKE, marks=needs_compiler),
    ],
    ids=["smooth", "reference", "cpp"],
)
@pytest.mark.parametrize(("reset", "through"), list(product(RESETS, (False, True))))
@pytest.mark.parametrize("recurrence", [True, False], ids=["recurrence", "past-recurrence"])
def test_gradients_equal_the_adjoint_derived_by_hand(
    spike: Surrogate, reset: ResetMode, through: bool, recurrence: bool, engine: Any
):
    # With the smooth model the adjoint's formula is held to the test above; with spikes it is the same
    # formula at other states. So the spiking backward is that of the surrogate model.
    cell = lif_cell(reset, through, spike, recurrence)
    drive, weight = random_case(1, steps=20, batch=4, units=5)
    drive.requires_grad_()
    weight.requires_grad_()
    result = run(drive, weight, cell, engine)
    spikes, membranes = result.spikes, result.membranes
    generator = torch.Generator().manual_seed(2)
    grad_spikes = torch.randn(spikes.shape, dtype=torch.float64, generator=generator)
    spikes.backward(grad_spikes)

    with torch.no_grad():
        currents = [torch.zeros_like(drive[0])]
        for n in range(len(drive) - 1):
            currents.append(0.6 * currents[-1] + drive[n] + spikes[n] @ weight.t())
    grad_drive, grad_weight = adjoint(
        membranes.detach().numpy(),
        torch.stack(currents).numpy(),
        spikes.detach().numpy(),
        grad_spikes.numpy(),
        weight.detach().numpy(),
        cell,
    )
    assert 0 < spikes.mean() < 1
    assert drive.grad is not None
    assert weight.grad is not None
    np.testing.assert_allclose(drive.grad.numpy(), grad_drive, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(weight.grad.numpy(), grad_weight, rtol=1e-10, atol=1e-12)


# ---- what holds for any spikes -------------------------------------------------------------------


@engines
def test_spikes_are_where_the_membrane_is_above_threshold(engine: Any):
    result = run(*random_case(2, 30), lif_cell(), engine)
    assert torch.equal(result.spikes, (result.membranes > 0.7).double())
    assert result.spikes.sum() > 0


@engines
@given(seed=st.integers(0, 1000), step=st.integers(0, 19), reset=st.sampled_from(RESETS))
@settings(max_examples=25)
def test_a_drive_reaches_spikes_two_steps_later_and_never_earlier(
    seed: int, step: int, reset: ResetMode, engine: Any
):
    drive, weight = random_case(seed, steps=20)
    changed = drive.clone()
    changed[step] += 5.0
    before = run(drive, weight, lif_cell(reset), engine).membranes
    after = run(changed, weight, lif_cell(reset), engine).membranes
    assert torch.equal(before[: step + 2], after[: step + 2])
    if step + 2 < 20 and reset == "subtract":  # a reset to zero hides what arrives at that step
        assert (before[step + 2] != after[step + 2]).all()


@engines
@given(seed=st.integers(0, 1000), delay=st.integers(1, 5))
@settings(max_examples=20)
def test_a_later_input_gives_the_same_spikes_later(seed: int, delay: int, engine: Any):
    drive, weight = random_case(seed, steps=15)
    late = torch.cat([torch.zeros_like(drive[:delay]), drive])
    spikes = run(drive, weight, lif_cell(), engine).spikes
    late_spikes = run(late, weight, lif_cell(), engine).spikes
    assert torch.equal(late_spikes[delay:], spikes)
    assert not late_spikes[:delay].any()


@engines
@given(seed=st.integers(0, 1000), cut=st.integers(1, 14))
@settings(max_examples=20)
def test_a_scan_goes_on_where_another_stopped(seed: int, cut: int, engine: Any):
    drive, weight = random_case(seed, steps=15)
    whole = run(drive, weight, lif_cell(), engine)
    first = run(drive[:cut], weight, lif_cell(), engine)
    second = scan(
        drive[cut:], None, weight, lif_cell(), state=first.state, keep_membranes=True, engine=engine
    )
    assert torch.equal(torch.cat([first.spikes, second.spikes]), whole.spikes)
    assert torch.equal(torch.cat([first.membranes, second.membranes]), whole.membranes)
    assert all(map(torch.equal, second.state, whole.state))


@engines
def test_samples_of_a_batch_do_not_meet(engine: Any):
    drive, weight = random_case(3, steps=30, batch=6)
    together = run(drive, weight, lif_cell(), engine).spikes
    for b in range(6):
        alone = run(drive[:, b : b + 1], weight, lif_cell(), engine).spikes
        assert torch.equal(alone, together[:, b : b + 1])


@engines
def test_a_gated_unit_sends_nothing_to_anyone(engine: Any):
    drive, weight = random_case(4, steps=30)
    gate = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    gated = run(drive, weight, lif_cell(), engine, gate).spikes
    cut = weight.clone()
    cut[:, 0] = 0
    assert not gated[:, 0, 0].any()
    one, other = drive[:, :1], drive[:, 1:]
    assert torch.equal(gated[:, 0, 1:], run(one, cut, lif_cell(), engine).spikes[:, 0, 1:])
    assert torch.equal(gated[:, 1:], run(other, weight, lif_cell(), engine).spikes)


@engines
def test_a_gate_scales_what_is_sent_and_not_the_reset(engine: Any):
    # the trace by hand of test_neurons: one spike at n = 2, of size 3 for whoever listens
    drive = torch.tensor([2.0, 0, 0, 0, 0, 0], dtype=torch.float64)[:, None, None]
    cell = Cell(LIF, Parameters(0.5, 0.5, 1.0), SUPERSPIKE)
    gate = torch.full((1, 1), 3.0, dtype=torch.float64)
    result = run(drive, None, cell, engine, gate)
    assert result.spikes.flatten().tolist() == [0, 0, 3, 0, 0, 0]
    assert result.membranes.flatten().tolist() == [0, 0, 2, 1, 1, 0.75]
    # onto itself with weight 1/3 it adds 1 to I[3], and so to U[4]
    weight = torch.full((1, 1), 1 / 3, dtype=torch.float64)
    membranes = run(drive, weight, cell, engine, gate).membranes
    assert membranes.flatten()[:5].tolist() == [0, 0, 2, 1, 2]


@engines
def test_what_the_next_layer_receives_follows_from_the_spikes(engine: Any):
    case = make_case(Options("lif"), Shape(20, 3, 9, 7), 8, density=0.4, n_outgoing=4, gated=True)
    assert case.outgoing is not None
    result = run_scan(case, engine)
    assert result.spikes.sum() > 0
    received = torch.einsum("tbi,ji->tbj", result.spikes, case.outgoing)
    torch.testing.assert_close(result.projected, received, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.counts, result.spikes.sum(dim=0))
    unseen = run_scan(case, engine, Asked(spikes=False, membranes=False, peaks=False))
    assert torch.equal(unseen.projected, result.projected)
    assert torch.equal(unseen.counts, result.counts)


@engines
def test_layouts_of_the_input_are_one_input(engine: Any):
    shape, options = Shape(12, 4, 9, 7), Options("lif")
    events, spikes, drive = (
        run_scan(make_case(options, shape, 8, layout=layout, density=0.4), engine)
        for layout in ("events", "spikes", "drive")
    )
    assert events.spikes.sum() > 0
    torch.testing.assert_close(events.membranes, spikes.membranes, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(events.membranes, drive.membranes, rtol=1e-5, atol=1e-6)
