"""What training will take in memory, before it starts.

    total = weights + gradients + optimiser + spikes of the data set
            + the largest of: a training step, validation, saving

With T time steps, B samples in a batch, and n units in a layer, all in float32,

    a training step = sum over layers of T B n kept         from the forward pass, for the backward pass
                      + largest over layers of T B (n passing + units above)            on the way back
                      + two batches of events (2 bytes a spike, 8 a bin): one in use, one in the making

where `kept` and `passing` are what an engine holds for each step, sample and unit: see `ENGINES`. What a
neuron's adjoint reads is part of `kept`: of a LIF neuron the membrane, with reset to zero and a gradient
through it the current, too (`snnbench.models.derivation`). A normalisation keeps drives besides, and the
input made dense; what a readout keeps depends on its kind (`_floats`). Learned delays and convolutions keep
the spikes below as numbers, learned delays their kernels, too (`_heard`); what comes back through them is as
wide as the spikes, through a delay line as wide as all its taps. With `train.recompute_steps` = K the
backward pass computes K steps at a time anew: T becomes K, the states between these stretches are kept, the
events of all stretches once more, and of one layer what an earlier stretch kept. Validation has no backward
pass; it holds what one layer receives and what it sends. What a network without spiking neurons keeps is told
in `snnbench.baseline_memory`, and does not depend on an engine.

On a GPU spikes and saving count for nothing: they are the host's. What PyTorch, the kernels and the
interpreter take themselves, some hundred MiB, is in no formula: it is there before we look at what is free.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from snnbench.baseline_memory import evaluated_numbers, kept_numbers, passing_numbers
from snnbench.baseline_spec import BaselineSpec
from snnbench.connection_spec import Connections, DelayLineSpec, LearnedDelaySpec
from snnbench.errors import SnnbenchError
from snnbench.model_spec import ModelSpec, PerUnit
from snnbench.models.derivation import Recipe, derive
from snnbench.models.kinds import constants_of, kind_of, middle
from snnbench.models.neurons.leaky import LEAKY
from snnbench.models.neurons.lif import LIF
from snnbench.models.surrogate import make_surrogate
from snnbench.sizes import EVALUATION_BATCH, LayerSize, layer_sizes
from snnbench.spec import RunSpec

if TYPE_CHECKING:
    import torch

    from snnbench.data_prep.spikes import Spikes

_FLOAT = 4  # bytes
# as in snnbench.models.scan_cpu, which needs torch
_VECTOR, _SHARES, _SHARED_WEIGHTS = 32, 8, 1 << 18


class Floats(NamedTuple):
    """Numbers that an engine holds for each time step, sample and unit of a layer."""

    kept: int
    """From the forward to the backward pass, besides what the neuron's adjoint reads."""
    received: int
    """While a layer above the first runs: its drive."""
    passing: int
    """While the backward pass is at this layer."""
    dense_input: bool
    """Whether input events become a tensor (time, batch, channel)."""
    readout: int
    """Of the readout, besides its drive: its membranes, where the largest is looked for afterwards."""
    shares: bool
    """Whether gradients of weights are summed in shares of the samples."""
    not_saved: float = 0.0
    """Part of all steps whose memory is in use at the least, however short the stretches are."""


# spikes take a bit each; the gradient of the drive; the largest membrane is found on the way
_COMPILED = Floats(kept=0, received=1, passing=1, dense_input=False, readout=0, shares=True)

ENGINES: Mapping[str, Floats] = {
    "cpp": _COMPILED,
    "numba": _COMPILED,
    # spikes; gradients of spikes and of the drive
    "triton": Floats(1, received=0, passing=2, dense_input=True, readout=1, shares=False),
    # what autograd keeps of every operation of a step, and what the allocator of memory keeps of so many
    # small tensors that were freed: measured
    "reference": Floats(
        8, received=0, passing=3, dense_input=True, readout=8, shares=False, not_saved=0.5
    ),
}


class OutOfMemory(SnnbenchError):
    """A run that did not fit, or would not and is refused: a state that a sweep or a bench may record."""


