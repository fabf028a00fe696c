"""Which implementation of the scan runs: by choice, or the fastest that device and machine allow."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, Literal, get_args

import torch

from snnbench.errors import SnnbenchError, unknown_name
from snnbench.models.derivation import Recipe
from snnbench.models.scan_triton import interpreted

Engine = Literal["auto", "reference", "cpp", "numba", "triton"]
"""auto: cpp on a CPU with a C++ compiler, numba without; triton on a GPU."""

ENGINES: tuple[Engine, ...] = get_args(Engine)

_log = logging.getLogger(__name__)


def resolve_engine(engine: Engine, device: torch.device) -> Engine:
    """The engine that runs on `device`: never `auto`.

    Raises
    ------
    UsageError
        There is no engine of this name.
    SnnbenchError
        It does not run on this device.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if engine == "auto":
        if device.type not in ("cpu", "cuda"):
            return "reference"
        return "triton" if device.type == "cuda" else _best_on_cpu()
    if engine == "triton" and interpreted():
        return engine  # wherever the tensors are: so tests run the GPU's kernels without a GPU
    if engine != "reference" and (engine == "triton") != (device.type == "cuda"):
        where = "a GPU" if engine == "triton" else "the CPU"
        raise SnnbenchError(f"engine {engine} runs on {where} only, not on {device}; take auto")
    return engine


def require_engine(engine: Engine, device: torch.device) -> Engine:
    """As `resolve_engine`, and certain that the engine's kernels can be made on this machine.

    What a run asks once, before it reads any data; a scan, which asks in every call, does not.
    """
    chosen = resolve_engine(engine, device)
    if chosen == "cpp" and (reason := why_not_cpp()):
        raise SnnbenchError(f"engine cpp: {reason}; take auto, or numba, which is slower")
    return chosen


@cache
def why_not_cpp() -> str | None:
    """Why there are no C++ kernels on this machine, in one line; None where there are.

    The readout's kernel is compiled and loaded: every network needs it, so it costs nothing, and a compiler
    that knows C++ but not our vectors would pass a simpler test.
    """
    from snnbench.models import scan_cpp
    from snnbench.models.neurons.leaky import LEAKY

    readout = Recipe(
        LEAKY, None, reset="subtract", gradient_through_reset=False, parameter_gradients=()
    )
    try:
        scan_cpp.kernels(readout, torch.float32)
    except SnnbenchError as error:
        return str(error).partition("\n")[0]
    return None


def cpu_kernels(engine: str, recipe: Recipe, dtype: torch.dtype) -> Any:
    """Compiled kernels of an engine of the CPU; see `snnbench.models.scan_cpp.CppKernels`."""
    if engine == "cpp":
        from snnbench.models import scan_cpp

        return scan_cpp.kernels(recipe, dtype)
    from snnbench.models import scan_numba

    return scan_numba.kernels(recipe, dtype)


@torch.compiler.assume_constant_result  # which works without a cache only
def _best_on_cpu() -> Engine:
    return "numba" if _told_why_not_cpp() else "cpp"


@cache
def _told_why_not_cpp() -> bool:
    """Whether there are no C++ kernels, which is logged once and not in every scan."""
    if reason := why_not_cpp():
        _log.warning("%s; the scan is compiled by numba, which is slower", reason)
    return reason is not None
