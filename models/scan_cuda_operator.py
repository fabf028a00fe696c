"""The Triton scan as an operator of torch.library, `snnbench::scan_cuda`, with its gradient.

It is the counterpart of `snnbench.models.scan_operator`, which stands before the CPU's kernels, with an axis
`replica` in front. What goes in has been through the layer's weights already, and the next layer's weights
come after it: as dense products, which a GPU is made for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnbench.models import scan_cuda
from snnbench.models.derivation import Recipe, derive
from snnbench.models.known_recipes import name_of, names_to_keep, recipe_called
from snnbench.models.precision import Precision, product
from snnbench.models.scan_types import ScanResult


class Outputs(NamedTuple):
    """What came of it; empty where there is nothing or nobody asked."""

    spikes: Tensor
    """What the units sent, (replica, batch, time, unit)."""
    membranes: Tensor
    """(replica, batch, time, unit)."""
    others: Tensor
    """What else the backward pass reads, (what, replica, batch, time, unit)."""
    last: Tensor
    """The state after the last step, (part, replica, batch, unit)."""


def scan_on_gpu(
    recipe: Recipe,
    drive: Tensor,
    recurrent: Tensor | None,
    outgoing: Tensor | None,
    parameters: Tensor,
    gate: Tensor | None,
    state: Tensor,
    keep: Collection[str],
    *,
    through_recurrence: bool = True,
    precision: Precision = "float32",
) -> ScanResult:
    """Replicas of a layer in all time steps; as in `ScanResult`, with an axis `replica` in front of all.

    Parameters
    ----------
    recipe, drive, recurrent, parameters, gate, state
        As in `snnbench.models.scan_cuda.forward`; gradients go through all but the gate.
    outgoing
        Weights to the next layer, (replica, unit of the next layer, unit), or None.
    keep
        `membrane` and `peaks` where they are to be returned; `for-backward` where a gradient is wanted.
    through_recurrence
        Whether the gradient goes through recurrent weights to earlier spikes.
    precision
        Of the product with `outgoing`.
    """
    slope = recipe.surrogate.slope if recipe.surrogate else 0.0
    spiking = recipe.neuron.distance is not None
    names = set(keep) - {"peaks"}
    if "peaks" in keep or not spiking:
        names.add("membrane")
    out = Outputs(
        *_operator(
            drive,
            recurrent,
            parameters,
            gate,
            state,
            slope,
            name_of(recipe),
            ",".join(sorted(names)),
            through_recurrence,
        )
    )
    n_outgoing = 0 if outgoing is None or not spiking else outgoing.shape[1]
    projected = drive.new_empty(*drive.shape[:3], n_outgoing)
    if outgoing is not None and spiking:
        flat = product(out.spikes.flatten(1, 2), outgoing, precision)
        projected = flat.view(*drive.shape[:3], n_outgoing)
    return ScanResult(
        spikes=out.spikes.transpose(1, 2),
        counts=out.spikes.sum(dim=2) if spiking else drive.new_empty(len(drive), 0, drive.shape[3]),
        projected=projected.transpose(1, 2),
        membranes=out.membranes.transpose(1, 2),
        peaks=out.membranes.max(dim=2).values
        if "peaks" in keep
        else drive.new_empty(len(drive), 0, drive.shape[3]),
        state=recipe.neuron.State(*out.last.unbind(0)),
    )


def one_replica(result: ScanResult, r: int) -> ScanResult:
    """Number r of the replicas in a result, without the axis."""
    *tensors, state = result
    return ScanResult._make([*(t[r] for t in tensors), type(state)(*(s[r] for s in state))])


@torch.library.custom_op("snnbench::scan_cuda", mutates_args=())
def _operator(
    drive: Tensor,
    recurrent: Tensor | None,
    parameters: Tensor,
    gate: Tensor | None,
    state: Tensor,
    slope: float,
    recipe: str,
    keep: str,
    through_recurrence: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`Outputs`, in their order. `recipe` is a name of models/known_recipes.py, `keep` names with commas."""
    known_recipe = recipe_called(recipe)
    names = _names(known_recipe, keep)
    spikes, last, kept = scan_cuda.forward(
        known_recipe, drive, recurrent, parameters, state, gate, names
    )
    out = _empty_outputs(known_recipe, drive, state, names)
    by_name = dict(zip(names, kept, strict=True))
    others = [by_name[name] for name in _others(names)]
    return (
        out.spikes if spikes is None else spikes,
        by_name.get("membrane", out.membranes),
        torch.stack(others) if others else out.others,
        last,
    )