class MemoryEstimate(NamedTuple):
    """Bytes that training takes at its peak, by what takes them."""

    weights: int
    """In use, and those of the best epoch."""
    gradients: int
    optimiser: int
    spikes: int
    """Of the training and validation split, in the host's memory."""
    activations: dict[str, int]
    """Kept for the backward pass, by layer."""
    passing: int
    """Gradients of activations at the largest moment of the backward pass."""
    batches: int
    validation: int
    """All that a validation pass needs instead of the three before."""
    saving: int
    """The same for writing a checkpoint."""

    @property
    def step(self) -> int:
        """What a training step takes besides weights and optimiser."""
        return sum(self.activations.values()) + self.passing + self.batches

    @property
    def total(self) -> int:
        """At the peak."""
        held = self.weights + self.gradients + self.optimiser + self.spikes
        return held + max(self.step, self.validation, self.saving)

    def __str__(self) -> str:
        moments = {
            "activations": sum(self.activations.values()) + self.passing,
            "batches": self.batches,
        }
        if self.validation > self.step:
            moments = {"validation": self.validation}
        if self.saving > max(self.step, self.validation):
            moments = {"saving": self.saving}
        held = {
            "weights, gradients and optimiser": self.weights + self.gradients + self.optimiser,
            "spikes": self.spikes,
        }
        told = ", ".join(f"{name} {size_text(n)}" for name, n in (moments | held).items() if n)
        return f"{size_text(self.total)} ({told})"


def estimate_memory(
    spec: RunSpec,
    *,
    input_spikes: float,
    spikes: int = 0,
    on_host: bool = True,
    engine: str = "cpp",
) -> MemoryEstimate:
    """What a run of this specification takes.

    Parameters
    ----------
    spec
        The run.
    input_spikes
        Mean input spikes of a sample.
    spikes
        Bytes of the spikes that the loaders hold; see `loader_bytes`.
    on_host
        Whether it trains in the host's memory; False for a GPU.
    engine
        A key of `ENGINES`.
    """
    sizes = layer_sizes(spec)
    n_weights = _FLOAT * sum(size.n_parameters for size in sizes)
    model = spec.model
    work = (
        _spiking_bytes(spec, model, sizes, input_spikes, _floats(spec, model, engine))
        if isinstance(model, ModelSpec)
        else _baseline_bytes(spec, model, sizes, input_spikes)
    )
    return MemoryEstimate(
        weights=2 * n_weights,
        gradients=n_weights + work.partial_sums,
        optimiser=2 * n_weights,
        spikes=spikes if on_host else 0,
        activations=work.activations,
        passing=work.passing,
        batches=work.batches,
        validation=work.validation,
        # weights twice and two moments of them, gathered, serialised, and in the file's layout
        saving=3 * 4 * n_weights if on_host else 0,
    )


class _Work(NamedTuple):
    """Bytes that are in use while a network computes, as in `MemoryEstimate`."""

    activations: dict[str, int]
    passing: int
    batches: int
    validation: int
    partial_sums: int = 0
    """Sums of gradients besides the gradients themselves."""


def _baseline_bytes(
    spec: RunSpec, model: BaselineSpec, sizes: list[LayerSize], input_spikes: float
) -> _Work:
    n_batch, n_steps = spec.train.batch_size, spec.n_steps
    kept = kept_numbers(model, sizes, n_steps)
    evaluated = _FLOAT * EVALUATION_BATCH * evaluated_numbers(spec.n_channels, sizes, n_steps)
    return _Work(
        activations={name: _FLOAT * n_batch * n for name, n in kept.items()},
        passing=_FLOAT * n_batch * passing_numbers(model, sizes, n_steps),
        batches=2 * _batch_bytes(spec, n_batch, input_spikes),
        validation=evaluated + 2 * _batch_bytes(spec, EVALUATION_BATCH, input_spikes),
    )


def _spiking_bytes(
    spec: RunSpec, model: ModelSpec, sizes: list[LayerSize], input_spikes: float, floats: Floats
) -> _Work:
    n_batch = spec.train.batch_size
    stretch = min(spec.train.recompute_steps or spec.n_steps, spec.n_steps)
    anew = stretch < spec.n_steps
    held = max(stretch, round(floats.not_saved * spec.n_steps))
    step = _FLOAT * held * n_batch
    connections = model.connections(spec.n_channels)
    return _Work(
        activations=_activations(spec, model, sizes, floats, stretch, held),
        passing=max(
            step * ((floats.passing + anew) * size.n_units + above)
            for size, above in zip(sizes, _units_above(connections, sizes), strict=True)
        )
        + _FLOAT * max(_kernels(c, spec.train.dt_s) for c in connections),
        batches=(2 + anew) * _batch_bytes(spec, n_batch, input_spikes),
        validation=_validation_bytes(spec, connections, sizes, input_spikes, floats, held),
        partial_sums=_FLOAT * _partial_sums(connections, sizes) if floats.shares else 0,
    )


