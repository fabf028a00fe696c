"""Derived adjoints against autograd; the statements that are printed; a neuron of one's own."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sympy
import torch
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models.derivation import (
    CppPrinter,
    Expressions,
    NumbaPrinter,
    Recipe,
    assignments,
    derive,
)
from snnbench.models.expressions import exp, where_positive
from snnbench.models.known_recipes import name_of, recipe_called
from snnbench.models.neuron import Neuron, Reset, ResetMode, make_reset
from snnbench.models.neurons.adlif import ADLIF
from snnbench.models.neurons.leaky import LEAKY
from snnbench.models.neurons.lif import LIF
from snnbench.models.neurons.lif_delta import LIF_DELTA
from snnbench.models.scan_triton import TritonPrinter
from snnbench.models.scan_types import Cell
from tests.scan_cases import (
    NEURONS,
    RESETS,
    Case,
    assert_agree,
    needs_compiler,
    run_scan,
    surrogate,
)

SLOPE = 4.0


class QuifState(NamedTuple):
    """Of the neuron below."""

    membrane: Any
    refractory: Any


class QuifParameters(NamedTuple):
    """Of the neuron below; some names are those of C++ and of kernels."""

    rate: Any
    double: Any
    sharpness: Any
    N: Any


def quif_step(
    drive: Any, spike: Any, state: QuifState, p: QuifParameters, reset: Reset
) -> QuifState:
    """Exponential upstroke up to a ceiling, square leak, and a threshold that moves."""
    x = p.sharpness * (state.membrane - p.double)
    upstroke = exp(where_positive(x, 0 * x, x)) / p.sharpness
    leak = p.rate * (state.membrane - upstroke + state.membrane**2 / 8)
    return QuifState(
        membrane=reset(state.membrane - leak + drive / (1 + abs(state.refractory)), p.double),
        refractory=state.refractory * p.N + spike / 4,
    )


def quif_distance(state: QuifState, p: QuifParameters) -> Any:
    """The threshold rises with what is left of earlier spikes, and has a constant of its own."""
    return state.membrane - p.double - state.refractory


# a kind of neuron that the package does not have: nothing but its equations is written for it
QUIF = Neuron("quif", QuifState, QuifParameters, quif_step, quif_distance)

ALL_NEURONS = {**NEURONS, "quif": QUIF}


def make_recipe(
    neuron: Neuron,
    reset: ResetMode = "subtract",
    through: bool = False,
    learned: tuple[str, ...] = (),
    kind: str = "superspike",
) -> Recipe:
    spike = surrogate(kind, SLOPE) if neuron.distance else None
    return Recipe(neuron, spike, reset, through, learned)


# ---- derivatives -----------------------------------------------------------------------------------


def point(neuron: Neuron, seed: int, n_units: int = 200) -> dict[str, Tensor]:
    """Random drive, state, constants and gradients from later, under the names of the symbols."""
    g = torch.Generator().manual_seed(seed)
    names = ["drive", *neuron.State._fields, *(f"lam_{s}" for s in neuron.State._fields)]
    values = {
        name: torch.randn(n_units, generator=g, dtype=torch.float64)
        for name in (*names, "grad_spike", "grad_membrane")
    }
    for name in neuron.Parameters._fields:
        values[name] = 0.1 + torch.rand(n_units, generator=g, dtype=torch.float64)
    return values


def by_autograd(recipe: Recipe, at: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of one step's lam . next state + grad_spike S + grad_membrane U."""
    neuron = recipe.neuron
    leaf = {k: v.clone().requires_grad_() for k, v in at.items()}
    state = neuron.State(*(leaf[k] for k in neuron.State._fields))
    p = neuron.Parameters(*(leaf[k] for k in neuron.Parameters._fields))
    spike = torch.zeros_like(at["drive"])
    if neuron.distance and recipe.surrogate:
        spike = recipe.surrogate(neuron.distance(state, p))
    reset_by = spike if recipe.gradient_through_reset else spike.detach()
    after = neuron.step(leaf["drive"], spike, state, p, make_reset(recipe.reset, reset_by))
    total = (at["grad_spike"] * spike + at["grad_membrane"] * state.membrane).sum()
    for part, value in after._asdict().items():
        total = total + (at[f"lam_{part}"] * value).sum()
    wanted = ["drive", *neuron.State._fields, *recipe.parameter_gradients]
    found = torch.autograd.grad(total, [leaf[k] for k in wanted], materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


def by_derivation(e: Expressions, at: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same from the derived equations, as SymPy evaluates them."""
    values = {k: v.numpy() for k, v in at.items()} | {"slope": SLOPE, "spike": 0.0}
    if e.distance is not None:
        values["spike"] = (evaluate(e.distance, values) > 0).double().numpy()
        values["grad_distance"] = evaluate(e.grad_distance, values).numpy()
    results = {"drive": e.grad_drive, **e.grad_state, **e.grad_parameters}
    return {k: evaluate(x, values).expand_as(at["drive"]) for k, x in results.items()}


def evaluate(expression: Any, values: dict[str, Any]) -> Tensor:
    symbols = sorted(expression.free_symbols, key=lambda s: s.name)
    f = sympy.lambdify(symbols, expression, "numpy")
    return torch.as_tensor(f(*(values[s.name] for s in symbols)), dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "reset", "through", "spike"),
    [
        *product(ALL_NEURONS, RESETS, (False, True), ("superspike",)),
        *product(
            ("lif", "quif"), ("zero",), (True,), ("sigmoid", "triangle", "boxcar", "gaussian")
        ),
    ],
)
def test_adjoint_is_autograds_of_one_step(kind: str, reset: ResetMode, through: bool, spike: str):
    neuron = ALL_NEURONS[kind]
    recipe = make_recipe(neuron, reset, through, neuron.Parameters._fields, spike)
    at = point(neuron, seed=1)
    expected, found = by_autograd(recipe, at), by_derivation(derive(recipe), at)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("kind", ALL_NEURONS)
@pytest.mark.parametrize("reset", RESETS)
def test_next_state_is_the_neurons_step(kind: str, reset: ResetMode):
    neuron = ALL_NEURONS[kind]
    e, at = derive(make_recipe(neuron, reset)), point(neuron, seed=2)
    state = neuron.State(*(at[k] for k in neuron.State._fields))
    p = neuron.Parameters(*(at[k] for k in neuron.Parameters._fields))
    spike = (torch.arange(len(at["drive"])) % 2).double()
    after = neuron.step(at["drive"], spike, state, p, make_reset(reset, spike))
    values = {k: v.numpy() for k, v in at.items()} | {"spike": spike.numpy()}
    for part, expected in after._asdict().items():
        found = evaluate(e.next_state[part], values)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# ---- what the backward pass has to be given ---------------------------------------------------


def in_words(value: Recipe | tuple[str, ...]) -> str:
    """A test's name that is the same in every process: addresses of functions are not."""
    if not isinstance(value, Recipe):
        return " ".join(value) or "nothing"
    through = ["through"] * value.gradient_through_reset
    return " ".join([value.neuron.kind, value.reset, *through, *(value.parameter_gradients or ())])


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        (make_recipe(LIF), ("membrane",)),
        (make_recipe(LIF, "subtract", through=True), ("membrane",)),
        (make_recipe(LIF, "zero"), ("membrane",)),
        # the reset's own gradient is what it took away: beta U + I
        (make_recipe(LIF, "zero", through=True), ("current", "membrane")),
        (make_recipe(LIF, learned=("alpha",)), ("current", "membrane")),
        (make_recipe(LIF, learned=("beta",)), ("membrane",)),
        (make_recipe(LIF_DELTA), ("membrane",)),
        (make_recipe(LIF_DELTA, "zero", through=True), ("membrane", "drive")),
        (make_recipe(ADLIF), ("membrane",)),
        (make_recipe(ADLIF, learned=("a",)), ("membrane",)),
        (make_recipe(ADLIF, learned=("alpha",)), ("membrane", "adaptation", "drive")),
        (make_recipe(LEAKY), ()),
        (make_recipe(LEAKY, learned=("alpha",)), ("current",)),
        (make_recipe(LEAKY, learned=("alpha", "beta")), ("current", "membrane")),
    ],
    ids=in_words,
)
def test_backward_pass_is_given_no_more_than_it_reads(recipe: Recipe, kept: tuple[str, ...]):
    assert derive(recipe).kept == kept


