"""The whole-sequence operator: what a layer of neurons does in all time steps, and its gradients.

One signature, three implementations:

    reference       PyTorch and autograd, step by step (scan_reference.py): the truth
    cpp, numba      compiled loops on the CPU driven by events (scan_cpu.py)
    triton          on a GPU (scan_cuda.py)

The compiled ones stand behind operators of torch.library (scan_operator.py, scan_cuda_operator.py), so that
autograd, torch.compile and hooks see them as any other; their gradients are the adjoint that
`snnbench.models.derivation` derives.
They agree with the reference but for rounding, and for what a membrane does that rounding moves across the
threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from snnbench.data_prep.batch import EventBatch, dense_counts, places_of_events
from snnbench.errors import SnnbenchError
from snnbench.models.engines import Engine, resolve_engine
from snnbench.models.known_recipes import name_of
from snnbench.models.precision import Precision, product
from snnbench.models.scan_cpu import Outputs, check_events
from snnbench.models.scan_cuda_operator import one_replica, scan_on_gpu
from snnbench.models.scan_operator import scan_operator
from snnbench.models.scan_reference import scan_drive
from snnbench.models.scan_types import Cell, ScanResult, at_rest, recipe_of

_MOST = 2**16 - 1  # inputs or units: their numbers are kept in 16 bits


def scan(
    inputs: Tensor | EventBatch,
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
    """Run a layer over all time steps. Gradients of gradients need the reference.

    Parameters
    ----------
    inputs
        Spikes from below: events, or a tensor of shape
        (time, batch, input) whose zeros cost next to nothing. Without `weight`, the drive of the units,
        (time, batch, unit): what has been through weights, delays or a normalisation already.
    weight
        W, shape (unit, input).
    recurrent_weight
        V, shape (unit, unit): row i holds the weights onto unit i. None without recurrence.
    cell
        The neuron and everything chosen about it.
    outgoing_weight
        Weights to the next layer, shape (unit of the next layer, unit): what it receives is computed from
        the spikes as they occur, and they need not be written down.
    state
        Where to begin, as the `state` of an earlier scan's result; by default at rest.
    gate
        Factor on every spike a unit sends, to its own layer as well, shape (batch, unit): dropout.
        No gradient goes through it.
    keep_spikes, keep_membranes, keep_peaks
        Whether to return spikes, membranes, and the largest membrane over time.
    engine
        Which implementation to take.
    precision
        Of the products with `weight` and `outgoing_weight` where they are dense ones, in `reference` and
        `triton`; kernels that compute them from events do so in float32.

    Raises
    ------
    SnnbenchError
        Sizes do not fit each other, events lie outside of the inputs, or the engine cannot work on this
        device or machine.
    """
    like = weight if weight is not None else inputs
    if not isinstance(like, Tensor):
        raise SnnbenchError("scan: events need a weight")
    n_batch, n_units = _check_sizes(inputs, weight)
    n_steps = sizes_of(inputs)[0]
    if state is None:
        state = at_rest(cell.neuron, like.new_zeros(n_batch, n_units))
    _check_cell(cell, n_units, like)
    if cell.neuron.distance is None and not (recurrent_weight is outgoing_weight is None):
        raise SnnbenchError(
            f"scan: {cell.neuron.kind} never spikes; it has nothing to send by weights"
        )
    _check_tensors(
        like,
        {
            "recurrent_weight": (recurrent_weight, (n_units, n_units)),
            "outgoing_weight": (outgoing_weight, (None, n_units)),
            **{f"state.{k}": (v, (n_batch, n_units)) for k, v in _named(state, cell).items()},
        },
    )
    if isinstance(inputs, Tensor):
        inputs = inputs.to(like.dtype)
    if gate is not None:
        gate = gate.detach().to(like.dtype)
        _check_tensors(like, {"gate": (gate, (n_batch, n_units))})
    engine = resolve_engine(engine, like.device)
    if isinstance(inputs, EventBatch) and engine in ("reference", "triton"):
        _check_dense(inputs)
    if engine == "reference":
        result = scan_drive(
            drive(inputs, weight, precision),
            recurrent_weight,
            cell,
            state,
            gate,
            outgoing_weight,
            precision,
        )
        return _asked_for(result, keep_spikes, keep_membranes, keep_peaks)

    parameters = torch.stack([_per_unit(p, n_units, like) for p in cell.parameters])
    first = torch.stack(list(state))
    learning = torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad
        for t in (inputs, weight, recurrent_weight, outgoing_weight, parameters, first)
    )
    recipe = recipe_of(cell, learning=learning)
    keep = {"for-backward"} if learning else set()
    if keep_spikes:
        keep.add("spikes")
    if keep_membranes:
        keep.add("membrane")
    if keep_peaks:
        keep.add("peaks")
    if engine == "triton":
        result = scan_on_gpu(
            recipe,
            drive(inputs, weight, precision).transpose(0, 1)[None],
            _one(recurrent_weight),
            _one(outgoing_weight),
            parameters[:, None],
            _one(gate),
            first[:, None],
            keep,
            through_recurrence=cell.gradient_through_recurrence,
            precision=precision,
        )
        return _asked_for(one_replica(result, 0), keep_spikes, keep_membranes, keep_peaks)
    events = inputs if isinstance(inputs, EventBatch) else None
    out = Outputs(
        *scan_operator(
            events.indptr if events else None,
            events.channels if events else None,
            None if isinstance(inputs, EventBatch) else inputs.transpose(0, 1),
            weight,
            recurrent_weight,
            outgoing_weight,
            parameters,
            gate,
            first,
            cell.surrogate.slope if cell.surrogate else 0.0,
            n_steps,
            name_of(recipe),
            cell.gradient_through_recurrence,
            engine,
            ",".join(sorted(keep)),
        )
    )
    # in memory sample by sample; (time, batch, unit) is a view
    result = ScanResult(
        spikes=out.spikes.transpose(0, 1),
        counts=out.counts,
        projected=out.projected.transpose(0, 1),
        membranes=out.membranes.transpose(0, 1),
        peaks=out.peaks,
        state=cell.neuron.State(*out.last.unbind(0)),
    )
    return _asked_for(result, keep_spikes, keep_membranes, keep_peaks)


def _asked_for(result: ScanResult, spikes: bool, membranes: bool, peaks: bool) -> ScanResult:
    """A result without what an engine has at hand but nobody asked for."""
    return result._replace(
        spikes=result.spikes if spikes else result.spikes[:0],
        membranes=result.membranes if membranes else result.membranes[:0],
        peaks=result.peaks if peaks else result.peaks[:0],
    )


def drive(
    inputs: Tensor | EventBatch, weight: Tensor | None, precision: Precision = "float32"
) -> Tensor:
    """W S_in for all time steps, (time, batch, unit), as one dense product."""
    if isinstance(inputs, EventBatch):
        bins, samples = places_of_events(
            inputs.indptr, inputs.n_steps, n_events=len(inputs.channels)
        )
        shape = (inputs.n_steps, inputs.n_samples, inputs.n_channels)
        inputs = dense_counts(bins, inputs.channels.long(), samples, shape=shape, clip=False)
    return inputs if weight is None else product(inputs.to(weight.dtype), weight, precision)


def sizes_of(inputs: Tensor | EventBatch) -> tuple[int, int]:
    """Number of time steps and of samples."""
    if isinstance(inputs, EventBatch):
        return inputs.n_steps, inputs.n_samples
    return inputs.shape[0], inputs.shape[1]


def _check_dense(events: EventBatch) -> None:
    """What the CPU's kernels check themselves, before events become a tensor."""
    if events.channels.device.type == "cpu" and not torch.compiler.is_compiling():
        check_events(
            events.indptr,
            events.channels,
            n_rows=events.n_samples * events.n_steps,
            n_channels=events.n_channels,
        )


