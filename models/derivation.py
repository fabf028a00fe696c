"""From a neuron's equations to the statements of a kernel: derivatives and code are made, not written.

A `Neuron` says one step forward. Its backward pass is the adjoint of that step with the surrogate in place
of the spike's derivative: with lam_k = dL/dstate_k[n + 1] and g = dL/dS[n] from whoever received the spikes,

    dL/dD[n]       = sum_k lam_k dstep_k/dD
    gS             = g + sum_k lam_k dstep_k/dS            (with or without the reset's part)
    gx             = gS surrogate'(x[n]),  x = distance(state)
    dL/dstate_j[n] = sum_k lam_k dstep_k/dstate_j + gx dx/dstate_j   (+ dL/dU[n] where a loss sees it)
    dL/dp          = sum_n sum_k lam_k dstep_k/dp + gx dx/dp

SymPy differentiates, and finds common subexpressions; printers write the statements for C++, numba or Triton,
for one unit at one step. What the backward pass reads of the forward pass, it has to be given:
`Expressions.kept` lists it, and usually it is the membrane alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import count
from typing import Any

import sympy
from sympy.printing.c import C99CodePrinter
from sympy.printing.pycode import PythonCodePrinter

from snnbench.errors import SnnbenchError
from snnbench.models.neuron import Neuron, ResetMode, make_reset
from snnbench.models.surrogate import Surrogate

Statements = tuple[tuple[str, str], ...]
"""Assignments (name, expression) in the order in which they have to run."""


@dataclass(frozen=True)
class Recipe:
    """What a kernel is made for."""

    neuron: Neuron
    surrogate: Surrogate | None
    reset: ResetMode
    gradient_through_reset: bool
    parameter_gradients: tuple[str, ...]
    """Names of the constants whose gradient is wanted."""


@dataclass(frozen=True)
class Expressions:
    """Equations of one unit at one step, in the symbols that `derive` lists."""

    recipe: Recipe
    distance: sympy.Expr | None
    next_state: dict[str, sympy.Expr]
    grad_drive: sympy.Expr
    grad_distance: sympy.Expr | None
    grad_state: dict[str, sympy.Expr]
    grad_parameters: dict[str, sympy.Expr]

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """What the backward pass reads of each step: parts of the state, or the drive; in this order."""
        read: set[str] = set()
        for e in self._backward:
            read |= {symbol.name for symbol in e.free_symbols}
        return tuple(s for s in (*self.recipe.neuron.State._fields, "drive") if s in read)

    @property
    def _backward(self) -> list[sympy.Expr]:
        parts = [self.grad_drive, *self.grad_state.values(), *self.grad_parameters.values()]
        # spikes are found again from the state
        return [*parts, *(e for e in (self.distance, self.grad_distance) if e is not None)]


@cache
def derive(recipe: Recipe) -> Expressions:
    """A recipe's equations and their adjoint.

    Symbols: `drive`, `spike`, `slope`, the names of state parts and constants, `lam_<part>` for the
    adjoint of the next state, `grad_spike` for dL/dS from outside, `grad_distance` for gx, and
    `grad_membrane` for dL/dU from outside.
    """
    neuron = recipe.neuron
    state = neuron.State(*map(_symbol, neuron.State._fields))
    p = neuron.Parameters(*map(_symbol, neuron.Parameters._fields))
    drive, spike, reset_spike = map(_symbol, ("drive", "spike", "reset_spike"))
    after = neuron.step(drive, spike, state, p, make_reset(recipe.reset, reset_spike))
    lam = {part: _symbol(f"lam_{part}") for part in neuron.State._fields}

    def pulled_back(by: sympy.Symbol) -> sympy.Expr:
        parts = zip(neuron.State._fields, after, strict=True)
        total = sum(lam[part] * sympy.diff(e, by) for part, e in parts)
        return sympy.sympify(total).subs(reset_spike, spike)

    x, grad_x = None, None
    if neuron.distance is not None and recipe.surrogate is not None:
        x = sympy.sympify(neuron.distance(state, p))
        _check_distance(neuron, x)
        grad_spike = _symbol("grad_spike") + pulled_back(spike)
        if recipe.gradient_through_reset:
            grad_spike += pulled_back(reset_spike)
        grad_x = grad_spike * recipe.surrogate.derivative(x, _symbol("slope"))

    def gradient(by: sympy.Symbol) -> sympy.Expr:
        total = pulled_back(by)
        return total if x is None else total + _symbol("grad_distance") * sympy.diff(x, by)

    grad_state = {s.name: gradient(s) for s in state}
    grad_state["membrane"] += _symbol("grad_membrane")
    return Expressions(
        recipe=recipe,
        distance=x,
        next_state={
            part: sympy.sympify(e).subs(reset_spike, spike)
            for part, e in zip(neuron.State._fields, after, strict=True)
        },
        grad_drive=pulled_back(drive),
        grad_distance=grad_x,
        grad_state=grad_state,
        grad_parameters={s.name: gradient(s) for s in p if s.name in recipe.parameter_gradients},
    )


def _check_distance(neuron: Neuron, x: sympy.Expr) -> None:
    # kernels decide in several loops whether a unit spikes, and have to decide alike: a compiler may fuse a
    # product with a sum in one loop and not in another, while sums of the same numbers are always the same
    if not all(term.is_Symbol or (-term).is_Symbol for term in sympy.Add.make_args(x)):
        raise SnnbenchError(
            f"neuron {neuron.kind}: its distance is {x}; it may add and subtract parts of the state and"
            " constants only. Keep what needs more as a part of the state"
        )


def assignments(
    results: dict[str, sympy.Expr], printer: sympy.printing.codeprinter.CodePrinter
) -> Statements:
    """Statements that compute `results`, what they share computed once.

    Names are printed as symbols are, so that one statement reads what another wrote.
    """
    # named after the first result, since several blocks may stand in one function, but not as another result:
    # there may be states `u` and `u_0`
    made = (f"{next(iter(results))}_{n}" for n in count())
    names = (_symbol(name) for name in made if name not in results)
    shared, values = sympy.cse(list(results.values()), symbols=names)
    named = [*shared, *zip(map(_symbol, results), values, strict=True)]
    return tuple((printer.doprint(name), printer.doprint(e)) for name, e in named)


class PlainPrinter:
    """What all printers do alike."""

    def _print_Symbol(self, symbol: Any) -> str:
        # so it is no keyword; the template's own names that end so are refused in snnbench.models.neuron
        return f"{symbol.name}_"

    one: str
    most_factors = 4.0
    """Of a whole power that is printed as a product."""

    def _print_Pow(self, e: Any, **kwargs: Any) -> str:
        # whole powers as products: no library call, and every compiler sees through them
        exponent = float(e.exp) if e.exp.is_number else 0.5
        if exponent.is_integer() and abs(exponent) <= self.most_factors:
            text = self._print(e.base)  # type: ignore[attr-defined]
            product = "*".join([f"({text})"] * int(abs(exponent))) or self.one
            return f"({product})" if exponent >= 0 else f"({self.one}/({product}))"
        return self.other_power(e, **kwargs)

    def other_power(self, e: Any, **kwargs: Any) -> str:
        """A power that is no such product."""
        return str(super()._print_Pow(e, **kwargs))  # type: ignore[misc]


class RealPrinter(PlainPrinter):
    """Where every number is of type `real`."""

    one = "real(1)"

    def _print_Integer(self, e: Any) -> str:
        return f"real({int(e)})"

    def _print_Rational(self, e: Any) -> str:
        return f"(real({e.p})/real({e.q}))"

    def _print_Float(self, e: Any) -> str:
        return f"real({super()._print_Float(e)})"  # type: ignore[misc]


class CppPrinter(RealPrinter, C99CodePrinter):
    """C++ for scan_kernel.cpp."""

    def _print_Abs(self, e: Any) -> str:
        return f"ABS({self._print(e.args[0])})"

    def _print_exp(self, e: Any) -> str:
        return f"EXP({self._print(e.args[0])})"


class NumbaPrinter(RealPrinter, PythonCodePrinter):
    """Python for scan_numba_template.py."""


def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, real=True)
