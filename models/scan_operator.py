"""The compiled scan as an operator of torch.library, `snnbench::scan`, with its gradient.

Autograd, torch.compile and hooks see one operator whose arguments are tensors, numbers and names; which
kernels run, `snnbench.models.engines` tells by the name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnbench.models import scan_cpu
from snnbench.models.engines import cpu_kernels
from snnbench.models.known_recipes import names_to_keep, recipe_called
from snnbench.models.scan_cpu import Asked, Gradients, Inputs, Needs, Outputs


@torch.library.custom_op("snnbench::scan", mutates_args=())
def scan_operator(
    indptr: Tensor | None,
    channels: Tensor | None,
    rows: Tensor | None,
    weight: Tensor | None,
    recurrent: Tensor | None,
    outgoing: Tensor | None,
    parameters: Tensor,
    gate: Tensor | None,
    state: Tensor,
    slope: float,
    n_steps: int,
    recipe: str,
    through_recurrence: bool,
    engine: str,
    keep: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `snnbench.models.scan_cpu.forward` returns, in the order of `Outputs`.

    Parameters
    ----------
    indptr, channels, rows, weight, recurrent, outgoing, parameters, gate
        As in `snnbench.models.scan_cpu.Inputs`.
    state
        Before the first step, (part, batch, unit).
    slope
        Of the surrogate.
    n_steps
        Number of time steps.
    recipe
        A name from `snnbench.models.known_recipes`.
    through_recurrence
        Whether the gradient goes through recurrent weights to earlier spikes.
    engine
        A resolved engine.
    keep
        What to return, with commas between: `spikes`, parts of the state, `drive`, `peaks`;
        `for-backward` stands for all that the backward pass reads.
    """
    known = recipe_called(recipe)
    return scan_cpu.forward(
        cpu_kernels(engine, known, state.dtype),
        known,
        Inputs(indptr, channels, rows, weight, recurrent, outgoing, parameters, gate),
        state,
        n_steps=n_steps,
        keep=names_to_keep(keep, known),
    )


@scan_operator.register_fake
def _(
    indptr: Any,
    channels: Any,
    rows: Any,
    weight: Any,
    recurrent: Any,
    outgoing: Any,
    parameters: Any,
    gate: Any,
    state: Any,
    slope: float,
    n_steps: int,
    recipe: str,
    through_recurrence: bool,
    engine: str,
    keep: str,
) -> tuple[Tensor, ...]:
    known = recipe_called(recipe)
    return scan_cpu.empty_outputs(known, outgoing, state, n_steps, names_to_keep(keep, known))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    out = Outputs(*output)
    *tensors, _, slope, n_steps, recipe, through_recurrence, engine, keep = inputs
    by_name = Inputs(*tensors)
    if by_name.weight is None:
        # a drive goes straight through: its gradient does not read it
        tensors = list(by_name._replace(rows=None))
    ctx.set_materialize_grads(False)  # what nobody asked about is not filled with zeros
    ctx.mark_non_differentiable(out.bits, out.peak_steps)
    ctx.save_for_backward(*tensors, out.membranes, out.others, out.bits, out.peak_steps)
    ctx.numbers = (slope, n_steps, recipe, through_recurrence, engine, keep)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    by = dict(zip(Outputs._fields, grads, strict=True))
    needs = dict(zip((*Inputs._fields, "state"), ctx.needs_input_grad, strict=False))
    needs["outgoing"] &= by["projected"] is not None
    found = backward_operator(
        *ctx.saved_tensors,
        *(by[name] for name in Asked._fields),
        *ctx.numbers,
        *(needs[name] for name in Needs._fields),
    )
    gradients = dict(zip(Gradients._fields, found, strict=True))
    return (
        *(gradients.get(name) if needed else None for name, needed in needs.items()),
        *(None,) * len(ctx.numbers),
    )


@torch.library.custom_op("snnbench::scan_backward", mutates_args=())
def backward_operator(
    indptr: Tensor | None,
    channels: Tensor | None,
    rows: Tensor | None,
    weight: Tensor | None,
    recurrent: Tensor | None,
    outgoing: Tensor | None,
    parameters: Tensor,
    gate: Tensor | None,
    membranes: Tensor,
    others: Tensor,
    bits: Tensor,
    peak_steps: Tensor,
    grad_spikes: Tensor | None,
    grad_counts: Tensor | None,
    grad_projected: Tensor | None,
    grad_membranes: Tensor | None,
    grad_last: Tensor | None,
    grad_peaks: Tensor | None,
    slope: float,
    n_steps: int,
    recipe: str,
    through_recurrence: bool,
    engine: str,
    keep: str,
    needs_rows: bool,
    needs_weight: bool,
    needs_recurrent: bool,
    needs_outgoing: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by rows, weight, recurrent and outgoing weight, parameters and first state; empty where not
    needed. Other parameters are those of `scan_operator`, or what it returned.
    """
    known = recipe_called(recipe)
    names = scan_cpu.others(known, names_to_keep(keep, known))
    found = scan_cpu.backward(
        cpu_kernels(engine, known, parameters.dtype),
        known,
        Inputs(indptr, channels, rows, weight, recurrent, outgoing, parameters, gate),
        slope,
        dict(zip(names, others.unbind(0), strict=True)) | {"membrane": membranes},
        bits,
        peak_steps,
        Asked(grad_spikes, grad_counts, grad_projected, grad_membranes, grad_last, grad_peaks),
        n_steps=n_steps,
        n_batch=membranes.shape[0],
        through_recurrence=through_recurrence,
        needs=Needs(needs_rows, needs_weight, needs_recurrent, needs_outgoing),
    )
    return tuple(parameters.new_empty(0) if g is None else g for g in found)  # type: ignore[return-value]


@backward_operator.register_fake
def _(
    indptr: Any,
    channels: Any,
    rows: Any,
    weight: Any,
    recurrent: Any,
    outgoing: Any,
    parameters: Any,
    gate: Any,
    membranes: Any,
    others: Any,
    bits: Any,
    peak_steps: Any,
    grad_spikes: Any,
    grad_counts: Any,
    grad_projected: Any,
    grad_membranes: Any,
    grad_last: Any,
    grad_peaks: Any,
    slope: float,
    n_steps: int,
    recipe: str,
    through_recurrence: bool,
    engine: str,
    keep: str,
    needs_rows: bool,
    needs_weight: bool,
    needs_recurrent: bool,
    needs_outgoing: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    n_batch, _, n_units = membranes.shape
    n_parts = len(recipe_called(recipe).neuron.State._fields)

    def like(tensor: Tensor, needed: bool) -> Tensor:
        return parameters.new_empty(tensor.shape if needed else (0,))

    return (
        like(
            membranes.new_empty(n_batch, n_steps, n_units) if weight is None else rows, needs_rows
        ),
        like(weight, needs_weight),
        like(recurrent, needs_recurrent),
        like(outgoing, needs_outgoing),
        torch.empty_like(parameters),
        parameters.new_empty(n_parts, n_batch, n_units),
    )


scan_operator.register_autograd(_backward, setup_context=_setup_context)
