"""The CPU's kernels in C++: scan_kernel.cpp with a neuron's statements filled in, compiled, called."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import resources
from typing import Any

import sympy
import torch
from torch import Tensor

from snnbench.models.compiler import library
from snnbench.models.derivation import CppPrinter, Expressions, Recipe, assignments, derive

_REAL = {torch.float32: "float", torch.float64: "double"}
_REAL_TYPE = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}

FORWARD = (
    ("n_steps", int), ("n_batch", int), ("n_units", int), ("padded", int), ("n_inputs", int),
    ("n_outgoing", int), ("padded_outgoing", int), ("group", int), ("indptr", Tensor),
    ("channels", Tensor), ("rows", Tensor), ("weight", Tensor), ("recurrent", Tensor),
    ("outgoing", Tensor), ("parameters", Tensor), ("state", Tensor), ("gate", Tensor),
    ("bits", Tensor), ("spikes", Tensor), ("counts", Tensor), ("projected", Tensor),
    ("final_state", Tensor), ("peaks", Tensor), ("peak_steps", Tensor), ("kept", list),
)  # fmt: skip
BACKWARD = (
    ("n_steps", int), ("n_batch", int), ("n_units", int), ("padded", int), ("n_outgoing", int),
    ("group", int), ("recurrent", Tensor), ("outgoing", Tensor), ("parameters", Tensor),
    ("gate", Tensor), ("kept", list), ("grad_spikes", Tensor), ("grad_counts", Tensor),
    ("grad_projected", Tensor), ("grad_membranes", Tensor), ("grad_final", Tensor),
    ("grad_peaks", Tensor), ("peak_steps", Tensor), ("slope", float), ("grad_drive", Tensor),
    ("grad_state", Tensor), ("grad_parameters", Tensor),
)  # fmt: skip
OUTER = (
    ("n_steps", int), ("n_units", int), ("n_onward", int), ("n_inputs", int), ("tile", int),
    ("first_row", int), ("last_row", int), ("indptr", Tensor), ("channels", Tensor),
    ("rows", Tensor), ("bits", Tensor), ("gate", Tensor), ("grad", Tensor), ("grad_onward", Tensor),
    ("out", Tensor), ("out_onward", Tensor),
)  # fmt: skip


class CppKernels:
    """Forward, backward and outer product of one recipe and type of number.

    Each call takes the fields of the struct of its name in scan_kernel.cpp, tensors as tensors (contiguous,
    None for a null pointer), and the range of samples or inputs to work on.
    """

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        n_kept = len(recipe.neuron.State._fields) + 1
        self._library = library(kernel_source(recipe, dtype))
        self._structs = {
            name: _struct(name, fields, n_kept, dtype)
            for name, fields in (("forward", FORWARD), ("backward", BACKWARD), ("outer", OUTER))
        }
        self._functions = {name: getattr(self._library, name) for name in self._structs}
        for function in self._functions.values():
            function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
            function.restype = None

    def prepare(self, name: str, fields: dict[str, Any]) -> Any:
        """A function (first, last) that runs `name` on these fields; threads may share it."""
        struct = self._structs[name](**{k: _pointers(v) for k, v in fields.items()})
        function = self._functions[name]

        def run(first: int, last: int) -> None:
            function(ctypes.byref(struct), first, last)

        run.fields = fields  # type: ignore[attr-defined]  # the struct holds only their addresses
        return run


@cache
def kernels(recipe: Recipe, dtype: torch.dtype) -> CppKernels:
    """Compiled kernels for a recipe, from the cache where they have been made before."""
    return CppKernels(recipe, dtype)


def kernel_source(recipe: Recipe, dtype: torch.dtype) -> str:
    """scan_kernel.cpp with the marked places filled in."""
    template = resources.files("snnbench.models").joinpath("scan_kernel.cpp").read_text("utf-8")
    source = template.replace("/*@", "\0").replace("*/", "\1")
    for place, text in _statements(derive(recipe)).items():
        source = source.replace(f"\0{place}\1", text)
    head = f"#define REAL {_REAL[dtype]}\n#define REAL_IS_FLOAT {int(dtype == torch.float32)}\n"
    return head + source.replace("\1", "*/")


def _statements(e: Expressions) -> dict[str, str]:
    """What stands at the marked places of the template."""
    recipe, printer = e.recipe, CppPrinter()
    states, parameters = recipe.neuron.State._fields, recipe.neuron.Parameters._fields

    def code(results: dict[str, sympy.Expr]) -> str:
        return _block(
            f"const real {name} = {text};" for name, text in assignments(results, printer)
        )

    distance = {} if e.distance is None else {"distance": e.distance}
    spike = (
        "const real spike_ = real(0);"
        if e.distance is None
        else code(distance) + "\nconst real spike_ = distance_ > real(0) ? real(1) : real(0);"
    ) + " (void)spike_;"
    next_state = {f"next_{s}": x for s, x in e.next_state.items()}
    grad_state = {f"next_{s}": x for s, x in e.grad_state.items()}
    constants = {f"of_{s}": x for s, x in e.grad_parameters.items()}
    return {
        "n_states": str(len(states)),
        "membrane": str(states.index("membrane")),
        "n_parameters": str(len(parameters)),
        "n_gradients": str(len(recipe.parameter_gradients)),
        "spikes": "false" if e.distance is None else "true",
        "load_parameters": _loads(parameters, "parameters[{k} * NP + i]"),
        "load_state": _loads(states, "state[{k} * part + i]"),
        "distance": code(distance) if distance else "const real distance_ = real(0);",
        "spike": spike,
        "next_state": code(next_state),
        "store_state": _block(f"state[{k} * part + i] = next_{s}_;" for k, s in enumerate(states)),
        "kept_rows": _block(
            f"const real *__restrict row_{s} = p->kept[{k}] + row;"
            for k, s in enumerate((*states, "drive"))
            if s in e.kept
        ),
        "load_kept": _block(f"const real {s}_ = row_{s}[i]; (void){s}_;" for s in e.kept),
        "load_adjoint": _block(
            f"const real lam_{s}_ = lam[{k} * part + i]; (void)lam_{s}_;"
            for k, s in enumerate(states)
        ),
        "kept_spike": spike,
        "grad_drive": code({"grad_drive": e.grad_drive}),
        "grad_distance": code({"grad_distance": e.grad_distance})
        if e.grad_distance is not None
        else "",
        # one block: what they share is computed once
        "grad_state": code({**grad_state, **constants}),
        "store_adjoint": _block(f"lam[{k} * part + i] = next_{s}_;" for k, s in enumerate(states)),
        "add_gradients": _block(
            f"sums[{k} * part + i] += of_{s}_;" for k, s in enumerate(recipe.parameter_gradients)
        ),
    }


def _loads(names: Any, place: str) -> str:
    return _block(
        f"const real {name}_ = {place.format(k=k)}; (void){name}_;" for k, name in enumerate(names)
    )


def _block(lines: Any) -> str:
    return "\n".join(lines)


def _struct(name: str, fields: Any, n_kept: int, dtype: torch.dtype) -> Any:
    kinds = {
        int: ctypes.c_int64,
        float: _REAL_TYPE[dtype],
        Tensor: ctypes.c_void_p,
        list: ctypes.c_void_p * n_kept,
    }
    return type(name, (ctypes.Structure,), {"_fields_": [(f, kinds[k]) for f, k in fields]})


def _pointers(value: Any) -> Any:
    if isinstance(value, list):
        array = ctypes.c_void_p * len(value)
        return array(*(_pointers(v) for v in value))
    return value.data_ptr() if isinstance(value, Tensor) else value