# ---- printed statements ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_NEURONS)
@pytest.mark.parametrize("reset", RESETS)
def test_printed_statements_compute_what_they_were_printed_from(kind: str, reset: ResetMode):
    neuron = ALL_NEURONS[kind]
    e = derive(make_recipe(neuron, reset, through=True, learned=neuron.Parameters._fields))
    at = point(neuron, seed=3, n_units=5)
    results = {f"next_{k}": x for k, x in e.grad_state.items()}
    results |= {f"of_{k}": x for k, x in e.grad_parameters.items()}
    statements = assignments(results, NumbaPrinter())
    for k in range(5):
        values = {name: float(v[k]) for name, v in at.items()}
        values |= {"slope": SLOPE, "spike": float(k % 2), "grad_distance": 0.7 - k}
        names: dict[str, Any] = {f"{name}_": v for name, v in values.items()}
        names |= {"math": math, "real": float}
        for name, text in statements:
            names[name] = eval(text, names)
        for name, x in results.items():
            expected = float(evaluate(x, values))
            assert names[f"{name}_"] == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_numbers_and_powers_are_printed_in_the_kernels_type():
    # without a type of its own a number would turn float into double, and pow is slow
    x, k = sympy.symbols("x k", real=True)
    results = {"y": abs(x) / 3 + 1.5, "z": sympy.exp(-k), "u": x**-2, "v": x**3}
    statements = dict(assignments(results, CppPrinter()))
    assert "real(1)/real(3)" in statements["y_"]
    assert "real(1.5" in statements["y_"]
    assert "ABS(x_)" in statements["y_"]
    assert statements["z_"] == "EXP(-k_)"
    assert statements["u_"] == "(real(1)/((x_)*(x_)))"
    assert statements["v_"] == "((x_)*(x_)*(x_))"


