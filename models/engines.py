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


def cpu_kernels(engine: str, recipe: Recipe, dtype: torch.dtype) -> Any:
    """Compiled kernels of an engine of the CPU; see `snnbench.models.scan_cpp.CppKernels`."""
    if engine == "cpp":
        from snnbench.models import scan_cpp

        return scan_cpp.kernels(recipe, dtype)
    from snnbench.models import scan_numba

    return scan_numba.kernels(recipe, dtype)


@cache
def _best_on_cpu() -> Engine:
    from snnbench.models.compiler import library

    try:
        library('extern "C" int answer() { return 1; }\n')
    except SnnbenchError as error:
        _log.warning("%s; the scan is compiled by numba, which is slower", error)
        return "numba"
    return "cpp"
