"""Elementary functions that take tensors as well as symbols.

Equations of neurons and surrogates are written once, as Python functions. The reference runs them on
tensors; `snnbench.models.derivation` runs them on SymPy symbols, differentiates, and prints kernels.
Besides + - * / ** and these functions they may use nothing.
"""

from __future__ import annotations

from typing import Any


def exp(x: Any) -> Any:
    """e to the power of x."""
    return x.exp() if _is_tensor(x) else _sympy().exp(x)


def where_positive(x: Any, positive: Any, otherwise: Any) -> Any:
    """`positive` where x > 0, else `otherwise`; no gradient goes through the choice."""
    if _is_tensor(x):
        import torch

        return torch.where(x > 0, positive, otherwise)
    sympy = _sympy()
    return sympy.Piecewise((positive, x > 0), (otherwise, True))


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "requires_grad")


def _sympy() -> Any:
    import sympy

    return sympy