def _check_sizes(inputs: Tensor | EventBatch, weight: Tensor | None) -> tuple[int, int]:
    """Number of samples and of units."""
    if isinstance(inputs, Tensor) and inputs.dim() != 3:
        raise SnnbenchError(
            f"scan: inputs have shape {tuple(inputs.shape)}; (time, batch, input) is needed"
        )
    n_inputs = inputs.n_channels if isinstance(inputs, EventBatch) else inputs.shape[2]
    n_steps, n_batch = sizes_of(inputs)
    if 0 in (n_steps, n_batch, n_inputs):
        raise SnnbenchError(
            f"scan: {n_steps} time steps of {n_batch} samples of {n_inputs} inputs are nothing to run on"
        )
    n_units = n_inputs if weight is None else weight.shape[0]
    if weight is not None:
        _check_tensors(weight, {"weight": (weight, (n_units, n_inputs))})
    if max(n_inputs, n_units) > _MOST:
        raise SnnbenchError(f"scan: {n_inputs} inputs and {n_units} units; at most {_MOST} of each")
    return n_batch, n_units


def _check_cell(cell: Cell, n_units: int, like: Tensor) -> None:
    if cell.neuron.distance is not None and cell.surrogate is None:
        raise SnnbenchError(f"scan: {cell.neuron.kind} spikes, so the cell needs a surrogate")
    for name, p in zip(cell.neuron.Parameters._fields, cell.parameters, strict=True):
        if not isinstance(p, Tensor):
            continue
        if p.shape not in ((), (1,), (n_units,)):
            raise SnnbenchError(
                f"scan: {name} has shape {tuple(p.shape)}; a number or one for each of {n_units} units"
            )
        if p.dtype != like.dtype:
            raise SnnbenchError(f"scan: {name} is {p.dtype}, others are {like.dtype}")


def _check_tensors(
    like: Tensor, wanted: Mapping[str, tuple[Tensor | None, tuple[int | None, ...]]]
) -> None:
    if like.dtype not in (torch.float32, torch.float64):
        raise SnnbenchError(f"scan: works in float32 or float64, not in {like.dtype}")
    for name, (tensor, shape) in wanted.items():
        if tensor is None:
            continue
        found = tuple(tensor.shape)
        if 0 in found:
            raise SnnbenchError(f"scan: {name} has shape {found}, and no numbers")
        if len(found) != len(shape) or any(
            b not in (None, a) for a, b in zip(found, shape, strict=True)
        ):
            asked = tuple("any" if n is None else n for n in shape)
            raise SnnbenchError(f"scan: {name} has shape {found}, the inputs ask for {asked}")
        if (tensor.dtype, tensor.device) != (like.dtype, like.device):
            raise SnnbenchError(
                f"scan: {name} is {tensor.dtype} on {tensor.device}, others are {like.dtype} on"
                f" {like.device}"
            )


def _named(state: Any, cell: Cell) -> dict[str, Tensor]:
    if not isinstance(state, cell.neuron.State):
        raise SnnbenchError(
            f"scan: the state is a {type(state).__name__}, not the State of {cell.neuron.kind}"
        )
    return dict(state._asdict())


def _one(tensor: Tensor | None) -> Tensor | None:
    """With an axis of one replica in front."""
    return None if tensor is None else tensor[None]


def _per_unit(parameter: Any, n_units: int, like: Tensor) -> Tensor:
    if isinstance(parameter, Tensor):
        return parameter.expand(n_units)
    return like.new_full((n_units,), parameter)
