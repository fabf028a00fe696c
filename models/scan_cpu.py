"""The scan on the CPU: what surrounds the kernels, whichever language they are compiled from.

Forward and backward run over samples, which do not meet, and the gradients of weights over inputs; threads
share these out. All sums have one order, so a result does not depend on the number of threads (the gradient
by dense inputs is PyTorch's product, which may): the gradient of a weight that fits a processor's cache is
summed in a fixed number of shares of the samples, beyond which more threads do not help; a larger one is cut
by inputs.

Sequences lie in memory sample by sample here, (batch, time, unit), as events do. What a layer sends is kept
as one bit for each unit and step; as numbers it would be 32 times as much to write and to read again, by the
next layer and by the gradients of the weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnbench.data_prep.batch import ReusedMemory
from snnbench.models.derivation import Recipe

_VECTOR = 32  # units to which rows are padded: two vectors of the widest processors
_GROUP, _LARGE_GROUP, _LARGE = 8, 32, 512
# samples that go through time together: enough to use a weight several times once it is in cache; from
# so many units on the recurrent weights are no longer in the second cache, and more samples have to share
_SMALL_TILE, _LARGE_TILE, _EVENTS_PER_INPUT = 64, 512, 6
_SHARES, _SHARED_WEIGHTS = 8, 1 << 18  # shares of the samples, for weights up to a megabyte
_CALLS_PER_THREAD = 4
_LARGE_TENSOR = 1 << 18  # numbers: from here on the pages of fresh memory cost noticeable time
_memory = ReusedMemory()


class Inputs(NamedTuple):
    """What a layer receives (events, or rows of numbers with a weight, or its drive), and its weights."""

    indptr: Tensor | None
    """int64, of shape (batch * n_steps + 1,), as in `snnbench.data_prep.batch.EventBatch`."""
    channels: Tensor | None
    """uint16, of shape (event,)."""
    rows: Tensor | None
    """(batch, time, input); without a weight this is the drive, (batch, time, unit)."""
    weight: Tensor | None
    """(unit, input)."""
    recurrent: Tensor | None
    """(unit, unit): a row is what one unit receives."""
    outgoing: Tensor | None
    """(unit of the next layer, unit)."""
    parameters: Tensor
    """Constants of the neuron, (constant, unit)."""
    gate: Tensor | None
    """Factor on what a unit sends, (batch, unit)."""


class Outputs(NamedTuple):
    """What came of it; empty where there is nothing or nobody asked."""

    spikes: Tensor
    """What the units sent, (batch, time, unit)."""
    counts: Tensor
    """The sum of this over time, (batch, unit)."""
    projected: Tensor
    """What the next layer receives, (batch, time, unit of the next layer)."""
    membranes: Tensor
    """(batch, time, unit)."""
    last: Tensor
    """The state after the last step, (part, batch, unit)."""
    bits: Tensor
    """Which units sent something: int64, (batch, time, word), unit i is bit i % 64 of word i // 64."""
    others: Tensor
    """What else the backward pass reads, (what, batch, time, unit)."""


class Asked(NamedTuple):
    """Gradients that arrive; None where nobody asks."""

    spikes: Tensor | None
    counts: Tensor | None
    projected: Tensor | None
    membranes: Tensor | None
    last: Tensor | None


class Gradients(NamedTuple):
    """Gradients by what went in; None where they are not needed."""

    rows: Tensor | None
    weight: Tensor | None
    recurrent: Tensor | None
    outgoing: Tensor | None
    parameters: Tensor
    """Zero for a constant whose gradient the recipe does not ask for."""
    state: Tensor


class Needs(NamedTuple):
    """Which gradients somebody needs; that by the state comes with any of them."""

    rows: bool
    weight: bool
    recurrent: bool
    outgoing: bool


