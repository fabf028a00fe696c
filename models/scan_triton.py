"""From a neuron's equations to Triton kernels: the template with statements filled in, in a file, imported.

Triton reads a kernel's source from its file, so what is generated has to lie in one. It goes to the folder
of compiled kernels, named by its content. Triton itself is imported with the generated file, at first use.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import re
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import sympy
from sympy.core.function import Application
from sympy.printing.pycode import PythonCodePrinter

from snnbench.errors import SnnbenchError
from snnbench.models import scan_triton_template as template
from snnbench.models.derivation import PlainPrinter, Recipe, assignments, derive
from snnbench.paths import kernel_dir, write_text


class TritonPrinter(PlainPrinter, PythonCodePrinter):
    """Triton's Python. Plain numbers take the type of the tensor that they meet."""

    one = "1"
    most_factors = math.inf  # what is below is for numbers above 0 only

    def doprint(self, expr: Any, assign_to: Any = None) -> str:
        """Expression as text; `log` and `sign` come of differentiating powers and abs."""
        known = (sympy.exp, sympy.log, sympy.Abs, sympy.sign, sympy.Piecewise)
        for function in sympy.sympify(expr).atoms(Application):
            if not isinstance(function, known):
                # what Python's own functions would make of a tensor is another matter
                raise SnnbenchError(
                    f"the Triton scan has no {function.func.__name__}: equations of a neuron may use"
                    " + - * / ** abs, and the functions of snnbench.models.expressions"
                )
        return str(super().doprint(expr, assign_to))

    def other_power(self, e: Any, **kwargs: Any) -> str:
        base = self._print(e.base)
        if e.is_number:
            return repr(float(e))
        if e.exp.is_number and abs(float(e.exp)) == 0.5:
            return f"tl.sqrt({base})" if e.exp > 0 else f"(1/tl.sqrt({base}))"
        log = repr(math.log(e.base)) if e.base.is_number else f"tl.log({base})"
        return f"tl.exp(({self._print(e.exp)})*{log})"

    def _print_exp(self, e: Any) -> str:
        return repr(float(e)) if e.is_number else f"tl.exp({self._print(e.args[0])})"

    def _print_log(self, e: Any) -> str:
        return repr(float(e)) if e.is_number else f"tl.log({self._print(e.args[0])})"

    def _print_Abs(self, e: Any) -> str:
        return f"tl.abs({self._print(e.args[0])})"

    def _print_sign(self, e: Any) -> str:
        x = self._print(e.args[0])
        return f"tl.where({x} > 0, 1.0, tl.where({x} < 0, -1.0, 0.0)).to(REAL)"

    def _print_Exp1(self, e: Any) -> str:
        return repr(math.e)

    def _print_Rational(self, e: Any) -> str:
        return f"({e.p}/{e.q})"

    def _print_Piecewise(self, e: Any) -> str:
        *cases, (otherwise, _) = e.args
        text = self._print(otherwise)
        for value, condition in reversed(cases):
            text = f"tl.where({self._print(condition)}, {self._print(value)}, {text})"
        # a choice between plain numbers meets no tensor that it could take the type of
        return f"{text}.to(REAL)"


