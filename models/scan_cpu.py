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
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from snnbench.data_prep.batch import ReusedMemory
from snnbench.errors import SnnbenchError
from snnbench.models.derivation import Recipe

_VECTOR = 32  # units to which rows are padded: two vectors of the widest processors
_GROUP, _LARGE_GROUP, _LARGE = 8, 32, 512
# samples that go through time together: enough to use a weight several times once it is in cache; from
# so many units on the recurrent weights are no longer in the second cache, and more samples have to share
_SMALL_TILE, _LARGE_TILE, _EVENTS_PER_INPUT = 128, 512, 6
_SHARES, _SHARED_WEIGHTS = 8, 1 << 18  # shares of the samples, for weights up to a megabyte
_CALLS_PER_THREAD = 4
_LARGE_TENSOR = 1 << 18  # numbers: from here on the pages of fresh memory cost noticeable time
_memory = ReusedMemory()


class Kernels(Protocol):
    """What is compiled for one recipe and type of number."""

    def prepare(self, name: str, fields: dict[str, Any]) -> Callable[[int, int], None]:
        """A function (first, last) that runs `forward`, `backward` or `outer` on a range of samples or
        inputs; threads may share it. `fields` are those of the struct of this name in scan_kernel.cpp.
        """


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
    peaks: Tensor
    """The largest membrane over time, (batch, unit)."""
    peak_steps: Tensor
    """The step of the first such membrane, as a number of the same type, (batch, unit)."""
    others: Tensor
    """What else the backward pass reads, (what, batch, time, unit)."""


class Asked(NamedTuple):
    """Gradients that arrive; None where nobody asks."""

    spikes: Tensor | None
    counts: Tensor | None
    projected: Tensor | None
    membranes: Tensor | None
    last: Tensor | None
    peaks: Tensor | None


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
    kernels: Kernels,
    recipe: Recipe,
    inputs: Inputs,
    state: Tensor,
    *,
    n_steps: int,
    keep: Sequence[str],
) -> Outputs:
    """Run a layer over all steps.

    Raises SnnbenchError where events lie outside of the weight, or their rows outside of the events.

    Parameters
    ----------
    kernels
        Compiled for `recipe` and the type of the numbers.
    state
        Before the first step, (part, batch, unit).
    keep
        What to return for all steps: `spikes`; names of parts of the state, as the spikes of the same step
        saw them; `drive`. And `peaks`, of the membrane.
    """
    _, n_batch, n_units = state.shape
    if inputs.indptr is not None and inputs.channels is not None and inputs.weight is not None:
        n_inputs = inputs.weight.shape[1]
        n_rows = n_batch * n_steps
        check_events(inputs.indptr, inputs.channels, n_rows=n_rows, n_channels=n_inputs)
        if not _in_shares(n_inputs, n_units):
            _check_order(inputs.indptr, inputs.channels)
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
            "peaks": out.peaks if "peaks" in keep else None,
            "peak_steps": out.peak_steps if "peaks" in keep else None,
            "kept": [kept.get(part) for part in _parts(recipe)],
        },
    )
    over_samples(run, n_batch, group)
    return out