def test_what_is_shared_is_computed_once():
    x, y = sympy.symbols("x y", real=True)
    statements = assignments({"u": sympy.exp(x * y) + 1, "v": sympy.exp(x * y) * 2}, CppPrinter())
    assert sum("EXP" in text for _, text in statements) == 1
    assert [name for name, _ in statements][-2:] == ["u_", "v_"]


# ---- what a neuron may be called -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("slope", "drive", "spike", "distance", "membrane", "sent"),
        *("lam_membrane", "grad_spike", "next_membrane", "of_threshold", "distance_0", "row_"),
    ],
)
def test_a_name_that_stands_for_something_else_is_refused(name: str):
    constants = NamedTuple("Constants", [(name, Any)])  # type: ignore[misc]
    with pytest.raises(SnnbenchError, match=f"neuron mine: '{name}'"):
        Neuron("mine", LIF_DELTA.State, constants, LIF_DELTA.step, LIF_DELTA.distance)


def test_a_neuron_needs_a_membrane():
    class Charge(NamedTuple):
        charge: Any

    with pytest.raises(SnnbenchError, match="membrane"):
        Neuron("mine", Charge, LIF_DELTA.Parameters, LIF_DELTA.step, LIF_DELTA.distance)


class CrowdedState(NamedTuple):
    """Of the neuron below."""

    membrane: Any
    membrane_0: Any
    row: Any


class CrowdedParameters(NamedTuple):
    """Of the neuron below; names that templates use, or make of others."""

    k: Any
    kept_membrane: Any
    coming_membrane: Any
    sum_of_k: Any
    row_membrane: Any
    count: Any


def crowded_step(drive: Any, spike: Any, state: Any, p: Any, reset: Reset) -> Any:
    """What several results share gets a name of its own, beside those of the state's parts."""
    shared = exp(-p.k * state.membrane * state.membrane)
    other = exp(-p.count * state.row * state.row)
    return CrowdedState(
        membrane=reset(p.kept_membrane * state.membrane + drive * shared + other, 1.0),
        membrane_0=p.coming_membrane * state.membrane_0 + shared + p.sum_of_k * spike,
        row=p.row_membrane * state.row + shared * other - state.membrane_0 / 4,
    )


CROWDED = Neuron(
    "crowded", CrowdedState, CrowdedParameters, crowded_step, lambda s, p: s.membrane - p.count
)


class PowerState(NamedTuple):
    """Of the neuron below."""

    membrane: Any
    slow: Any


class PowerParameters(NamedTuple):
    """Of the neuron below."""

    k: Any
    beta: Any


def power_step(drive: Any, spike: Any, state: Any, p: Any, reset: Reset) -> Any:
    """All kinds of powers, of numbers of both signs where they are whole."""
    u, w = state.membrane, state.slow
    size = 1 + u * u
    up = size**0.5 / 10 + size**1.5 * exp(-u * u) / 4 + w**2.0 / (8 + w**4)
    return PowerState(
        membrane=reset(p.beta * u + drive - u**5 * size**-2.5 / 4 + up, 1.0),
        slow=p.beta * w / 2 + size**-p.k + abs(u - w) / 10 - 0.5**p.k + w**-2 * w**5 / (9 + w**6),
    )


POWERS = Neuron("powers", PowerState, PowerParameters, power_step, lambda s, p: s.membrane - p.beta)


