"""Spiking layers and how their weights begin.

The updates in `snnbench.models.neurons` have no factor that undoes the bin width: halve dt, and a weight of
a LIF neuron does about twice as much, because the current acts on the membrane in twice as many steps. One
unit of weight adds A = 1 / ((1 - alpha) (1 - beta)) to the sum of its membrane over all steps; A is 1 / (1 -
beta) without a synaptic current, and 1 for the adaptive neurons, whose step has that factor. Initial weights
are therefore drawn, with n_in weights onto a unit, as

    w = g / sqrt(n_in) * tau_mem / (A dt) * U(-1, 1)

so that the area under the response to one spike is g / sqrt(n_in) * tau_mem * U(-1, 1), in membrane times
seconds, for every bin width: input spikes at rate r move the mean membrane by r tau_mem times the
weight's dimensionless part. The gain g is `input_gain` or `recurrent_gain` of the model's spec. Where a
constant differs from unit to unit, the middle of its range stands for it here.

Spikes from below come through a plain matrix of weights, or through delays or a convolution
(`snnbench.models.delays`, `convolution`). All begin on this scale: n_in is then the number of weights that
reach a unit, taps times inputs of a delay line, kernel times filters below of a convolution.

With normalisation, what comes from below has mean 0 and variance 1 whatever the weights, and is multiplied
by a trained factor that begins at g / A: so a drive of 1 that lasts brings the membrane to g.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snnbench.connection_spec import Connections, ConvShape, DelayLineSpec, LearnedDelaySpec
from snnbench.data_prep.batch import EventBatch
from snnbench.model_spec import ModelSpec, PerUnit
from snnbench.models.constants import UnitConstant
from snnbench.models.convolution import ChannelConvolution, LocalRecurrence
from snnbench.models.delays import DelayLine, LearnedDelays
from snnbench.models.engines import Engine
from snnbench.models.kinds import constants_of, kind_of, middle
from snnbench.models.precision import Precision
from snnbench.models.scan import drive, scan
from snnbench.models.scan_types import Cell, ScanResult
from snnbench.models.surrogate import make_surrogate
from snnbench.sizes import LayerSize


def initial_weight(
    n_out: int,
    n_in: int,
    *,
    gain: float,
    tau_mem_s: float,
    inverse_area: Sequence[float],
    dt_s: float,
    generator: torch.Generator,
) -> nn.Parameter:
    """A weight of shape (n_out, n_in), drawn as the module's docstring tells.

    `inverse_area` holds factors whose product is 1 / A.
    """
    # one after the other: the last bit of the first weights is part of every result
    bound = gain / math.sqrt(n_in)
    for factor in inverse_area:
        bound *= factor
    bound = bound * tau_mem_s / dt_s
    return nn.Parameter((2 * torch.rand(n_out, n_in, generator=generator) - 1) * bound)


class SpikingLayer(nn.Module):
    """Neurons that hear the layer below, and with `spec.recurrent` each other.

    Parameters
    ----------
    connections
        Units below and in this layer, and what connects them.
    spec
        The network's spec: neuron, surrogate, gains, normalisation, dropout.
    dt_s
        Width of a time bin.
    generator
        Where the initial weights come from.
    """

    weight: nn.Parameter
    """Plain weights, shape (unit, input). A layer with an `afferent` has none."""

    def __init__(
        self,
        connections: Connections,
        spec: ModelSpec,
        dt_s: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_in, self.n_units, below, recurrent, around = connections
        self.neuron, self.dt_s = spec.neuron, dt_s
        self.surrogate = make_surrogate(spec.surrogate)
        self.gradient_through_recurrence = spec.gradient_through_recurrence
        self.dropout = spec.dropout
        given = constants_of(spec.neuron)
        typical = {name: middle(constant) for name, constant in given.items()}
        kind = kind_of(spec.neuron, dt_s)
        inverse_area = kind.inverse_area(kind.parameters(typical))
        scale: dict[str, Any] = {
            "tau_mem_s": typical["tau_mem_s"],
            "inverse_area": inverse_area,
            "dt_s": dt_s,
            "generator": generator,
        }
        fans = self.n_units, self.n_in
        if isinstance(below, DelayLineSpec):
            fans = self.n_units, self.n_in * len(below.taps_s)
        elif isinstance(below, ConvShape):
            fans = below.matrix_size
        weight = initial_weight(*fans, gain=spec.input_gain, **scale)
        self.afferent: LearnedDelays | DelayLine | ChannelConvolution | None = None
        if below is None:
            self.weight = weight
        elif isinstance(below, LearnedDelaySpec):
            self.afferent = LearnedDelays(weight, below, dt_s, generator)
        elif isinstance(below, DelayLineSpec):
            self.afferent = DelayLine(weight, below, dt_s)
        else:
            self.afferent = ChannelConvolution(weight, below)
        self.recurrent_weight: nn.Parameter | None = None
        self.lateral: LocalRecurrence | None = None
        if around is not None:
            v = initial_weight(*around.matrix_size, gain=spec.recurrent_gain, **scale)
            self.lateral = LocalRecurrence(v, around)
        elif recurrent:
            self.recurrent_weight = initial_weight(
                self.n_units, self.n_units, gain=spec.recurrent_gain, **scale
            )
        self.norm = make_norm(spec.norm, self.n_units, spec.input_gain * math.prod(inverse_area))
        # drawn last: a network without them begins as it always did
        self.numbers: dict[str, float] = {
            name: c for name, c in given.items() if not isinstance(c, PerUnit)
        }
        self.per_unit = nn.ModuleDict(
            {
                name: UnitConstant(c, self.n_units, generator)
                for name, c in given.items()
                if isinstance(c, PerUnit)
            }
        )
        _ = self.cell  # its recipe is known before anybody traces this

    @property
    def incoming_weight(self) -> Tensor | None:
        """Weights that may be at work where spikes from below occur: W, shape (unit, input), or those of all
        taps of a delay line, (tap * unit, input). None with another `afferent`, which needs the spikes.
        """
        if isinstance(self.afferent, DelayLine):
            return self.afferent.of_all_taps
        return self.weight if self.afferent is None else None

    @torch.no_grad()
    def matrices(self) -> dict[str, Tensor]:
        """Weights as they are at work, each of shape (unit, input), by words that follow the connection's
        name: none where there is one matrix, and how much later a spike arrives with a delay line.
        """
        if isinstance(self.afferent, DelayLine):
            delays_ms = [1e3 * d * self.dt_s for d in self.afferent.bins]
            taps = self.afferent.weight.chunk(len(delays_ms), dim=1)
            return {f", {ms:g} ms later": w for ms, w in zip(delays_ms, taps, strict=True)}
        if isinstance(self.afferent, ChannelConvolution):
            spike_of_each = torch.eye(self.n_in, device=self.afferent.weight.device)[:, None]
            return {"": self.afferent(spike_of_each)[:, 0].t()}
        return {"": self.weight if self.afferent is None else self.afferent.weight}

    @property
    def recurrence(self) -> Tensor | None:
        """V, shape (unit, unit); None without recurrence."""
        return self.recurrent_weight if self.lateral is None else self.lateral.matrix()

    @property
    def delays_s(self) -> Tensor | None:
        """Learned delays in s as evaluation takes them, in whole bins; shape (unit, input)."""
        if not isinstance(self.afferent, LearnedDelays):
            return None
        return self.afferent.whole_bins * self.dt_s

    def size(self, name: str) -> LayerSize:
        """What this layer has, under a name."""
        size = LayerSize(
            name,
            self.n_in,
            self.n_units,
            self.recurrent_weight is not None or self.lateral is not None,
        )
        if isinstance(self.afferent, DelayLine):
            size = size.with_taps(len(self.afferent.bins))
        if isinstance(self.afferent, ChannelConvolution):
            around = None if self.lateral is None else self.lateral.shape
            size = size.with_convolutions(self.afferent.shape, around)
        found = sum(p.numel() for p in self.parameters())
        return size._replace(n_others=found - size.n_parameters)

    @property
    def cell(self) -> Cell:
        """The neurons with the constants they have now."""
        kind = kind_of(self.neuron, self.dt_s)
        return Cell(
            kind.neuron,
            kind.parameters(self.constants),
            self.surrogate,
            self.neuron.reset,
            self.neuron.gradient_through_reset,
            self.gradient_through_recurrence,
        )

    @property
    def constants(self) -> Mapping[str, Any]:
        """Constants by their names in the spec: numbers, or tensors of shape (unit,)."""
        return self.numbers | {name: constant() for name, constant in self.per_unit.items()}

    def forward(
        self,
        inputs: Tensor | EventBatch,
        *,
        weight: Tensor | None,
        outgoing_weight: Tensor | None = None,
        gate: Tensor | None = None,
        state: Any = None,
        engine: Engine = "auto",
        precision: Precision = "float32",
        keep_spikes: bool = False,
        keep_membranes: bool = False,
    ) -> ScanResult:
        """What this layer does. Parameters as in `snnbench.models.scan.scan`.

        `weight` is the layer's `incoming_weight` for spikes from below; None says that `inputs` have been
        through it, as the `outgoing_weight` of the layer below. A layer that has none always
        takes spikes. `gate` comes from `draw_gate`.
        """
        inputs, weight = self.arriving(inputs, weight, precision)
        return scan(
            inputs,
            weight,
            self.recurrence,
            self.cell,
            outgoing_weight=outgoing_weight,
            state=state,
            gate=gate,
            keep_spikes=keep_spikes,
            keep_membranes=keep_membranes,
            engine=engine,
            precision=precision,
        )

    def arriving(
        self, inputs: Tensor | EventBatch, weight: Tensor | None, precision: Precision = "float32"
    ) -> tuple[Tensor | EventBatch, Tensor | None]:
        """What a scan is given: spikes from below and their weight; or the units' drive, (time, batch, unit),
        and None, where delays, a convolution or a normalisation come before it.
        """
        if isinstance(self.afferent, DelayLine):
            inputs, weight = self.afferent(drive(inputs, weight, precision)), None
        elif self.afferent is not None:
            inputs, weight = self.afferent(self._dense(inputs)), None
        if self.norm is not None:
            inputs, weight = self.norm(drive(inputs, weight, precision)), None
        return inputs, weight

    def draw_gate(self, n_batch: int, dropout: torch.Generator | None) -> Tensor | None:
        """Dropout for a batch: each unit is silent for a whole sample with the spec's probability, and the
        others' spikes count 1 / (1 - probability). None without a generator or a probability.
        """
        if dropout is None or self.dropout == 0:
            return None
        like = next(self.parameters())
        draw = torch.rand((n_batch, self.n_units), generator=dropout, device=like.device)
        return (draw >= self.dropout).to(like.dtype) / (1 - self.dropout)

    def _dense(self, spikes: Tensor | EventBatch) -> Tensor:
        """Spikes (time, batch, input) in the type of the weights."""
        return drive(spikes, None).to(next(self.parameters()).dtype)


class BatchNorm(nn.Module):
    """Each unit's drive over samples and time, to mean 0 and variance 1, times a factor, plus a shift.

    Evaluation takes running figures of training (Ioffe & Szegedy 2015).
    """

    def __init__(self, n_units: int, gain: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(n_units, momentum=0.05)
        nn.init.constant_(self.norm.weight, gain)

    def forward(self, drives: Tensor) -> Tensor:
        """Drives of shape (time, batch, unit)."""
        # in memory sample by sample, as the scan takes them
        by_sample = drives.transpose(0, 1)
        normed: Tensor = self.norm(by_sample.flatten(0, 1)).view(by_sample.shape)
        return normed.transpose(0, 1)


def make_norm(kind: str, n_units: int, gain: float) -> nn.Module | None:
    """The normalisation that a spec names; its factor begins at `gain`."""
    if kind == "none":
        return None
    if kind == "batch":
        return BatchNorm(n_units, gain)
    norm = nn.LayerNorm(n_units)
    nn.init.constant_(norm.weight, gain)
    return norm