@_operator.register_fake
def _(
    drive: Any,
    recurrent: Any,
    parameters: Any,
    gate: Any,
    state: Any,
    slope: float,
    recipe: str,
    keep: str,
    through_recurrence: bool,
) -> tuple[Tensor, ...]:
    names = _names(recipe_called(recipe), keep)
    out = _empty_outputs(recipe_called(recipe), drive, state, names)
    every = drive.shape
    return (
        drive.new_empty(every) if recipe_called(recipe).neuron.distance is not None else out.spikes,
        drive.new_empty(every) if "membrane" in names else out.membranes,
        drive.new_empty(len(_others(names)), *every),
        out.last,
    )


@torch.library.custom_op("snnbench::scan_cuda_backward", mutates_args=())
def _backward_operator(
    recurrent: Tensor | None,
    parameters: Tensor,
    gate: Tensor | None,
    spikes: Tensor,
    membranes: Tensor,
    others: Tensor,
    grad_spikes: Tensor | None,
    grad_membranes: Tensor | None,
    grad_last: Tensor | None,
    slope: float,
    recipe: str,
    keep: str,
    through_recurrence: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by drive, recurrent weights (empty without), parameters and first state."""
    known_recipe = recipe_called(recipe)
    kept = dict(zip(_others(_names(known_recipe, keep)), others.unbind(0), strict=True))
    kept["membrane"] = membranes
    if not derive(known_recipe).kept and grad_membranes is None:
        # only the last state was looked at; membranes tell how many steps there were
        grad_membranes = torch.zeros_like(membranes)
    grad_drive, grad_recurrent, wanted, grad_first = scan_cuda.backward(
        known_recipe,
        recurrent,
        parameters,
        gate,
        slope,
        spikes if known_recipe.neuron.distance is not None else None,
        [kept[name] for name in derive(known_recipe).kept],
        grad_spikes,
        grad_membranes,
        grad_last,
        through_recurrence=through_recurrence,
    )
    grad_parameters = torch.zeros_like(parameters)
    for name, grad in zip(known_recipe.parameter_gradients, wanted, strict=True):
        grad_parameters[known_recipe.neuron.Parameters._fields.index(name)] = grad
    nothing = parameters.new_empty(0)
    return (
        grad_drive,
        nothing if grad_recurrent is None else grad_recurrent,
        grad_parameters,
        grad_first,
    )


@_backward_operator.register_fake
def _(
    recurrent: Any,
    parameters: Any,
    gate: Any,
    spikes: Any,
    membranes: Any,
    others: Any,
    grad_spikes: Any,
    grad_membranes: Any,
    grad_last: Any,
    slope: float,
    recipe: str,
    keep: str,
    through_recurrence: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    neuron = recipe_called(recipe).neuron
    n_replicas, n_batch, _, n_units = membranes.shape
    received = recurrent is not None and neuron.distance is not None
    return (
        membranes.new_empty(membranes.shape),
        parameters.new_empty(recurrent.shape if received else (0,)),
        parameters.new_empty(parameters.shape),
        parameters.new_empty(len(neuron.State._fields), n_replicas, n_batch, n_units),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, recurrent, parameters, gate, _, *ctx.numbers = inputs
    out = Outputs(*output)
    ctx.set_materialize_grads(False)  # what nobody asked about is not filled with zeros
    ctx.save_for_backward(recurrent, parameters, gate, out.spikes, out.membranes, out.others)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    by = Outputs(*grads)  # type: ignore[arg-type]
    drive, recurrent, parameters, state = _backward_operator(
        *ctx.saved_tensors, by.spikes, by.membranes, by.last, *ctx.numbers
    )
    found = (drive, recurrent if recurrent.numel() else None, parameters, None, state)
    return (
        *(g if needed else None for g, needed in zip(found, ctx.needs_input_grad, strict=False)),
        *(None,) * len(ctx.numbers),
    )


def _names(recipe: Recipe, keep: str) -> list[str]:
    asked = names_to_keep(keep, recipe)
    return [name for name in (*recipe.neuron.State._fields, "drive") if name in asked]


def _others(names: Sequence[str]) -> list[str]:
    return [name for name in names if name != "membrane"]


def _empty_outputs(recipe: Recipe, drive: Tensor, state: Tensor, names: Sequence[str]) -> Outputs:
    nothing = (*drive.shape[:2], 0, drive.shape[3])
    return Outputs(
        spikes=drive.new_empty(nothing),
        membranes=drive.new_empty(nothing),
        others=drive.new_empty(0, *drive.shape),
        last=state.new_empty(state.shape),
    )


_operator.register_autograd(_backward, setup_context=_setup_context)
