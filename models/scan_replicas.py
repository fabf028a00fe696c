"""The scan of several networks of equal shape at once: the same model with other seeds, or other weights.

A small layer leaves most of a GPU idle, and ten of them take little longer than one. On a CPU they run one
after the other. Everything is as in `snnbench.models.scan`, with an axis `replica` in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from snnbench.data_prep.batch import EventBatch
from snnbench.errors import SnnbenchError
from snnbench.models.engines import Engine, resolve_engine
from snnbench.models.precision import Precision, product
from snnbench.models.scan import (
    _check_cell,
    _check_sizes,
    _check_tensors,
    drive,
    scan,
    sizes_of,
)
from snnbench.models.scan_cuda_operator import scan_on_gpu
from snnbench.models.scan_types import Cell, ScanResult, recipe_of

ReplicaInputs = Tensor | EventBatch | Sequence[EventBatch]


def scan_replicas(
    inputs: ReplicaInputs,
    weight: Tensor | None,
    recurrent_weight: Tensor | None,
    cell: Cell,
    *,
    outgoing_weight: Tensor | None = None,
    state: Any = None,
    gate: Tensor | None = None,
    keep_spikes: bool = True,
    keep_membranes: bool = False,
    keep_peaks: bool = False,
    engine: Engine = "auto",
    precision: Precision = "float32",
) -> ScanResult:
    """Run replicas of a layer over all time steps.

    Parameters
    ----------
    inputs
        Spikes from below: events which all replicas receive, or a sequence of events, one batch of equal
        size for each; or a tensor of shape (replica, time, batch, input). Without `weight`, the drive of
        the units, (replica, time, batch, unit).
    weight
        W, shape (replica, unit, input).
    recurrent_weight
        V, shape (replica, unit, unit).
    cell
        The neuron and everything chosen about it, for all replicas; its parameters are numbers, or tensors
        of shape (replica, unit).
    outgoing_weight
        Weights to the next layer, shape (replica, unit of the next layer, unit).
    state
        Where to begin, each part of shape (replica, batch, unit); by default at rest.
    gate
        Factor on every spike a unit sends, (replica, batch, unit).
    keep_spikes, keep_membranes, keep_peaks, engine, precision
        As in `snnbench.models.scan.scan`.

    Returns
    -------
    ScanResult
        Shapes (replica, time, batch, unit) and (replica, batch, unit).

    Raises
    ------
    SnnbenchError
        Sizes do not fit each other, or the engine cannot work on this device or machine.
    """
    like = weight if weight is not None else inputs
    if not isinstance(like, Tensor):
        raise SnnbenchError("scan_replicas: events need a weight")
    n_replicas = len(like)
    if state is not None and not isinstance(state, cell.neuron.State):
        raise SnnbenchError(
            f"scan_replicas: the state is a {type(state).__name__}, not the State of {cell.neuron.kind}"
        )
    _check_axis(n_replicas, inputs, weight, recurrent_weight, cell, outgoing_weight, state, gate)
    _check_alike(inputs, cell)
    _check_first(inputs, weight, recurrent_weight, cell, outgoing_weight, state, gate)
    engine = resolve_engine(engine, like.device)
    if engine != "triton":
        return _together(
            [
                scan(
                    _inputs_of(inputs, r),
                    _of(weight, r),
                    _of(recurrent_weight, r),
                    _cell_of(cell, r),
                    outgoing_weight=_of(outgoing_weight, r),
                    state=None if state is None else type(state)(*(s[r] for s in state)),
                    gate=_of(gate, r),
                    keep_spikes=keep_spikes,
                    keep_membranes=keep_membranes,
                    keep_peaks=keep_peaks,
                    engine=engine,
                    precision=precision,
                )
                for r in range(n_replicas)
            ]
        )

    arriving = _drive(inputs, weight, precision)
    _, n_batch, _, n_units = arriving.shape
    parameters = torch.stack(
        [
            # filled on the device: a copy from the host could not be recorded in a CUDA graph
            (p if isinstance(p, Tensor) else like.new_full((), p)).expand(n_replicas, n_units)
            for p in cell.parameters
        ]
    )
    if state is None:
        first = like.new_zeros(len(cell.neuron.State._fields), n_replicas, n_batch, n_units)
    else:
        first = torch.stack(list(state))
    tensors = (arriving, recurrent_weight, outgoing_weight, parameters, first)
    learning = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    keep = {"for-backward"} if learning else set()
    if keep_membranes:
        keep.add("membrane")
    if keep_peaks:
        keep.add("peaks")
    result = scan_on_gpu(
        recipe_of(cell, learning=learning),
        arriving,
        recurrent_weight,
        outgoing_weight,
        parameters,
        None if gate is None else gate.detach().to(like.dtype),
        first,
        keep,
        through_recurrence=cell.gradient_through_recurrence,
        precision=precision,
    )
    return result if keep_spikes else result._replace(spikes=result.spikes[:, :0])


def _drive(inputs: ReplicaInputs, weight: Tensor | None, precision: Precision) -> Tensor:
    """W S_in, (replica, batch, time, unit), as one batch of dense products."""
    if isinstance(inputs, EventBatch):
        spikes = drive(inputs, None).transpose(0, 1)[None]
    elif isinstance(inputs, Tensor):
        spikes = inputs.transpose(1, 2)
    else:
        spikes = torch.stack([drive(events, None).transpose(0, 1) for events in inputs])
    if weight is None:
        return spikes
    rows = spikes.flatten(1, 2).to(weight.dtype)
    return product(rows, weight, precision).unflatten(1, spikes.shape[1:3])


def _check_axis(n_replicas: int, inputs: ReplicaInputs, *others: Any) -> None:
    """That whatever has an axis of replicas has as many of them."""
    tensors: list[Tensor] = []
    for other in others:
        parts = other.parameters if isinstance(other, Cell) else other
        tensors += [
            t for t in (parts if isinstance(parts, tuple) else [parts]) if isinstance(t, Tensor)
        ]
    found = {len(t) for t in tensors if t.dim()}
    if not isinstance(inputs, EventBatch):
        found.add(len(inputs))
    if found != {n_replicas} or not n_replicas:
        raise SnnbenchError(
            f"scan_replicas: tensors of {', '.join(map(str, sorted(found)))} replicas; they have to agree"
        )


def _check_alike(inputs: ReplicaInputs, cell: Cell) -> None:
    """That batches of events have one size, and that constants cannot be taken for something else."""
    if not isinstance(inputs, (Tensor, EventBatch)):
        sizes = {(*sizes_of(events), events.n_channels) for events in inputs}
        if len(sizes) > 1:
            raise SnnbenchError(
                f"scan_replicas: batches of {', '.join(map(str, sorted(sizes)))} steps, samples and inputs;"
                " they have to agree"
            )
    for name, p in cell.parameters._asdict().items():
        # with as many replicas as units, one for each could mean either
        if isinstance(p, Tensor) and p.dim() not in (0, 2):
            raise SnnbenchError(
                f"scan_replicas: {name} has shape {tuple(p.shape)}; a number or (replica, unit) is needed"
            )


def _check_first(
    inputs: ReplicaInputs,
    weight: Tensor | None,
    recurrent_weight: Tensor | None,
    cell: Cell,
    outgoing_weight: Tensor | None,
    state: Any,
    gate: Tensor | None,
) -> None:
    """What `scan` asks of its arguments, of the first replica: the others have the same shapes."""
    first = _inputs_of(inputs, 0)
    n_batch, n_units = _check_sizes(first, _of(weight, 0))
    like = weight if weight is not None else first
    assert isinstance(like, Tensor)
    _check_cell(_cell_of(cell, 0), n_units, like)
    if cell.neuron.distance is None and not (recurrent_weight is outgoing_weight is None):
        raise SnnbenchError(
            f"scan_replicas: {cell.neuron.kind} never spikes; it has nothing to send by weights"
        )
    states = {} if state is None else state._asdict()
    _check_tensors(
        like,
        {
            "recurrent_weight": (_of(recurrent_weight, 0), (n_units, n_units)),
            "outgoing_weight": (_of(outgoing_weight, 0), (None, n_units)),
            "gate": (None if gate is None else gate[0].to(like.dtype), (n_batch, n_units)),
            **{f"state.{part}": (s[0], (n_batch, n_units)) for part, s in states.items()},
        },
    )


def _inputs_of(inputs: ReplicaInputs, r: int) -> Tensor | EventBatch:
    return inputs if isinstance(inputs, EventBatch) else inputs[r]


def _of(tensor: Tensor | None, r: int) -> Tensor | None:
    return None if tensor is None else tensor[r]


def _cell_of(cell: Cell, r: int) -> Cell:
    parameters = (p[r] if isinstance(p, Tensor) and p.dim() else p for p in cell.parameters)
    return replace(cell, parameters=type(cell.parameters)(*parameters))


def _together(results: Sequence[ScanResult]) -> ScanResult:
    *tensors, states = zip(*results, strict=True)
    state = type(states[0])(*(torch.stack(parts) for parts in zip(*states, strict=True)))
    return ScanResult._make([*(torch.stack(parts) for parts in tensors), state])
