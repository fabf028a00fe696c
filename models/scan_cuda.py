"""The scan on a GPU: what surrounds the Triton kernels of `snnbench.models.scan_triton_template`.

Several networks of equal shape (seeds, settings) go through time together, along an axis `replica`. The
input has been through its weights already: that is one large matrix product, and so is the gradient of the
recurrent weights. What remains, one launch does for all steps.

Numbers are float32 all the way. Products with the recurrent weights run on tensor cores without losing
that: a float32 is the sum of three bfloat16 numbers, exactly, and products of these are summed in float32.
Spikes are 0 or 1, which one bfloat16 holds, so the forward pass takes three products; where a gate makes
spikes something else, and backward, six of the nine that there are, which leaves out less than 2^-22 of the
whole. Where weights are streamed, both factors are split into two tf32 numbers instead (3xTF32). Triton's
plain float32 product does not use tensor cores, and spills kilobytes. float64 works, slowly.

(Henry, Tang & Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision
computations", ARITH 26.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models.derivation import Recipe, derive
from snnbench.models.scan_triton import interpreted, kernels, triton_language

HOPPER_SHARED_MEMORY = 227 * 1024
"""Bytes that one program may have."""


@dataclass(frozen=True)
class Launch:
    """How work is cut up; block sizes are powers of two."""

    samples: int
    """Samples of a program; with recurrence 16 or more, which tensor cores ask for."""
    units: int
    """Units of a program, or of a tile where weights are streamed; 16 or more with recurrence."""
    warps: int
    streamed: bool = False
    """Whether recurrent weights come from the second cache in every step."""


def choose_launch(n_units: int, *, recurrent: bool, shared_memory: int) -> Launch:
    """How a layer is cut up, where a program may have so many bytes of shared memory.

    Steps wait for each other, so what counts is how long one step of one program takes: a program has as
    few samples as tensor cores allow, and other samples and replicas are programs on other
    multiprocessors. With 16 columns of the product to a warp, the kernels for 128 units keep state and
    sums in registers: 8 warps use 133 of 255 forward, 197 backward, where 4 warps spill (the LIF neuron).
    Without recurrence nothing but memory is waited for, and small programs are best. All this is read from
    code compiled for Hopper, and not yet timed.
    """
    if not recurrent:
        return Launch(samples=4, units=min(_block_of(n_units), 64), warps=2)
    samples, units = 16, _block_of(n_units)
    # three bfloat16 numbers for every weight, and for what it is multiplied by. On Hopper 128 units fit;
    # 256 would not on any GPU, even with fewer bytes to a weight
    if units <= 128 and 6 * units * (units + samples) <= shared_memory:
        return Launch(samples, units, warps=units // 16)
    return Launch(samples, units=64, warps=8, streamed=True)


def forward(
    recipe: Recipe,
    drive: Tensor,
    recurrent: Tensor | None,
    parameters: Tensor,
    state: Tensor,
    gate: Tensor | None,
    keep: Sequence[str],
    *,
    launch: Launch | None = None,
) -> tuple[Tensor | None, Tensor, list[Tensor]]:
    """What was sent in all steps (None from neurons that never spike), the last state, and what is kept.

    Parameters
    ----------
    recipe
        What the kernels are made for.
    drive
        What arrives from below, (replica, batch, time, unit), as what was sent and what is kept.
    recurrent
        (replica, unit, unit): row i holds the weights onto unit i. None without recurrence.
    parameters
        Constants of the neuron, (constant, replica, unit).
    state
        Before the first step, (part, replica, batch, unit), as the last state.
    gate
        Factor on what a unit sends, to its own layer as well, (replica, batch, unit).
    keep
        Parts of the state to return for all steps, as the spikes of the same step saw them, and `drive`
        for all that arrived in a step, from the layer itself as well.
    launch
        By default what `choose_launch` says.

    Raises
    ------
    SnnbenchError
        Triton is not installed, or the tensors are not on a GPU, or neither float32 nor float64.
    """
    spiking = recipe.neuron.distance is not None
    recurrent = _contiguous(recurrent) if spiking else None
    drive, state = drive.contiguous(), state.contiguous()
    launch = launch or _launch(drive, recurrent)
    spikes = torch.empty_like(drive) if spiking else None
    kept = {name: torch.empty_like(drive) for name in keep}
    arguments = {
        "drive": drive,
        "recurrent": recurrent,
        "constants": parameters.contiguous(),
        "gate": _contiguous(gate),
        "spikes": spikes,
        **{f"kept_{name}": kept.get(name) for name in (*recipe.neuron.State._fields, "drive")},
    }
    if launch.streamed:
        # the state lives there from the first step on
        last = state.clone()
        _run("forward_streamed", recipe, drive, launch, last=last, **arguments)
    else:
        last = torch.empty_like(state)
        arguments |= {"first": state, "last": last}
        _run("forward_resident", recipe, drive, launch, **arguments)
    return spikes, last, [kept[name] for name in keep]


def backward(
    recipe: Recipe,
    recurrent: Tensor | None,
    parameters: Tensor,
    gate: Tensor | None,
    slope: float | Tensor,
    spikes: Tensor | None,
    kept: Sequence[Tensor],
    grad_spikes: Tensor | None,
    grad_membranes: Tensor | None,
    grad_last: Tensor | None,
    *,
    through_recurrence: bool = True,
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients by the drive, the recurrent weights, the parameters, and the state before the first step.

    Those by parameters are only of the ones that the recipe names, (gradient, replica, unit).

    Parameters
    ----------
    recipe, recurrent, parameters, gate, launch
        As in `forward`.
    slope
        Of the surrogate: a number, or one per replica, (replica,).
    spikes
        What `forward` returned.
    kept
        What `derive(recipe).kept` names, in its order.
    grad_spikes, grad_membranes
        Gradients by what was sent and by the membranes of all steps, (replica, batch, time, unit), or None.
        These or `kept` tell the number of steps, so one of them has to be there.
    grad_last
        Gradients by the last state, (part, replica, batch, unit), or None.
    through_recurrence
        Whether the gradient goes through recurrent weights to earlier spikes.

    Raises
    ------
    SnnbenchError
        Triton is not installed, or the tensors are not on a GPU, or neither float32 nor float64.
    """
    recurrent = _contiguous(recurrent) if recipe.neuron.distance is not None else None
    like = next(t for t in (*kept, grad_spikes, grad_membranes) if t is not None)
    n_replicas, n_batch, n_steps, n_units = like.shape
    # kernels trust these: they would read what is not there
    sequences = (*kept, spikes, grad_spikes, grad_membranes)
    assert n_steps > 0
    assert all(t.shape == like.shape for t in sequences if t is not None)
    back_through = recurrent if through_recurrence else None
    launch = launch or _launch(like, back_through)
    grad_drive = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    # where weights are streamed, sums and adjoints live here from the first step on
    make = like.new_zeros if launch.streamed else like.new_empty
    sums = make(len(recipe.parameter_gradients), n_replicas, n_batch, n_units)
    grad_first = make(len(recipe.neuron.State._fields), n_replicas, n_batch, n_units)
    arguments = {
        "recurrent": back_through,
        "constants": parameters.contiguous(),
        "gate": _contiguous(gate),
        "slope": slope if isinstance(slope, Tensor) else like.new_full((n_replicas,), slope),
        "grad_spikes": _contiguous(grad_spikes),
        "grad_membranes": _contiguous(grad_membranes),
        "grad_drive": grad_drive,
        "grad_first": grad_first,
        "sums": sums,
        **{
            f"kept_{name}": t.contiguous()
            for name, t in zip(derive(recipe).kept, kept, strict=True)
        },
    }
    if launch.streamed:
        if grad_last is not None:
            grad_first.copy_(grad_last)
        _run("backward_streamed", recipe, like, launch, **arguments)
    else:
        arguments |= {"grad_last": _contiguous(grad_last)}
        _run("backward_resident", recipe, like, launch, **arguments)
    grad_recurrent = None
    if recurrent is not None:
        assert spikes is not None
        # summed over samples and steps
        grad_recurrent = grad_drive.flatten(1, 2).transpose(1, 2) @ spikes.flatten(1, 2)
    return grad_drive, grad_recurrent, sums.sum(dim=2), grad_first