def forward(
    kernels: Any,
    recipe: Recipe,
    inputs: Inputs,
    state: Tensor,
    *,
    n_steps: int,
    keep: Sequence[str],
) -> Outputs:
    """Run a layer over all steps.

    Parameters
    ----------
    kernels
        Compiled for `recipe` and the type of the numbers.
    state
        Before the first step, (part, batch, unit).
    keep
        What to return for all steps: `spikes`; names of parts of the state, as the spikes of the same step
        saw them; `drive`.
    """
    _, n_batch, n_units = state.shape
    spiking = recipe.neuron.distance is not None
    out = empty_outputs(recipe, inputs.outgoing, state, n_steps, keep, _empty)
    kept = dict(zip(others(recipe, keep), out.others, strict=True))
    if "membrane" in keep:
        kept["membrane"] = out.membranes
    padded, group = _padded(n_units), _group(n_units)
    n_outgoing = out.projected.shape[2]
    run = kernels.prepare(
        "forward",
        {
            "n_steps": n_steps,
            "n_batch": n_batch,
            "n_units": n_units,
            "padded": padded,
            "n_inputs": 0 if inputs.weight is None else inputs.weight.shape[1],
            "n_outgoing": n_outgoing,
            "padded_outgoing": _padded(n_outgoing),
            "group": group,
            "indptr": _contiguous(inputs.indptr),
            "channels": _contiguous(inputs.channels),
            "rows": _contiguous(inputs.rows),
            "weight": _rows_by_sender(inputs.weight),
            "recurrent": _rows_by_sender(inputs.recurrent),
            "outgoing": _rows_by_sender(inputs.outgoing),
            "parameters": _pad(inputs.parameters, padded),
            "state": state.contiguous(),
            "gate": _contiguous(inputs.gate),
            "bits": out.bits if spiking else None,
            "spikes": out.spikes if spiking and "spikes" in keep else None,
            "counts": out.counts if spiking else None,
            "projected": out.projected if n_outgoing else None,
            "final_state": out.last,
            "kept": [kept.get(part) for part in _parts(recipe)],
        },
    )
    over_samples(run, n_batch, group)
    return out


def backward(
    kernels: Any,
    recipe: Recipe,
    inputs: Inputs,
    slope: float,
    kept: Mapping[str, Tensor],
    bits: Tensor,
    asked: Asked,
    *,
    n_steps: int,
    n_batch: int,
    needs: Needs,
) -> Gradients:
    """Gradients by everything that went into `forward`.

    `kept` has at least what `derive(recipe).kept` names, each (batch, time, unit); `bits` are those that
    `forward` returned.
    """
    n_units = inputs.parameters.shape[1]
    padded, group = _padded(n_units), _group(n_units)
    like = inputs.parameters
    grad_drive = _empty(like, (n_batch, n_steps, n_units))
    grad_first = like.new_empty(len(recipe.neuron.State._fields), n_batch, n_units)
    grad_parameters = like.new_empty(len(recipe.parameter_gradients), n_batch, n_units)
    asked = Asked(*map(_contiguous, asked))
    run = kernels.prepare(
        "backward",
        {
            "n_steps": n_steps,
            "n_batch": n_batch,
            "n_units": n_units,
            "padded": padded,
            "n_outgoing": 0 if inputs.outgoing is None else len(inputs.outgoing),
            "group": group,
            "recurrent": _panels(inputs.recurrent),
            "outgoing": _panels(inputs.outgoing),
            "parameters": _pad(inputs.parameters, padded),
            "gate": _contiguous(inputs.gate),
            "kept": [kept.get(part) for part in _parts(recipe)],
            "grad_spikes": asked.spikes,
            "grad_counts": asked.counts,
            "grad_projected": asked.projected,
            "grad_membranes": asked.membranes,
            "grad_final": asked.last,
            "slope": slope,
            "grad_drive": grad_drive,
            "grad_state": grad_first,
            "grad_parameters": grad_parameters,
        },
    )
    over_samples(run, n_batch, group)
    rows = weight = recurrent = outgoing = None
    if needs.rows:
        rows = grad_drive if inputs.weight is None else _back_through(grad_drive, inputs.weight)
    from_below = {"indptr": inputs.indptr, "channels": inputs.channels, "rows": inputs.rows}
    if needs.weight and inputs.weight is not None:
        weight = outer(kernels, grad_drive, inputs.weight.shape[1], **from_below)
    sent = {"bits": bits, "gate": inputs.gate}
    if needs.recurrent and inputs.recurrent is not None:
        recurrent = outer(kernels, grad_drive, n_units, **sent)
    if needs.outgoing and asked.projected is not None:
        outgoing = outer(kernels, asked.projected, n_units, **sent)
    constants = torch.zeros_like(inputs.parameters)
    wanted = [recipe.neuron.Parameters._fields.index(name) for name in recipe.parameter_gradients]
    constants[wanted] = grad_parameters.sum(dim=1)
    return Gradients(rows, weight, recurrent, outgoing, constants, grad_first)


