"""The CPU's kernels in numba, for machines without a C++ compiler: scan_numba_template.py filled in.

The interface and the numbers are those of `snnbench.models.scan_cpp`; it takes somewhat longer for them, and
some seconds to compile a kind of neuron for the first time.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import sys
from collections.abc import Iterable
from functools import cache
from importlib import resources
from types import ModuleType
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models.derivation import Expressions, NumbaPrinter, Recipe, assignments, derive
from snnbench.paths import kernel_dir, write_text

_REAL = {torch.float32: np.float32, torch.float64: np.float64}
_INTEGERS = {"indptr": np.int64, "channels": np.uint16, "bits": np.int64}


class NumbaKernels:
    """Forward, backward and outer product of one recipe and type of number.

    Called as `snnbench.models.scan_cpp.CppKernels` is.
    """

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        from snnbench.models.scan_numba_rows import outer

        module = _module(kernel_source(recipe, dtype))
        self._real = _REAL[dtype]
        self._functions = {"forward": module.forward, "backward": module.backward, "outer": outer}

    def prepare(self, name: str, fields: dict[str, Any]) -> Any:
        """A function (first, last) that runs `name` on these fields; threads may share it."""
        function = self._functions[name]
        *wanted, _, _ = inspect.signature(function.py_func).parameters
        arguments = [self._argument(key, fields[key]) for key in wanted]

        def run(first: int, last: int) -> None:
            call(function, *arguments, first, last)

        return run

    def cached(self, name: str) -> bool:
        """Whether what has run of `name` was found in the cache, and nothing had to be compiled."""
        stats = self._functions[name].stats
        return bool(stats.cache_hits) and not stats.cache_misses

    def _argument(self, key: str, value: Any) -> Any:
        # one type for what is there and what is not: else every combination would be compiled
        if isinstance(value, list):
            return tuple(self._argument(key, v) for v in value)
        if isinstance(value, float):
            return self._real(value)
        if isinstance(value, Tensor):
            return value.detach().numpy().reshape(-1)
        return np.empty(0, _INTEGERS.get(key, self._real)) if value is None else value


def call(function: Any, *arguments: Any) -> Any:
    """Call a compiled function; if what numba has kept of it is damaged, compile it again."""
    try:
        return function(*arguments)
    except (pickle.UnpicklingError, EOFError):  # raised before anything of the function has run
        function._cache.flush()
        return function(*arguments)


@cache
def kernels(recipe: Recipe, dtype: torch.dtype) -> NumbaKernels:
    """Kernels for a recipe, compiled when they first run, from the cache where that has happened before."""
    return NumbaKernels(recipe, dtype)


def kernel_source(recipe: Recipe, dtype: torch.dtype) -> str:
    """scan_numba_template.py with the marked places filled in."""
    statements = _statements(derive(recipe)) | {"constants": _constants(recipe, dtype)}
    lines: list[str] = []
    for line in _text("scan_numba_template.py").splitlines():
        indent, marked, place = line.partition("# @")
        if marked:
            lines += [indent + statement for statement in statements[place]]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _constants(recipe: Recipe, dtype: torch.dtype) -> list[str]:
    return [
        "CACHE = True",
        f"real = np.{_REAL[dtype].__name__}",
        f"SPIKES = {recipe.neuron.distance is not None}",
        f"MEMBRANE = {recipe.neuron.State._fields.index('membrane')}",
        f"N_STATES = {len(recipe.neuron.State._fields)}",
        f"N_PARAMETERS = {len(recipe.neuron.Parameters._fields)}",
        f"N_GRADIENTS = {len(recipe.parameter_gradients)}",
    ]


def _statements(e: Expressions) -> dict[str, list[str]]:
    """What stands at the marked places of the template, line by line."""
    recipe, printer = e.recipe, NumbaPrinter()
    states, parameters = recipe.neuron.State._fields, recipe.neuron.Parameters._fields
    parts = (*states, "drive")

    def code(results: dict[str, sympy.Expr | None]) -> list[str]:
        wanted = {name: x for name, x in results.items() if x is not None}
        return [f"{name} = {text}" for name, text in assignments(wanted, printer)] if wanted else []

    distance = code({"distance": e.distance}) or ["distance_ = real(0)"]
    next_state = {f"next_{s}": x for s, x in e.next_state.items()}
    grad_state = {f"next_{s}": x for s, x in e.grad_state.items()}
    constants = {f"of_{s}": x for s, x in e.grad_parameters.items()}
    return {
        "load_parameters": _loads("{}_ = parameters[{} * BLOCK + i]", enumerate(parameters)),
        "load_state": _loads("{}_ = state[{} * BLOCK + i]", enumerate(states)),
        "distance": distance,
        "spike": [*distance, "spike_ = real(1) if distance_ > real(0) else real(0)"],
        "next_state": code(next_state),
        "store_state": [f"state[{k} * BLOCK + i] = next_{s}_" for k, s in enumerate(states)],
        "kept_rows": [f"row_{s} = view(kept[{parts.index(s)}], row, n)" for s in e.kept],
        "load_kept": [f"{s}_ = row_{s}[i]" for s in e.kept],
        "load_adjoint": _loads("lam_{}_ = adjoint[{} * BLOCK + i]", enumerate(states)),
        "grad_drive": code({"grad_drive": e.grad_drive}),
        "grad_distance": code({"grad_distance": e.grad_distance}),
        # one block: what they share is computed once
        "grad_state": code({**grad_state, **constants}),
        "store_adjoint": [f"adjoint[{k} * BLOCK + i] = next_{s}_" for k, s in enumerate(states)],
        "add_gradients": [
            f"adjoint[{k} * BLOCK + i] += of_{s}_"
            for k, s in enumerate(recipe.parameter_gradients, start=len(states))
        ],
    }


def _loads(line: str, names: Iterable[tuple[int, str]]) -> list[str]:
    return [line.format(name, k) for k, name in names]


def _module(source: str) -> ModuleType:
    """The module of a source: a file in the cache folder, beside which numba keeps what it has compiled."""
    # numba sees changes of this file only, so its name covers what it imports and who compiles it
    made_from = "\n".join((source, _text("scan_numba_rows.py"), sys.version))
    name = f"snnbench_scan_{hashlib.sha256(made_from.encode()).hexdigest()[:24]}"
    path = kernel_dir() / f"{name}.py"
    try:
        if not path.is_file() or path.read_bytes() != source.encode():
            write_text(path, source)
        return _imported(name, source, str(path))
    except (SnnbenchError, OSError, RuntimeError):
        # numba raises RuntimeError where it finds no folder for its cache, which only costs time
        return _imported(name, source.replace("CACHE = True", "CACHE = False"), "<kernel>")


def _imported(name: str, source: str, file: str) -> ModuleType:
    # what numba keeps refers to the module by its name
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = file
    exec(compile(source, file, "exec"), module.__dict__)
    return module


def _text(name: str) -> str:
    return resources.files("snnbench.models").joinpath(name).read_text("utf-8")