def _run(name: str, recipe: Recipe, like: Tensor, launch: Launch, **arguments: Any) -> None:
    """Launch a recipe's kernel for tensors of the shape of `like`, (replica, batch, time, unit)."""
    if not (like.is_cuda or interpreted()):
        raise SnnbenchError(
            f"the Triton scan runs on a GPU, and got tensors on {like.device}; on the CPU only "
            "Triton's interpreter runs it, for tests: TRITON_INTERPRET=1"
        )
    kernel = getattr(kernels(recipe), name)
    n_replicas, n_batch, n_steps, n_units = like.shape
    blocks_of_units = 1 if launch.streamed else -(-n_units // launch.units)
    grid = (-(-n_batch // launch.samples), blocks_of_units, n_replicas)
    with torch.cuda.device_of(like):
        kernel[grid](
            **arguments,
            n_steps=n_steps,
            n_batch=n_batch,
            n_units=n_units,
            SAMPLES=launch.samples,
            UNITS=launch.units,
            **_arithmetic(like.dtype, launch.streamed),
            num_warps=launch.warps,
        )


def _arithmetic(dtype: torch.dtype, streamed: bool) -> dict[str, Any]:
    """The kernels' compile-time arguments that say what numbers are and how they are multiplied."""
    if dtype not in (torch.float32, torch.float64):
        raise SnnbenchError(f"the Triton scan computes in float32 or float64, not in {dtype}")
    tl = triton_language()
    if dtype == torch.float64:
        real, thirds, precision = tl.float64, None, "ieee"
    else:
        # Triton's interpreter keeps bfloat16 as integers, and would multiply it as such
        real, thirds, precision = tl.float32, tl.float32 if interpreted() else tl.bfloat16, "tf32x3"
    return {"REAL": real} | ({"PRECISION": precision} if streamed else {"THIRDS": thirds})


def _launch(like: Tensor, recurrent: Tensor | None) -> Launch:
    return choose_launch(
        like.shape[3],
        recurrent=recurrent is not None,
        shared_memory=_shared_memory(like.device),
    )


@cache
def _shared_memory(device: torch.device) -> int:
    if device.type != "cuda":  # Triton's interpreter has no limit, and is to do what a Hopper does
        return HOPPER_SHARED_MEMORY
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def _block_of(n_units: int) -> int:
    """The smallest block for so many units: a power of two, and 16 or more for tensor cores."""
    return max(1 << (n_units - 1).bit_length(), 16)


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()