def case_of(neuron: Neuron) -> Case:
    """A layer of units of this kind, all of whose constants are learned."""
    g = torch.Generator().manual_seed(5)

    def draw(*size: int, low: float, high: float) -> Tensor:
        values = low + (high - low) * torch.rand(*size, generator=g, dtype=torch.float64)
        return values.requires_grad_()

    p = neuron.Parameters(*(draw(9, low=0.3, high=0.9) for _ in neuron.Parameters._fields))
    return Case(
        Cell(neuron, p, surrogate("superspike", SLOPE), "subtract", True),
        inputs=draw(12, 6, 9, low=-1.0, high=1.0),
        weight=None,
        recurrent=draw(9, 9, low=-0.3, high=0.3),
        outgoing=None,
        state=neuron.State(*(draw(6, 9, low=-1, high=1) for _ in neuron.State._fields)),
    )


@pytest.mark.parametrize("engine", [pytest.param("cpp", marks=needs_compiler), "numba", "triton"])
@pytest.mark.parametrize("neuron", [CROWDED, POWERS], ids=lambda neuron: neuron.kind)
def test_whatever_names_and_powers_a_neuron_has_all_engines_agree(
    neuron: Neuron, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if engine == "triton":
        pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA, or pip install")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    case = case_of(neuron)
    rate = float(run_scan(case, "reference").spikes.detach().mean())
    assert 0.05 < rate < 0.8
    assert_agree(case, engine, seed=6)


def test_what_triton_has_no_function_for_is_refused():
    u = sympy.Symbol("u", real=True)
    for e in (sympy.sin(u), sympy.Max(u, 0), sympy.floor(u)):
        with pytest.raises(SnnbenchError, match=f"Triton scan has no {e.func.__name__}"):
            TritonPrinter().doprint(1 + u * e)


# ---- a new neuron is one file -------------------------------------------------------------------


@pytest.mark.parametrize(("reset", "dtype"), [("subtract", torch.float32), ("zero", torch.float64)])
@needs_compiler
def test_a_neuron_written_here_runs_compiled(reset: ResetMode, dtype: torch.dtype):
    g = torch.Generator().manual_seed(11)

    def draw(*size: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        values = low + (high - low) * torch.rand(*size, generator=g, dtype=torch.float64)
        return values.to(dtype).requires_grad_()

    p = QuifParameters(
        rate=draw(9, low=0.2, high=0.5),
        double=draw(9, low=0.5, high=1.0).detach(),
        sharpness=3.0,
        N=draw(9, low=0.3, high=0.9),
    )
    through = reset == "zero"
    cell = Cell(QUIF, p, surrogate("superspike", SLOPE), reset, through)
    case = Case(
        cell,
        inputs=draw(25, 18, 9, low=-0.6, high=1.0),
        weight=None,
        recurrent=draw(9, 9, low=-0.3, high=0.3),
        outgoing=draw(4, 9, low=-1.0),
        state=QuifState(draw(18, 9), draw(18, 9)),
        gate=(torch.rand(18, 9, generator=g) < 0.8).to(dtype),
    )
    for engine in ("reference", "cpp"):
        rate = float(run_scan(case, engine).spikes.detach().mean())
        assert 0.05 < rate < 0.8
    assert {"constant rate", "constant N", "first membrane", "first refractory"} < set(
        case.leaves()
    )
    # the threshold moves, so ties cannot be told from the membrane alone; these numbers have none
    assert_agree(case, "cpp", seed=12)


def test_a_distance_is_a_sum():
    # kernels decide in several loops whether a unit spikes; a product might be rounded otherwise in each
    neuron = Neuron(
        "mine",
        LIF_DELTA.State,
        LIF_DELTA.Parameters,
        LIF_DELTA.step,
        lambda state, p: state.membrane * p.beta - p.threshold,
    )
    with pytest.raises(SnnbenchError, match="add and subtract"):
        derive(Recipe(neuron, surrogate("superspike", SLOPE), "subtract", False, ()))


def test_two_neurons_of_one_name_keep_their_recipes():
    def twice(drive: Any, spike: Any, state: Any, p: Any, reset: Reset) -> Any:
        return LIF_DELTA.step(2 * drive, spike, state, p, reset)

    other = Neuron("lif-delta", LIF_DELTA.State, LIF_DELTA.Parameters, twice, LIF_DELTA.distance)
    recipes = [
        Recipe(neuron, surrogate("superspike", SLOPE), "subtract", False, ())
        for neuron in (LIF_DELTA, other)
    ]
    names = [name_of(recipe) for recipe in recipes]
    assert names[0] != names[1]
    # a test before may have been the first to use that name, with another slope
    assert [recipe_called(name).neuron for name in names] == [LIF_DELTA, other]
    assert [name_of(recipe) for recipe in recipes] == names
