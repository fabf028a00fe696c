"""What follows from sizes alone: weights, and operations per sample.

Nothing here imports torch, so that `snnbench models show` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

from snnbench.baseline_spec import BaselineSpec, CnnSpec, LstmSpec
from snnbench.model_spec import ModelSpec, PerUnit
from snnbench.spec import RunSpec

# Samples at once in validation and test. Fixed, and no part of a spec: in the last bits a matrix product
# depends on its size, so one number for everybody keeps a network's predictions the same.
EVALUATION_BATCH = 256


class Work(NamedTuple):
    """Operations per sample."""

    dense_macs: float
    effective_acs: float


class LayerSize(NamedTuple):
    """A hidden layer or the readout.

    Weights are one for each input and unit, and act once in every time step, unless the fields from
    `weights` on say otherwise: those of the baselines.
    """

    name: str
    n_inputs: int
    n_units: int
    recurrent: bool
    n_others: int = 0
    """Parameters besides weights: biases, factors and shifts of a normalisation, learned constants."""
    weights: int | None = None
    """Feedforward weights of all gates, or of a convolution's kernels."""
    recurrent_weights: int | None = None
    """Weights within the layer, of all gates."""
    shared: int = 1
    """Units that use the same weights: places of a convolution."""
    every: int | None = 1
    """Time steps for each time that the layer is computed; None: it is computed once in a sample."""

    @property
    def n_weights(self) -> int:
        """Feedforward weights."""
        return self.n_inputs * self.n_units if self.weights is None else self.weights

    @property
    def n_recurrent_weights(self) -> int:
        """Weights within the layer."""
        if self.recurrent_weights is not None:
            return self.recurrent_weights
        return self.n_units**2 if self.recurrent else 0

    def runs(self, n_steps: int) -> int:
        """How often the layer is computed in a sample of so many time steps."""
        return -(-n_steps // self.every) if self.every else 1

    def macs(self, n_steps: int) -> int:
        """Multiply-accumulates of a sample."""
        return self.runs(n_steps) * self.shared * (self.n_weights + self.n_recurrent_weights)

    def fan_out(self, n_steps: int) -> float:
        """Products with feedforward weights that a spike from below takes part in: one for each unit, or the
        mean over all places of a convolution's input, with the zeros around it.
        """
        each = self.shared * self.n_weights / self.n_inputs
        return each * self.runs(n_steps) / n_steps if self.every else each

    @property
    def n_parameters(self) -> int:
        """All that is trained."""
        return self.n_weights + self.n_recurrent_weights + self.n_others


def layer_sizes(spec: RunSpec) -> list[LayerSize]:
    """Sizes of a run's layers: hidden1, hidden2, ..., readout."""
    if not isinstance(spec.model, ModelSpec):
        return _baseline_sizes(spec.model, spec.n_channels, spec.task.n_classes)
    units = (spec.n_channels, *spec.model.hidden, spec.task.n_classes)
    each = 2 * (spec.model.norm != "none")
    each += sum(isinstance(c, PerUnit) and c.learned for _, c in spec.model.neuron)
    hidden = [
        LayerSize(f"hidden{i}", below, size, spec.model.recurrent, each * size)
        for i, (below, size) in enumerate(pairwise(units[:-1]), start=1)
    ]
    return [*hidden, LayerSize("readout", units[-2], units[-1], recurrent=False)]


def _baseline_sizes(model: BaselineSpec, n_inputs: int, n_classes: int) -> list[LayerSize]:
    if isinstance(model, LstmSpec):
        *hidden, every = *_lstm_sizes(model, n_inputs), 1 if model.reduce == "max" else None
        n_features = hidden[-1].n_units
    elif isinstance(model, CnnSpec):
        *hidden, every = *_convolution_sizes(model, n_inputs), None
        n_features = hidden[-1].n_units
    else:
        hidden, every = [], None
        n_features = model.time_bins * (model.channel_bins or n_inputs)
    return [*hidden, LayerSize("readout", n_features, n_classes, False, n_classes, every=every)]


def _lstm_sizes(model: LstmSpec, n_inputs: int) -> Iterator[LayerSize]:
    directions = 1 + model.bidirectional
    for i, size in enumerate(model.hidden, start=1):
        gates = 4 * directions * size  # each with two biases, as PyTorch has them
        n_units = directions * size
        yield LayerSize(
            f"hidden{i}", n_inputs, n_units, True, 2 * gates, gates * n_inputs, gates * size
        )
        n_inputs = n_units


def _convolution_sizes(model: CnnSpec, n_inputs: int) -> Iterator[LayerSize]:
    # without a kernel over channels, they are so many maps of one place
    maps, places = (1, n_inputs) if len(model.kernel) == 2 else (n_inputs, 1)
    every = 1
    for i, size in enumerate(model.channels, start=1):
        above = -(-places // (*model.stride, 1)[1])
        every *= model.stride[0]
        yield LayerSize(
            f"hidden{i}",
            n_inputs=maps * places,
            n_units=size * above,
            recurrent=False,
            n_others=2 * size if model.norm == "batch" else size,
            weights=size * maps * prod(model.kernel),
            shared=above,
            every=every,
        )
        maps, places = size, above


def count_operations(
    sizes: Sequence[LayerSize], *, n_steps: int, input_spikes: float, hidden_spikes: Sequence[float]
) -> Work:
    """Work per sample from mean spike counts per sample.

    Dense: every weight does one multiply-accumulate in each of `n_steps` steps. Effective: every spike
    does one accumulate for each weight that leaves its unit, to the next layer and, with recurrence, to
    its own; an input bin with k spikes counts k. Decays, resets, normalisations and the maximum are not
    counted.

    In a baseline weights act as often as `LayerSize` says, and only input spikes are spikes: its effective
    accumulates are those of the first layer, while all else is dense whatever the input, and in no count of
    accumulates.

    Parameters
    ----------
    sizes
        The layers, the readout last.
    n_steps
        Time bins.
    input_spikes
        Spikes that reach the first layer.
    hidden_spikes
        Spikes of every layer but the readout; none of a baseline, where no layer spikes.
    """
    hit = sizes if hidden_spikes else sizes[:1]
    feedforward = zip([input_spikes, *hidden_spikes], hit, strict=True)
    recurrent = zip(hidden_spikes, hit[:-1], strict=True)
    return Work(
        dense_macs=float(sum(size.macs(n_steps) for size in sizes)),
        effective_acs=sum(n * size.fan_out(n_steps) for n, size in feedforward)
        + sum(n * size.n_units for n, size in recurrent if size.recurrent),
    )
