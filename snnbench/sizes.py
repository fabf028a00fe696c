"""What follows from sizes alone: weights, and operations per sample.

Nothing here imports torch, so that `snnbench models show` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

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
    """Parameters besides weights: factors and shifts of a normalisation, learned constants."""

    @property
    def n_weights(self) -> int:
        """Feedforward weights."""
        return self.n_inputs * self.n_units

    @property
    def n_recurrent_weights(self) -> int:
        """Weights within the layer."""
        return self.n_units**2 if self.recurrent else 0

    @property
    def n_parameters(self) -> int:
        """All that is trained."""
        return self.n_weights + self.n_recurrent_weights + self.n_others


def layer_sizes(spec: RunSpec) -> list[LayerSize]:
    """Sizes of a run's layers: hidden1, hidden2, ..., readout."""
    units = (spec.n_channels, *spec.model.hidden, spec.task.n_classes)
    each = 2 * (spec.model.norm != "none")
    each += sum(isinstance(c, PerUnit) and c.learned for _, c in spec.model.neuron)
    hidden = [
        LayerSize(f"hidden{i}", below, size, spec.model.recurrent, each * size)
        for i, (below, size) in enumerate(pairwise(units[:-1]), start=1)
    ]
    return [*hidden, LayerSize("readout", units[-2], units[-1], recurrent=False)]


def count_operations(
    sizes: Sequence[LayerSize], *, n_steps: int, input_spikes: float, hidden_spikes: Sequence[float]
) -> Work:
    """Work per sample from mean spike counts per sample.

    Dense: every weight does one multiply-accumulate in each of `n_steps` steps. Effective: every spike
    does one accumulate for each weight that leaves its unit, to the next layer and, with recurrence, to
    its own; an input bin with k spikes counts k. Decays, resets, normalisations and the maximum are not
    counted.

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
            n_steps * sum(size.n_weights + size.n_recurrent_weights for size in sizes)
        ),
        effective_acs=sum(n * size.n_units for n, size in feedforward)
        + sum(n * size.n_units for n, size in recurrent if size.recurrent),
    )