def backward(
    kernels: Kernels,
    recipe: Recipe,
    inputs: Inputs,
    slope: float,
    kept: Mapping[str, Tensor],
    bits: Tensor,
    peak_steps: Tensor,
    asked: Asked,
    *,
    n_steps: int,
    n_batch: int,
    through_recurrence: bool,
    needs: Needs,
) -> Gradients:
    """Gradients by everything that went into `forward`.

    `kept` has at least what `derive(recipe).kept` names, each (batch, time, unit); `bits` and
    `peak_steps` are those that `forward` returned.
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
            "recurrent": _panels(inputs.recurrent) if through_recurrence else None,
            "outgoing": _panels(inputs.outgoing),
            "parameters": _pad(inputs.parameters, padded),
            "gate": _contiguous(inputs.gate),
            "kept": [kept.get(part) for part in _parts(recipe)],
            "grad_spikes": asked.spikes,
            "grad_counts": asked.counts,
            "grad_projected": asked.projected,
            "grad_membranes": asked.membranes,
            "grad_final": asked.last,
            "grad_peaks": asked.peaks,
            "peak_steps": None if asked.peaks is None else peak_steps,
            "slope": slope,
            "grad_drive": grad_drive,
            "grad_state": grad_first,
            "grad_parameters": grad_parameters,
        },
    )
    from_below = {"indptr": inputs.indptr, "channels": inputs.channels, "rows": inputs.rows}
    of_input = of_sent = None
    if needs.weight and inputs.weight is not None:
        n_inputs = inputs.weight.shape[1]
        of_input = WeightGradients(kernels, grad_drive, None, n_inputs, group, **from_below)
    recurrent = grad_drive if needs.recurrent and inputs.recurrent is not None else None
    outgoing = asked.projected if needs.outgoing else None
    if recurrent is not None or outgoing is not None:
        sent = {"bits": bits, "gate": inputs.gate}
        of_sent = WeightGradients(kernels, recurrent, outgoing, n_units, group, **sent)
    _run_backward(run, [w for w in (of_input, of_sent) if w is not None], n_batch, group)

    grad_weight = None if of_input is None else of_input.result()[0]
    grad_recurrent, grad_outgoing = (None, None) if of_sent is None else of_sent.result()
    rows = None
    if needs.rows:
        rows = grad_drive if inputs.weight is None else _back_through(grad_drive, inputs.weight)
    constants = torch.zeros_like(inputs.parameters)
    wanted = [recipe.neuron.Parameters._fields.index(name) for name in recipe.parameter_gradients]
    constants[wanted] = grad_parameters.sum(dim=1)
    return Gradients(rows, grad_weight, grad_recurrent, grad_outgoing, constants, grad_first)


def check_events(indptr: Tensor, channels: Tensor, *, n_rows: int, n_channels: int) -> None:
    """Refuse events that are no CSR matrix of `n_rows` (samples times steps) by `n_channels`, on the CPU.

    The kernels go wherever events point to, and a wrong one may come from whoever writes a loader. That
    channels ascend within a row is not looked at here, see `_check_order`.
    """
    if (indptr.dtype, channels.dtype) != (torch.int64, torch.uint16):
        raise SnnbenchError(
            f"scan: events have indptr of {indptr.dtype} and channels of {channels.dtype};"
            " torch.int64 and torch.uint16 are needed"
        )
    pointers, numbers = indptr.numpy(), channels.numpy()
    if len(numbers) and (largest := int(numbers.max())) >= n_channels:
        raise SnnbenchError(
            f"scan: an event of channel {largest}, but there are {n_channels} inputs"
        )
    ends = len(pointers) == n_rows + 1 and pointers[0] == 0 and pointers[-1] == len(numbers)
    if not ends or (pointers[1:] < pointers[:-1]).any():
        raise SnnbenchError(
            f"scan: the indptr of events has to ascend from 0 to {len(numbers)} (the number of events) in"
            f" {n_rows + 1} numbers (samples times steps, and one)"
        )


def _check_order(indptr: Tensor, channels: Tensor) -> None:
    """Refuse rows whose channels do not ascend: threads that share a weight out by inputs search in them."""
    numbers = channels.numpy()
    starts_a_row = np.zeros(len(numbers) + 1, np.bool_)
    starts_a_row[indptr.numpy()] = True
    if not starts_a_row[1:-1][numbers[1:] < numbers[:-1]].all():
        raise SnnbenchError("scan: channels of events have to ascend within each bin of a sample")


def _run_backward(
    run: Callable[[int, int], None],
    weights: Sequence[WeightGradients],
    n_batch: int,
    group: int,
) -> None:
    """Run the adjoint over all samples, and sum up the gradients of weights."""
    shared = [w for w in weights if w.in_shares]
    if shared and torch.get_num_threads() <= _SHARES:
        # share by share: what the adjoint has just written is still in a cache when it is summed up
        def of_share(k: int, first: int, last: int) -> None:
            run(first, last)
            for w in shared:
                w.add_share(k)

        cuts = pairwise(_cuts(n_batch, group))
        _in_parallel([partial(of_share, k, *samples) for k, samples in enumerate(cuts)])
    else:
        over_samples(run, n_batch, group)
        _in_parallel([partial(w.add_share, k) for w in shared for k in range(_SHARES)])
    for w in weights:
        if not w.in_shares:
            _in_parallel([partial(w.add_inputs, r.start, r.stop) for r in w.ranges()])


class WeightGradients:
    """Gradients of up to two weights by which the same spikes are sent: sums of gradient times input over
    all steps of all samples.

    They are summed in fixed shares of the samples, whatever the number of threads, or, where a weight is
    large, over all samples for ranges of inputs.

    Parameters
    ----------
    kernels, group
        As in `backward`.
    grad, grad_onward
        By what each weight gives, (batch, time, unit); None for a weight that needs no gradient.
    n_inputs
        Number of inputs.
    source
        What came in, by the names of scan_cpp.OUTER: indptr and channels, or rows, or bits and gate.
    """

    def __init__(
        self,
        kernels: Kernels,
        grad: Tensor | None,
        grad_onward: Tensor | None,
        n_inputs: int,
        group: int,
        **source: Tensor | None,
    ) -> None:
        wanted = [g for g in (grad, grad_onward) if g is not None]
        n_batch, n_steps, _ = wanted[0].shape
        self.in_shares = _in_shares(n_inputs, max(g.shape[2] for g in wanted))
        self._channels, self._n_inputs = source.get("channels"), n_inputs
        cuts = _cuts(n_batch, group) if self.in_shares else [0, n_batch]
        self._sums = [
            None if g is None else g.new_empty(len(cuts) - 1, n_inputs, g.shape[2])
            for g in (grad, grad_onward)
        ]
        given = {"indptr": None, "channels": None, "rows": None, "bits": None, "gate": None}
        fields = {
            "n_steps": n_steps,
            "n_units": 0 if grad is None else grad.shape[2],
            "n_onward": 0 if grad_onward is None else grad_onward.shape[2],
            "n_inputs": n_inputs,
            "tile": _tile(self._channels, n_inputs, n_batch * n_steps),
            **{name: _contiguous(tensor) for name, tensor in (given | source).items()},
            "grad": grad,
            "grad_onward": grad_onward,
        }
        self._runs = []
        for share, (first, last) in enumerate(pairwise(cuts)):
            out, out_onward = (None if sums is None else sums[share] for sums in self._sums)
            rows = {"first_row": n_steps * first, "last_row": n_steps * last}
            self._runs.append(
                kernels.prepare("outer", {**fields, **rows, "out": out, "out_onward": out_onward})
            )

    def add_share(self, share: int) -> None:
        """Sum up one share of the samples."""
        self._runs[share](0, self._n_inputs)

    def add_inputs(self, first: int, last: int) -> None:
        """Sum up all samples for inputs `first` to `last` - 1."""
        self._runs[0](first, last)

    def ranges(self) -> list[range]:
        """Ranges of inputs for the threads, with about as many events in each (as a sample tells)."""
        threads, channels = torch.get_num_threads(), self._channels
        if channels is None or len(channels) == 0 or threads == 1:
            cuts = [self._n_inputs * k // threads for k in range(threads + 1)]
        else:
            some = channels[:: max(1, len(channels) >> 12)].long()
            up_to = torch.bincount(some, minlength=self._n_inputs).cumsum(0)
            wanted = torch.arange(1, threads) * len(some) // threads
            cuts = [0, *torch.searchsorted(up_to, wanted).tolist(), self._n_inputs]
        return [range(a, b) for a, b in pairwise(cuts)]

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        """Both gradients, (unit, input)."""
        first, second = (None if s is None else s.sum(dim=0).t().contiguous() for s in self._sums)
        return first, second


def _in_shares(n_inputs: int, n_units: int) -> bool:
    """Whether the gradient of a weight is summed in shares of the samples."""
    return n_inputs * _padded(n_units) <= _SHARED_WEIGHTS


def _cuts(n_batch: int, group: int) -> list[int]:
    """First samples of the shares, and the end: whole groups, as the kernels take them."""
    n_groups = -(-n_batch // group)
    return [min(n_batch, group * (n_groups * k // _SHARES)) for k in range(_SHARES + 1)]


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
    n_peaks = n_batch if "peaks" in keep else 0
    return Outputs(
        spikes=empty(state, every if spiking and "spikes" in keep else nothing),
        counts=state.new_empty((n_batch, n_units) if spiking else (0, n_units)),
        projected=empty(state, (n_batch, n_steps, n_outgoing)),
        membranes=empty(state, every if "membrane" in keep else nothing),
        last=torch.empty_like(state, memory_format=torch.contiguous_format),
        bits=state.new_empty((n_batch, n_steps, n_words), dtype=torch.int64),
        peaks=state.new_empty(n_peaks, n_units),
        peak_steps=state.new_empty(n_peaks, n_units),
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