def interpreted() -> bool:
    """Whether Triton is to run kernels in its interpreter, on tensors of the CPU: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def triton_language() -> Any:
    """The module `triton.language`.

    Raises
    ------
    SnnbenchError
        Triton is not installed.
    """
    try:
        import triton.language
    except ImportError as error:
        raise SnnbenchError(
            "work on a GPU needs triton, which is not installed: PyTorch for CUDA brings it; "
            "else `pip install triton`"
        ) from error
    return triton.language


def kernels(recipe: Recipe) -> Any:
    """A module with `forward_resident`, `backward_resident` and, for a neuron that spikes, the `_streamed`
    ones; `snnbench.models.scan_triton_template` tells what they are.

    Raises
    ------
    SnnbenchError
        Triton is not installed.
    """
    return _kernels(recipe, interpreted())


@cache
def _kernels(recipe: Recipe, interpreted: bool) -> ModuleType:
    # Triton decides when a kernel is decorated, that is here, whether it is compiled or interpreted
    triton_language()
    source = kernel_source(recipe)
    name = f"scan_{hashlib.sha256(source.encode()).hexdigest()[:24]}.py"
    try:
        path = kernel_dir() / name
        if not path.is_file() or path.read_text("utf-8") != source:
            write_text(path, source)
        return _imported(path)
    except (SnnbenchError, OSError):  # a cache that cannot be used only costs time
        with tempfile.TemporaryDirectory(prefix="snnbench-") as folder:
            path = Path(folder) / name
            write_text(path, source)
            return _imported(path)


def kernel_source(recipe: Recipe) -> str:
    """The template with the marked places filled in for a recipe."""
    text = template.HEADER.replace("@title", recipe.neuron.kind) + template.RESIDENT
    if recipe.neuron.distance is not None:
        text += template.STREAMED
    places = _statements(recipe)

    def fill(match: re.Match[str]) -> str:
        return "".join(f"{match['indent']}{line}\n" for line in places[match["place"]])

    return re.sub(r"^(?P<indent> +)@(?P<place>\w+)\n", fill, text, flags=re.MULTILINE)


def _statements(recipe: Recipe) -> dict[str, list[str]]:
    """What stands at the marked places of the template."""
    e, printer = derive(recipe), TritonPrinter()
    states, constants = recipe.neuron.State._fields, recipe.neuron.Parameters._fields
    gradients = recipe.parameter_gradients

    def code(results: dict[str, sympy.Expr | None]) -> list[str]:
        there = {name: x for name, x in results.items() if x is not None}
        return [f"{name} = {x}" for name, x in assignments(there, printer)]

    spike = ["spike_ = (distance_ > 0).to(REAL)"] if e.distance is not None else ["spike_ = 0.0"]
    store_kept = (
        "if kept_{name} is not None:\n    tl.store(kept_{name} + now + path, {name}_, mask=there)"
    )
    next_state = {f"next_{s}": x for s, x in e.next_state.items()}
    grad_state = {f"next_lam_{s}": x for s, x in e.grad_state.items()}
    grad_constants = {f"of_{p}": x for p, x in e.grad_parameters.items()}
    return {
        "kept_arguments": _lines("kept_{name},", (*states, "drive")),
        "kept_for_backward": _lines("kept_{name},", e.kept),
        "load_constants": _lines(
            "{name}_ = tl.load(constants + {k} * per_constant + constant)[None, :]", constants
        ),
        "load_first_state": _loads("{name}_", "first + {k} * per_part + at", states),
        "load_state": _loads("{name}_", "last + {k} * per_part + at", states),
        "store_last_state": _stores("last + {k} * per_part + at", "{name}_", states),
        "store_kept_state": _lines(store_kept, states),
        "store_kept_drive": _lines(store_kept, ["drive"]),
        "spike": [*code({"distance": e.distance}), *spike],
        "next_state": code(dict(next_state)),
        "advance_state": _lines("{name}_ = next_{name}_", states),
        "fetch_kept": _loads("coming_{name}", "kept_{name} + now + path", e.kept),
        "take_kept": _lines(
            "{name}_ = coming_{name}\n"
            "coming_{name} = tl.load(kept_{name} + earlier + path, mask=earlier_there, other=0.0)",
            e.kept,
        ),
        "load_kept": _loads("{name}_", "kept_{name} + now + path", e.kept),
        "begin_adjoint": _lines(
            "lam_{name}_ = tl.full((SAMPLES, UNITS), 0.0, REAL)\n"
            "if grad_last is not None:\n"
            "    lam_{name}_ = tl.load(grad_last + {k} * per_part + at, mask=there, other=0.0)",
            states,
        ),
        "load_adjoint": _loads("lam_{name}_", "grad_first + {k} * per_part + at", states),
        "advance_adjoint": _lines("lam_{name}_ = next_lam_{name}_", states),
        "store_adjoint": _stores("grad_first + {k} * per_part + at", "lam_{name}_", states),
        "begin_sums": _lines("sum_of_{name} = tl.full((SAMPLES, UNITS), 0.0, REAL)", gradients),
        "load_sums": _loads("sum_of_{name}", "sums + {k} * per_part + at", gradients),
        "add_to_sums": _lines("sum_of_{name} += of_{name}_", gradients),
        "store_sums": _stores("sums + {k} * per_part + at", "sum_of_{name}", gradients),
        "grad_drive": code({"grad_drive": e.grad_drive}),
        "grad_distance": code({"grad_distance": e.grad_distance}),
        # in one go: what they share is computed once
        "grad_state": code({**grad_state, **grad_constants}),
    }


def _lines(text: str, names: Iterable[str]) -> list[str]:
    """`text` for every name and its number k, cut into lines."""
    return [
        line for k, name in enumerate(names) for line in text.format(k=k, name=name).splitlines()
    ]


def _loads(variable: str, place: str, names: Iterable[str]) -> list[str]:
    return _lines(f"{variable} = tl.load({place}, mask=there, other=0.0)", names)


def _stores(place: str, variable: str, names: Iterable[str]) -> list[str]:
    return _lines(f"tl.store({place}, {variable}, mask=there)", names)


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"snnbench_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
