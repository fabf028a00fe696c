"""What follows from sizes alone: weights, operations per sample, and when decisions are asked for.

Nothing here imports torch, so that `snnbench models show` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

from snnbench.baseline_spec import BaselineSpec, CnnSpec, LstmSpec
from snnbench.connection_spec import ConvShape, DelayLineSpec, LearnedDelaySpec
from snnbench.model_spec import ModelSpec, PerUnit
from snnbench.spec import RunSpec

# Samples at once in validation and test. Fixed, and no part of a spec: in the last bits a matrix product
# depends on its size, so one number for everybody keeps a network's predictions the same.
EVALUATION_BATCH = 256

TENTHS = 10
"""Latency to decision is told for the ends of as many parts of a sample."""


class Work(NamedTuple):
    """Operations per sample."""

    dense_macs: float
    effective_acs: float


class LayerOperations(NamedTuple):
    """Operations of one layer per sample; see `snnbench.record.LayerWork`."""

    dense: float
    effective_acs: float
    effective_macs: float


class LayerSize(NamedTuple):
    """A hidden layer or the readout.

    A weight is a number that is learned, a synapse a place where a weight meets what comes from one unit.
    There is one of each for every input and unit, and for every two units of a recurrent layer, and all
    synapses work in every time step, unless the fields from `weights` on say otherwise.
    """

    name: str
    n_inputs: int
    n_units: int
    recurrent: bool
    n_others: int = 0
    """Parameters besides weights: biases, factors and shifts in a norm, learned constants and delays."""
    weights: int | None = None
    """From below: of all taps of a delay line, of all gates, of a convolution's kernels."""
    synapses: int | None = None
    """From below; None: as many as weights, which no units share."""
    recurrent_weights: int | None = None
    """Within the layer, likewise."""
    recurrent_synapses: int | None = None
    every: int | None = 1
    """Time steps for each time that the layer is computed; None: it is computed once in a sample."""

    @property
    def n_weights(self) -> int:
        """Feedforward weights; shared ones count once."""
        return self.n_inputs * self.n_units if self.weights is None else self.weights

    @property
    def n_recurrent_weights(self) -> int:
        """Weights within the layer, likewise."""
        if self.recurrent_weights is not None:
            return self.recurrent_weights
        return self.n_units**2 if self.recurrent else 0

    @property
    def n_synapses(self) -> int:
        """Places where what comes from below is multiplied by a weight."""
        return self.n_weights if self.synapses is None else self.synapses

    @property
    def n_recurrent_synapses(self) -> int:
        """The same within the layer."""
        if self.recurrent_synapses is not None:
            return self.recurrent_synapses
        return self.n_recurrent_weights

    @property
    def fan_out(self) -> float:
        """Synapses of an input, the mean over inputs: those near an end of a convolution have fewer."""
        return self.n_synapses / self.n_inputs

    @property
    def recurrent_fan_out(self) -> float:
        """Synapses of a unit within the layer, likewise."""
        return self.n_recurrent_synapses / self.n_units

    def runs(self, n_steps: int) -> int:
        """How often the layer is computed in a sample of so many time steps."""
        return -(-n_steps // self.every) if self.every else 1

    def macs(self, n_steps: int) -> int:
        """Multiply-accumulates of a sample."""
        return self.runs(n_steps) * (self.n_synapses + self.n_recurrent_synapses)

    def accumulates(self, n_steps: int) -> float:
        """What a spike from below causes, the mean over all that may come: one for each synapse of its unit
        whenever the layer is computed, which is once at the least.
        """
        return self.fan_out * (self.runs(n_steps) / n_steps if self.every else 1.0)

    def with_taps(self, n_taps: int) -> LayerSize:
        """With so many weights for each input and unit: a delay line."""
        return self._replace(weights=self.n_inputs * self.n_units * n_taps)

    def with_convolutions(self, below: ConvShape, within: ConvShape | None) -> LayerSize:
        """With weights from below that units share, and perhaps with recurrent ones that they share."""
        size = self._replace(weights=below.n_weights, synapses=below.n_synapses)
        if within is None:
            return size
        return size._replace(
            recurrent_weights=within.n_weights, recurrent_synapses=within.n_synapses
        )

    @property
    def n_parameters(self) -> int:
        """All that is trained."""
        return self.n_weights + self.n_recurrent_weights + self.n_others


def layer_sizes(spec: RunSpec) -> list[LayerSize]:
    """Sizes of a run's layers: hidden1, hidden2, ..., readout."""
    model = spec.model
    if not isinstance(model, ModelSpec):
        return _baseline_sizes(model, spec.n_channels, spec.task.n_classes)
    each = 2 * (model.norm != "none")
    each += sum(isinstance(c, PerUnit) and c.learned for _, c in model.neuron)
    sizes = []
    for i, (n_in, here, below, recurrent, around) in enumerate(model.connections(spec.n_channels)):
        n_delays = n_in * here if isinstance(below, LearnedDelaySpec) else 0
        size = LayerSize(f"hidden{i + 1}", n_in, here, recurrent, each * here + n_delays)
        if isinstance(below, DelayLineSpec):
            size = size.with_taps(len(below.taps_s))
        if isinstance(below, ConvShape):
            size = size.with_convolutions(below, around)
        sizes.append(size)
    normed = model.readout.kind == "leaky" and model.readout.norm != "none"
    n_classes = spec.task.n_classes
    readout = LayerSize(
        "readout", sizes[-1].n_units, n_classes, recurrent=False, n_others=2 * normed * n_classes
    )
    return [*sizes, readout]


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
            f"hidden{i}",
            n_inputs,
            n_units,
            recurrent=True,
            n_others=2 * gates,
            weights=gates * n_inputs,
            recurrent_weights=gates * size,
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
            weights=(weights := size * maps * prod(model.kernel)),
            synapses=above * weights,  # where the zeros around the input are, too
            every=every,
        )
        maps, places = size, above