def outer(kernels: Any, grad: Tensor, n_inputs: int, **source: Tensor | None) -> Tensor:
    """Gradient of a weight, (unit, input): the sum over steps and samples of grad times input.

    `source` is what came in, by the names of scan_cpp.OUTER: indptr and channels, or rows, or bits and gate.
    """
    n_batch, n_steps, n_units = grad.shape
    given = {"indptr": None, "channels": None, "rows": None, "bits": None, "gate": None} | source
    n_shares = _SHARES if n_inputs * _padded(n_units) <= _SHARED_WEIGHTS else 1
    cuts = [n_steps * (n_batch * k // n_shares) for k in range(n_shares + 1)]
    out = grad.new_empty(n_shares, n_inputs, n_units)
    fields = {
        "n_steps": n_steps,
        "n_units": n_units,
        "n_inputs": n_inputs,
        "tile": _tile(given["channels"], n_inputs, n_batch * n_steps),
        **{name: _contiguous(tensor) for name, tensor in given.items()},
        "grad": grad,
    }
    runs = [
        kernels.prepare(
            "outer", {**fields, "first_row": first, "last_row": last, "out": out[share]}
        )
        for share, (first, last) in enumerate(pairwise(cuts))
    ]
    if n_shares == 1:
        inputs = _shares_of_inputs(given["channels"], n_inputs)
        _in_parallel([partial(runs[0], r.start, r.stop) for r in inputs])
    else:
        _in_parallel([partial(run, 0, n_inputs) for run in runs])
    return out.sum(dim=0).t().contiguous()


def empty_outputs(
    recipe: Recipe,
    outgoing: Tensor | None,
    state: Tensor,
    n_steps: int,
    keep: Sequence[str],
    empty: Callable[[Tensor, tuple[int, ...]], Tensor] = lambda like, shape: like.new_empty(shape),
) -> Outputs:
    """Outputs of the right shapes, not filled in."""
    _, n_batch, n_units = state.shape
    spiking = recipe.neuron.distance is not None
    every, nothing = (n_batch, n_steps, n_units), (n_batch, 0, n_units)
    n_outgoing = len(outgoing) if outgoing is not None and spiking else 0
    n_words = -(-n_units // 64) if spiking else 0
    return Outputs(
        spikes=empty(state, every if spiking and "spikes" in keep else nothing),
        counts=state.new_empty((n_batch, n_units) if spiking else (0, n_units)),
        projected=empty(state, (n_batch, n_steps, n_outgoing)),
        membranes=empty(state, every if "membrane" in keep else nothing),
        last=torch.empty_like(state, memory_format=torch.contiguous_format),
        bits=state.new_empty((n_batch, n_steps, n_words), dtype=torch.int64),
        others=empty(state, (len(others(recipe, keep)), *every)),
    )


def over_samples(run: Callable[[int, int], None], n_batch: int, group: int) -> None:
    """Call `run(first, last)` for all samples, some whole groups of them at a time."""
    n_groups = -(-n_batch // group)
    n_calls = min(n_groups, _CALLS_PER_THREAD * torch.get_num_threads())
    cuts = [min(n_batch, group * (n_groups * k // n_calls)) for k in range(n_calls + 1)]
    _in_parallel([partial(run, first, last) for first, last in pairwise(cuts)])


def _in_parallel(calls: Sequence[Callable[[], None]]) -> None:
    """Make the calls, each by the first thread that is free: cores are not equally fast at all times."""
    pool = _pool(torch.get_num_threads())
    for future in [pool.submit(call) for call in calls]:
        future.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # a forked child inherits the pool without its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
    # what has decayed to denormal numbers is zero for us, and a hundred times as slow; the switch belongs
    # to a thread, and these threads are ours
    return ThreadPoolExecutor(
        threads,
        thread_name_prefix="snnbench-scan",
        initializer=torch.set_flush_denormal,
        initargs=(True,),
    )


def _shares_of_inputs(channels: Tensor | None, n_inputs: int) -> list[range]:
    """Ranges of inputs for the threads, with about as many events in each (as a sample tells)."""
    threads = torch.get_num_threads()
    if channels is None or len(channels) == 0 or threads == 1:
        cuts = [n_inputs * k // threads for k in range(threads + 1)]
    else:
        some = channels[:: max(1, len(channels) >> 12)].long()
        up_to = torch.bincount(some, minlength=n_inputs).cumsum(0)
        wanted = torch.arange(1, threads) * len(some) // threads
        cuts = [0, *torch.searchsorted(up_to, wanted).tolist(), n_inputs]
    return [range(a, b) for a, b in pairwise(cuts)]


def _tile(channels: Tensor | None, n_inputs: int, n_rows: int) -> int:
    """Rows whose events are sorted together: some events for each input, in cache all the same."""
    if channels is None:
        return _SMALL_TILE
    events_per_row = max(1.0, len(channels) / n_rows)
    return min(_LARGE_TILE, max(_SMALL_TILE, int(_EVENTS_PER_INPUT * n_inputs / events_per_row)))


def _parts(recipe: Recipe) -> tuple[str, ...]:
    return (*recipe.neuron.State._fields, "drive")


def others(recipe: Recipe, keep: Sequence[str]) -> list[str]:
    """What `Outputs.others` holds for this `keep`."""
    return [part for part in _parts(recipe) if part in keep and part != "membrane"]


def _back_through(grad_drive: Tensor, weight: Tensor) -> Tensor:
    """Gradient by rows, (batch, time, input)."""
    rows = _empty(grad_drive, (*grad_drive.shape[:2], weight.shape[1]))
    torch.mm(grad_drive.flatten(0, 1), weight, out=rows.view(-1, weight.shape[1]))
    return rows


def _padded(n_units: int) -> int:
    return -(-n_units // _VECTOR) * _VECTOR


def _group(n_units: int) -> int:
    return _GROUP if n_units < _LARGE else _LARGE_GROUP


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of arbitrary content of the same type, a large one in memory that was in use before."""
    if math.prod(shape) < _LARGE_TENSOR:
        return like.new_empty(shape)
    return torch.from_numpy(_memory.lend(shape, like.new_empty(0).numpy().dtype))


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _pad(rows: Tensor, padded: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, padded - rows.shape[1])).contiguous()


def _rows_by_sender(weight: Tensor | None) -> Tensor | None:
    """(sender, padded): what one spike of a sender adds to all units is one row."""
    if weight is None:
        return None
    out = weight.new_zeros(weight.shape[1], _padded(len(weight)))
    out[:, : len(weight)] = weight.t()
    return out


def _panels(weight: Tensor | None) -> Tensor | None:
    """(panel, receiver, sender): senders in stripes as wide as two vectors, each stripe in one piece."""
    if weight is None:
        return None
    width = 128 // weight.element_size()
    rows = _pad(weight, _padded(weight.shape[1]))
    return rows.view(len(rows), -1, width).transpose(0, 1).contiguous()
