"""What the three implementations of the scan share: what runs, what comes in, what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from snnbench.errors import unknown_name
from snnbench.models.derivation import Recipe
from snnbench.models.known_recipes import name_of
from snnbench.models.neuron import Neuron, ResetMode
from snnbench.models.surrogate import Surrogate


@dataclass(frozen=True)
class Cell:
    """A neuron kind with everything that is chosen about it."""

    neuron: Neuron
    parameters: Any
    """The kind's `Parameters`: each a number, or a tensor of shape (unit,), which may want a gradient."""
    surrogate: Surrogate | None = None
    """None only for a neuron that never spikes."""
    reset: ResetMode = "subtract"
    gradient_through_reset: bool = False
    """Whether the backward pass also goes through the reset's spike."""
    gradient_through_recurrence: bool = True
    """Whether it goes through recurrent weights to earlier spikes; these weights learn all the same."""

    def __post_init__(self) -> None:
        if self.reset not in get_args(ResetMode):
            raise unknown_name("reset", self.reset, get_args(ResetMode))
        # by now, since torch.compile puts off whatever changes a dictionary until it has traced a scan
        for learning in (False, True):
            name_of(recipe_of(self, learning=learning))


class ScanResult(NamedTuple):
    """What a layer did."""

    spikes: Tensor
    """What the units sent: 0 or 1, times the gate; shape (time, batch, unit). Empty where nobody asked."""
    counts: Tensor
    """The sum of this over time, (batch, unit). Empty for a neuron that never spikes."""
    projected: Tensor
    """What the next layer receives, (time, batch, unit of the next layer). Empty without outgoing weights."""
    membranes: Tensor
    """Membranes as the spikes of the same step saw them; shape (time, batch, unit). Empty where nobody
    asked."""
    peaks: Tensor
    """The largest membrane of each unit over time, (batch, unit); its gradient goes to the first step that
    reached it. Empty where nobody asked."""
    state: Any
    """The kind's `State` after the last step, each of shape (batch, unit): the next scan goes on there."""

    @property
    def passed_on(self) -> Tensor:
        """For the next layer: what it receives by outgoing weights, and without these the spikes."""
        return self.projected if self.projected.shape[2] else self.spikes


def recipe_of(cell: Cell, *, learning: bool) -> Recipe:
    """What kernels for this cell are made for; with `learning`, for gradients by its constants, too."""
    named = zip(cell.neuron.Parameters._fields, cell.parameters, strict=True)
    return Recipe(
        neuron=cell.neuron,
        surrogate=cell.surrogate,
        reset=cell.reset,
        gradient_through_reset=cell.gradient_through_reset,
        parameter_gradients=tuple(
            name for name, p in named if learning and isinstance(p, Tensor) and p.requires_grad
        ),
    )


def at_rest(neuron: Neuron, like: Tensor) -> Any:
    """The state before the first step: zeros like a tensor of shape (batch, unit)."""
    return neuron.State(*(torch.zeros_like(like) for _ in neuron.State._fields))


def peaks_over_time(membranes: Tensor) -> Tensor:
    """Largest membrane of each unit, from (time, batch, unit)."""
    # along the axis that runs through memory, so that neither this nor its gradient copies
    return membranes.transpose(0, 1).max(dim=1).values