def decision_steps(n_steps: int) -> list[int]:
    """Time steps after which a decision is asked for before a sample of `n_steps` is over: all tenths but the
    last, as far as there are steps for them.
    """
    ends = {round(n_steps * tenth / TENTHS) for tenth in range(1, TENTHS)}
    return sorted(end for end in ends if 0 < end < n_steps)


def count_operations(
    sizes: Sequence[LayerSize], *, n_steps: int, input_spikes: float, hidden_spikes: Sequence[float]
) -> Work:
    """Work per sample from mean spike counts per sample.

    Dense: every synapse does one multiply-accumulate in each of `n_steps` steps, and a synapse is a weight
    between two units, a tap of one, or a place where a shared weight is used; a learned delay is that of
    evaluation, one tap. Effective: every spike does one accumulate for each synapse of its unit, to the
    next layer and, with recurrence, to its own; an input bin with k spikes counts k. Units near an end of
    a convolution have fewer synapses than others, and the mean over units stands for all. Decays, resets,
    normalisations and the maximum are not counted.

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
    return total(
        operations_by_layer(
            sizes, n_steps=n_steps, input_spikes=input_spikes, hidden_spikes=hidden_spikes
        )
    )


def total(layers: Sequence[LayerOperations]) -> Work:
    """Of all layers together."""
    return Work(
        dense_macs=sum(layer.dense for layer in layers),
        effective_acs=sum(layer.effective_acs for layer in layers),
    )


def operations_by_layer(
    sizes: Sequence[LayerSize], *, n_steps: int, input_spikes: float, hidden_spikes: Sequence[float]
) -> list[LayerOperations]:
    """What `count_operations` sums up, for every layer in its place, the readout last.

    Accumulates are what spikes cause. Multiply-accumulates are what else arrives in a baseline's layers: from
    the second layer on, and within an LSTM.
    """
    spiking = bool(hidden_spikes)
    below = [input_spikes, *hidden_spikes] if spiking else [input_spikes]
    layers = []
    for i, size in enumerate(sizes):
        acs, macs = 0.0, 0.0
        if i < len(below):
            acs = below[i] * size.accumulates(n_steps)
        else:
            macs = size.runs(n_steps) * size.n_synapses
        if spiking and i < len(hidden_spikes):
            acs += hidden_spikes[i] * size.recurrent_fan_out
        elif not spiking:
            macs += size.runs(n_steps) * size.n_recurrent_synapses
        layers.append(LayerOperations(float(size.macs(n_steps)), acs, float(macs)))
    return layers
