"""What a neuron kind is: a state, constants, one step, and when it spikes.

A file in `snnbench.models.neurons` holds these four and nothing else. From them come all three
implementations of the scan: the reference runs the functions on tensors and lets autograd differentiate
them; for the compiled kernels `snnbench.models.derivation` differentiates them symbolically. So a
derivative is written nowhere by hand, and a new kind of neuron is one file.

Time runs in steps of the bin width. At the start of step n a neuron has a state, zero at n = 0, and

    S[n] = Theta(distance(state[n]))                           spikes from the state as it is
    D[n] = W S_in[n] + V S[n]                                  what arrives in this step
    state[n + 1] = step(D[n], S[n], state[n])                  which the next step sees first
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from snnbench.errors import SnnbenchError

ResetMode = Literal["subtract", "zero"]

# symbols of the derivation and of the kernels, and how names begin that are made from a neuron's own: a
# kernel writes a name as `name_`, beside `next_name_`, `of_name_`, `lam_name_`, `distance_0_` and the like
_TAKEN = ("drive", "spike", "reset_spike", "distance", "slope", "sent")
_TAKEN_BEGINNINGS = ("lam_", "grad_", "next_", "of_", "distance_")


class Reset(Protocol):
    """Takes a membrane back after a spike: `reset(membrane, threshold)`."""

    def __call__(self, membrane: Any, threshold: Any) -> Any: ...


@dataclass(frozen=True)
class Neuron:
    """A kind of neuron, as functions of tensors of shape (batch, unit) or of symbols.

    Within the functions, `p` holds the constants: numbers, or one per unit, shape (unit,).
    """

    kind: str
    """Name in errors and records."""
    State: type[Any]
    """Named tuple of the state's parts, among them `membrane`."""
    Parameters: type[Any]
    """Named tuple of the constants."""
    step: Callable[[Any, Any, Any, Any, Reset], Any]
    """step(drive, spike, state, p, reset) -> the next state. `spike` is the neuron's own, 0 or 1."""
    distance: Callable[[Any, Any], Any] | None
    """distance(state, p): a spike is where this exceeds 0, and the surrogate is a function of it. A sum and
    difference of parts of the state and constants. None for a neuron that never spikes."""

    def __post_init__(self) -> None:
        names = (*self.State._fields, *self.Parameters._fields)
        for name in names:
            if names.count(name) > 1 or name in _TAKEN or name.startswith(_TAKEN_BEGINNINGS):
                raise SnnbenchError(
                    f"neuron {self.kind}: {name!r} stands for something else already; call it otherwise"
                )
            if name.endswith("_"):
                # templates have names as `row_membrane`, which a part `x_` would make a `row_x_`
                raise SnnbenchError(
                    f"neuron {self.kind}: {name!r} ends in '_', which kernels put there themselves"
                )
        if "membrane" not in self.State._fields:
            raise SnnbenchError(f"neuron {self.kind}: one part of its state has to be `membrane`")


def make_reset(mode: ResetMode, spike: Any) -> Reset:
    """Reset by subtraction of the threshold or to zero, after `spike` (0 or 1)."""
    if mode == "subtract":
        return lambda membrane, threshold: membrane - threshold * spike
    return lambda membrane, threshold: membrane * (1 - spike)
