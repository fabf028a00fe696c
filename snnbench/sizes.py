"""What follows from sizes alone: weights, and operations per sample.

Nothing here imports torch, so that `snnbench models show` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from snnbench.connection_spec import ConvShape, DelayLineSpec, LearnedDelaySpec
from snnbench.model_spec import PerUnit
from snnbench.spec import RunSpec

# Samples at once in validation and test. Fixed, and no part of a spec: in the last bits a matrix product
# depends on its size, so one number for everybody keeps a network's predictions the same.
EVALUATION_BATCH = 256


class Work(NamedTuple):
    """Operations per sample."""

    dense_macs: float
    effective_acs: float


class LayerSize(NamedTuple):
    """A hidden layer or the readout."""

    name: str
    n_inputs: int
    n_units: int
    recurrent: bool
    n_others: int = 0
    """Parameters besides weights: factors and shifts of a normalisation, learned constants and delays."""
    n_taps: int = 1
    """Weights between each input and each unit: taps of a delay line."""
    conv: ConvShape | None = None
    """Of feedforward weights that units share; None where each has its own."""
    recurrent_conv: ConvShape | None = None
    """Of recurrent ones."""

    @property
    def n_weights(self) -> int:
        """Feedforward weights; shared ones count once."""
        return self.n_synapses if self.conv is None else self.conv.n_weights

    @property
    def n_recurrent_weights(self) -> int:
        """Weights within the layer, likewise."""
        if self.recurrent_conv is not None:
            return self.recurrent_conv.n_weights
        return self.n_recurrent_synapses

    @property
    def n_synapses(self) -> int:
        """Places where a spike from below is multiplied by a weight."""
        if self.conv is not None:
            return self.conv.n_synapses
        return self.n_inputs * self.n_units * self.n_taps

    @property
    def n_recurrent_synapses(self) -> int:
        """The same within the layer."""
        if self.recurrent_conv is not None:
            return self.recurrent_conv.n_synapses
        return self.n_units**2 if self.recurrent else 0

    @property
    def fan_out(self) -> float:
        """Synapses of an input, the mean over inputs: those near an end of a convolution have fewer."""
        return self.n_synapses / self.n_inputs

    @property
    def recurrent_fan_out(self) -> float:
        """Synapses of a unit within the layer, likewise."""
        return self.n_recurrent_synapses / self.n_units

    @property
    def n_parameters(self) -> int:
        """All that is trained."""
        return self.n_weights + self.n_recurrent_weights + self.n_others


def layer_sizes(spec: RunSpec) -> list[LayerSize]:
    """Sizes of a run's layers: hidden1, hidden2, ..., readout."""
    model = spec.model
    units = (spec.n_channels, *model.hidden_units(spec.n_channels))
    shapes = model.conv_shapes(spec.n_channels)
    each = 2 * (model.norm != "none")
    each += sum(isinstance(c, PerUnit) and c.learned for _, c in model.neuron)
    sizes = []
    for i, (below, here) in enumerate(pairwise(units)):
        delays, shape = model.delays_into(i), shapes[i] if shapes else None
        n_delays = below * here if isinstance(delays, LearnedDelaySpec) else 0
        sizes.append(
            LayerSize(
                f"hidden{i + 1}",
                below,
                here,
                model.recurrent,
                each * here + n_delays,
                n_taps=len(delays.taps_s) if isinstance(delays, DelayLineSpec) else 1,
                conv=shape,
                recurrent_conv=model.recurrent_shape(shape) if shape else None,
            )
        )
    normed = model.readout.kind == "leaky" and model.readout.norm != "none"
    n_classes = spec.task.n_classes
    readout = LayerSize(
        "readout", units[-1], n_classes, recurrent=False, n_others=2 * normed * n_classes
    )
    return [*sizes, readout]


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

    Parameters
    ----------
    sizes
        The layers, the readout last.
    n_steps
        Time bins.
    input_spikes
        Spikes that reach the first layer.
    hidden_spikes
        Spikes of every layer but the readout.
    """
    feedforward = zip([input_spikes, *hidden_spikes], sizes, strict=True)
    recurrent = zip(hidden_spikes, sizes[:-1], strict=True)
    return Work(
        dense_macs=float(
            n_steps * sum(size.n_synapses + size.n_recurrent_synapses for size in sizes)
        ),
        effective_acs=sum(n * size.fan_out for n, size in feedforward)
        + sum(n * size.recurrent_fan_out for n, size in recurrent),
    )