def _floats(spec: RunSpec, model: ModelSpec, engine: str) -> Floats:
    """What an engine holds, and what this model's normalisation and readout hold beside it."""
    floats, readout = ENGINES[engine], model.readout
    if spec.train.precision == "bfloat16" and not floats.shares:
        # spikes once more, as factors of the product with the weights onward: in half as many bytes
        floats = floats._replace(kept=floats.kept + 1)
    if readout.kind == "leaky":
        if readout.reduce != "max":
            # membranes, and what a softmax makes of them
            n = max(1, floats.readout) + (readout.reduce == "softmax-sum")
            floats = floats._replace(readout=n)
        if readout.norm != "none":
            # drives before normalisation, and after it
            floats = floats._replace(readout=floats.readout + 2)
    else:
        # spikes one by one, and the product of their complements
        floats = floats._replace(readout=floats.kept + 2 * (readout.kind == "first-spike"))
    if model.norm == "none":
        return floats
    # drives before normalisation, and after it; dense, since a normalisation sees all of them
    return floats._replace(
        kept=floats.kept + 1,
        received=floats.received + 1,
        passing=floats.passing + 1,
        dense_input=True,
    )


def _activations(
    spec: RunSpec,
    model: ModelSpec,
    sizes: list[LayerSize],
    floats: Floats,
    stretch: int,
    held: int,
) -> dict[str, int]:
    """Bytes kept by layer, and for the input where it is made dense."""
    step, dt_s = _FLOAT * spec.train.batch_size, spec.train.dt_s
    between = -(-spec.n_steps // stretch) - 1
    hidden, readout = _recipes(model, dt_s)
    kept = {}
    for size in sizes:
        recipe, more = (readout, floats.readout) if size is sizes[-1] else (hidden, floats.kept)
        at_each_step = len(derive(recipe).kept) + more
        # spikes counted so far, or the largest membrane
        at_each_stretch = len(recipe.neuron.State._fields) + 1
        kept[size.name] = step * size.n_units * (held * at_each_step + between * at_each_stretch)
    connections = model.connections(spec.n_channels)
    for size, c in zip(sizes[:-1], connections, strict=True):
        kept[size.name] += step * _heard(c, dt_s, held) + _FLOAT * _kernels(c, dt_s)
    if _input_is_dense(connections, floats):
        kept["input"] = step * held * spec.n_channels
    return {name: n for name, n in kept.items() if n}


def _input_is_dense(connections: Sequence[Connections], floats: Floats) -> bool:
    """Whether input events become numbers, for a product with weights."""
    first = connections[0]
    return not first.takes_spikes and (floats.dense_input or first.below is not None)


def _heard(c: Connections, dt_s: float, n_steps: int) -> int:
    """Numbers of a sample's spikes that a layer keeps, with learned delays of the silence before, too."""
    if not c.takes_spikes:
        return 0
    before = c.below.n_bins(dt_s) if isinstance(c.below, LearnedDelaySpec) else 0
    return (n_steps + before) * c.n_inputs


def _kernels(c: Connections, dt_s: float) -> int:
    """Numbers that autograd keeps of the weights in use, beside the parameters that they are made of."""
    lateral = c.n_units**2 * (c.around is not None)
    if isinstance(c.below, DelayLineSpec):
        return c.n_taps * c.n_inputs * c.n_units + lateral
    if not isinstance(c.below, LearnedDelaySpec):
        return lateral
    # distances to a delay, their Gaussian, and its product with the weight
    return 3 * (c.below.n_bins(dt_s) + 1) * c.n_inputs * c.n_units + lateral


def _recipes(model: ModelSpec, dt_s: float) -> tuple[Recipe, Recipe]:
    """What hidden layers and the readout compute, the latter with constants that are numbers."""
    neuron, surrogate = model.neuron, make_surrogate(model.surrogate)
    kind, given = kind_of(neuron, dt_s), constants_of(neuron)
    here = kind.parameters({name: middle(c) for name, c in given.items()})
    # what a learned constant goes into is what changes with it
    there = kind.parameters(
        {
            name: c.high if isinstance(c, PerUnit) and c.learned else middle(c)
            for name, c in given.items()
        }
    )
    learned = tuple(name for name, a, b in zip(here._fields, here, there, strict=True) if a != b)
    hidden = Recipe(
        kind.neuron,
        surrogate,
        neuron.reset,
        neuron.gradient_through_reset,
        parameter_gradients=learned,
    )
    if model.readout.kind == "leaky":
        return hidden, Recipe(LEAKY, None, "subtract", False, parameter_gradients=())
    return hidden, Recipe(LIF, surrogate, "subtract", False, parameter_gradients=())


def _partial_sums(connections: Sequence[Connections], sizes: list[LayerSize]) -> int:
    """Numbers in the shares of gradients by weights, while the backward pass is at the layer with most.

    Weights of learned delays and convolutions are PyTorch's, which has no shares.
    """

    def shares(n_inputs: int, widths: list[int]) -> int:
        padded = -(-max(widths, default=0) // _VECTOR) * _VECTOR
        n_shares = _SHARES if n_inputs * padded <= _SHARED_WEIGHTS else 1
        return n_shares * n_inputs * sum(widths)

    # by which its units send: to themselves, and to the layer above
    taps = [*(c.n_taps for c in connections[1:]), 1]
    among = [
        shares(size.n_units, [n_taps * above.n_units] + [size.n_units] * size.recurrent)
        for (size, above), n_taps in zip(pairwise(sizes), taps, strict=True)
    ]
    plain = connections[0].below is None
    first = shares(sizes[0].n_inputs, [sizes[0].n_units] * plain)
    return max(among[0] + first, *among)


def _units_above(connections: Sequence[Connections], sizes: list[LayerSize]) -> list[int]:
    """How wide the gradient is that is handed down to each layer: nothing above the readout."""
    # that of the drive, and what it is before it has gone back through delays or a convolution
    further = [c.n_inputs if c.takes_spikes else c.n_moved for c in connections[1:]]
    return [*(a.n_units + n for a, n in zip(sizes[1:], [*further, 0], strict=True)), 0]


def _batch_bytes(spec: RunSpec, n_batch: int, input_spikes: float) -> int:
    noise = spec.train.augment.noise_hz * spec.task.n_units * spec.task.duration_s
    # changing spikes at random sorts them: some whole numbers of 8 bytes for each on the way
    per_spike = 64 if spec.train.augment.enabled else 2
    return int(n_batch * (per_spike * (input_spikes + noise) + 8 * spec.n_steps))


def _validation_bytes(
    spec: RunSpec,
    connections: Sequence[Connections],
    sizes: list[LayerSize],
    input_spikes: float,
    floats: Floats,
    held: int,
) -> int:
    # no sum: what a layer has received goes when the next one has it
    received = [floats.received * size.n_units for size in sizes]
    sent = [*(size.n_units for size in sizes[1:]), floats.readout and sizes[-1].n_units]
    for i, c in enumerate(connections[1:]):
        # spikes and what is made of them on the way, or drives before they are moved
        sent[i] += 2 * c.n_inputs if c.takes_spikes else c.n_moved
    units = max(a + b for a, b in zip([0, *received[1:]], sent, strict=True))
    if connections[0].takes_spikes or _input_is_dense(connections, floats):
        units += spec.n_channels + max(size.n_units for size in sizes)
    batch = _batch_bytes(spec, EVALUATION_BATCH, input_spikes)
    return _FLOAT * held * EVALUATION_BATCH * units + 2 * batch


def loader_bytes(spec: RunSpec, split: Spikes, *, changing: bool) -> int:
    """Memory in which a loader keeps a split, whether or not it is `changing` the spikes."""
    if changing:
        return 6 * split.n_spikes + 16 * len(split)
    return 2 * split.n_spikes + len(split) * (4 * (spec.n_steps + 1) + 8)


def estimate_training(
    spec: RunSpec, train: Spikes, valid: Spikes | None, device: str, engine: str
) -> MemoryEstimate:
    """What training on these splits takes on a device of type cpu or cuda, by a key of `ENGINES`."""
    return estimate_memory(
        spec,
        input_spikes=train.n_spikes / max(1, len(train)),
        spikes=loader_bytes(spec, train, changing=spec.train.augment.enabled)
        + (0 if valid is None else loader_bytes(spec, valid, changing=False)),
        on_host=device == "cpu",
        engine=engine,
    )


def free_memory(device: torch.device) -> int:
    """Bytes that a run could have on a device."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + unused
    from snnbench.data_prep.spill import available_memory

    return available_memory()


def require_memory(
    estimate: MemoryEstimate,
    spec: RunSpec,
    device: torch.device,
    *,
    at_once: int = 1,
    stacked: bool = False,
) -> None:
    """Refuse a run that will not fit, or `at_once` of them; `stacked` where some share a process.

    Raises
    ------
    OutOfMemory
        `at_once` runs like this take more than is free on the device.
    """
    free = free_memory(device)
    if at_once * estimate.total <= free:
        return
    what = f"{spec.model.name} on {spec.task.name}"
    each = f" each, {size_text(at_once * estimate.total)} for {at_once} at a time" * (at_once > 1)
    advice = [f"a smaller train.batch_size (now {spec.train.batch_size})", "another --device"]
    if spec.train.recompute_steps is None and isinstance(spec.model, ModelSpec):
        some = max(1, round(spec.n_steps**0.5))
        advice.insert(1, f"--set train.recompute_steps={some}")
    if at_once > 1:
        advice.insert(0, "a smaller --stack" if stacked else "fewer --workers")
    raise OutOfMemory(
        f"{what}: training takes about {estimate}{each}, but {size_text(free)} are free on"
        f" {device.type}; take {', '.join(advice[:-1])} or {advice[-1]}"
    )


@contextmanager
def out_of_memory_told(
    spec: RunSpec,
    train: Spikes,
    valid: Spikes | None,
    device: torch.device,
    engine: str,
    *,
    at_once: int = 1,
) -> Iterator[None]:
    """Turn what Python, PyTorch or C++ raise without memory into OutOfMemory, with what would fit.

    `at_once` is how many runs like this the process trains side by side.
    """
    room = free_memory(device)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        told = f"{spec.model.name} on {spec.task.name}: out of memory on {device.type}"
        peak = size_text(peak_memory_bytes(device))
        expected = estimate_training(spec, train, valid, device.type, engine)
        each = f" for each of {at_once} seeds at once" if at_once > 1 else ""
        fits = _what_would_fit(spec, train, valid, device, engine)
        raise OutOfMemory(
            f"{told}, with {peak} in use at the peak; training was thought to take {expected}{each}, and"
            f" {size_text(room)} were free when it began."
            f" {'A smaller --stack takes less' if at_once > 1 else fits}"
        ) from None


def _is_lack_of_memory(error: Exception) -> bool:
    """PyTorch has a class of its own for GPUs only."""
    words = ("can't allocate memory", "bad_alloc", "Cannot allocate memory")
    is_named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_named or any(word in str(error) for word in words)


def _what_would_fit(
    spec: RunSpec, train: Spikes, valid: Spikes | None, device: torch.device, engine: str
) -> str:
    """The largest batch, by halves, with a third less than what did not fit."""
    failed = estimate_training(spec, train, valid, device.type, engine).total
    batch_size = spec.train.batch_size
    while batch_size > 1:
        batch_size //= 2
        changed = spec.train.model_copy(update={"batch_size": batch_size})
        smaller = spec.model_copy(update={"train": changed})
        total = estimate_training(smaller, train, valid, device.type, engine).total
        if total <= failed * 2 / 3:
            return f"--set train.batch_size={batch_size} takes about {size_text(total)}"
    return "No smaller batch takes much less: a smaller model, or more memory, is needed"


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has had, on the device where it is a GPU."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def size_text(n_bytes: float) -> str:
    """Bytes in MiB or GiB with two digits that count."""
    mib = n_bytes / 2**20
    if mib >= 1000:
        return f"{mib / 1024:.1f} GiB"
    return f"{mib:.0f} MiB" if mib >= 9.5 else f"{mib:.1f} MiB"
