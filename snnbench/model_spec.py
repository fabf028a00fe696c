"""What a model is: its neurons, surrogate, readout and sizes, as frozen specifications.

Kinds that differ in their keys are specifications of their own, told apart by `kind`. What a later version
adds has a default that means "as before", so that no digest changes (`snnbench.spec_base`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from snnbench.connection_spec import (
    Connections,
    ConvShape,
    ConvSpec,
    DelayLineSpec,
    LearnedDelaySpec,
)
from snnbench.spec_base import Spec, by_kind

Positive = Annotated[float, Field(gt=0)]


class PerUnit(Spec):
    """A constant of its own for every unit of a layer: drawn at the start and, with `learned`, trained.

    Training keeps it between `low` and `high`. A time constant moves there on a logarithmic scale
    (`snnbench.models.constants`).
    """

    low: float
    high: float
    draw: Literal["uniform", "gamma", "middle"] = "uniform"
    """uniform: between low and high, on the scale on which it is trained; gamma: with shape 3 and `mean`, cut
    off at both ends (Perez-Nieves et al. 2021); middle: the same for all units at first."""
    mean: Positive | None = None
    """Of the gamma distribution."""
    learned: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} has to be below high = {self.high}")
        if (self.draw == "gamma") != (self.mean is not None):
            raise ValueError('mean goes with draw = "gamma", and only with it')
        if self.mean is not None and not self.low < self.mean < self.high:
            raise ValueError(f"mean = {self.mean} has to lie between low and high")
        return self


class PositivePerUnit(PerUnit):
    """The same of a constant that is positive: a time constant, a threshold."""

    low: Positive
    high: Positive


def _number_or_range(value: Any) -> str:
    return "range" if isinstance(value, dict | PerUnit) else "number"


PositiveConstant = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[PositivePerUnit, Tag("range")],
    Discriminator(_number_or_range),
]
"""One number for all units, or one for each."""
Constant = Annotated[
    Annotated[float, Tag("number")] | Annotated[PerUnit, Tag("range")],
    Discriminator(_number_or_range),
]


class _SpikingSpec(Spec):
    """What all neurons that spike have."""

    threshold: PositiveConstant = 1.0
    reset: Literal["subtract", "zero"] = "subtract"
    """`subtract` takes the threshold off the membrane after a spike, `zero` sets it to zero."""
    gradient_through_reset: bool = False
    """Whether the backward pass also goes through the reset's spike (Zenke & Vogels 2021)."""


class LifSpec(_SpikingSpec):
    """Current-based leaky integrate-and-fire neuron (Neftci, Mostafa & Zenke 2019, eqs. 4-6)."""

    kind: Literal["lif"] = "lif"
    tau_mem_s: PositiveConstant = 20e-3
    tau_syn_s: PositiveConstant = 10e-3
    refractory_s: float = Field(default=0.0, ge=0)
    """For so long after a spike the membrane stays at zero; rounded to whole bins, at least one."""


class LifDeltaSpec(_SpikingSpec):
    """Leaky integrate-and-fire neuron whose input reaches the membrane at once."""

    kind: Literal["lif-delta"]
    tau_mem_s: PositiveConstant = 20e-3


class AdlifSpec(_SpikingSpec):
    """Adaptive LIF neuron (Bittar & Garner 2022, eqs. 6-8); constants per bin, as published."""

    kind: Literal["adlif"]
    tau_mem_s: PositiveConstant = 20e-3
    tau_adapt_s: PositiveConstant = 100e-3
    a: Constant = 0.0
    """Coupling of the adaptation to the membrane."""
    b: Constant = 1.0
    """Coupling of the adaptation to the spikes."""


class SeAdlifSpec(AdlifSpec):
    """Adaptive LIF neuron in symplectic Euler form (Baronig et al. 2024)."""

    kind: Literal["se-adlif"]  # type: ignore[assignment]
    reset: Literal["subtract", "zero"] = "zero"
    q: Positive = 120.0
    """Factor on both couplings."""


NeuronSpec = Annotated[
    Annotated[LifSpec, Tag("lif")]
    | Annotated[LifDeltaSpec, Tag("lif-delta")]
    | Annotated[AdlifSpec, Tag("adlif")]
    | Annotated[SeAdlifSpec, Tag("se-adlif")],
    by_kind("lif"),
]


class SurrogateSpec(Spec):
    """Derivative used for the spike in the backward pass: peak times a shape that is 1 at threshold.

    Shapes, with x = u - threshold, are those of `snnbench.models.surrogate`.
    """

    kind: Literal[
        "superspike",
        "sigmoid",
        "triangle",
        "boxcar",
        "gaussian",
        "multi-gaussian",
        "arctangent",
        "slayer",
        "straight-through",
    ] = "superspike"
    slope: float = Field(default=100.0, gt=0)
    """Steepness per unit of membrane; straight-through has none and ignores it."""
    peak: float = Field(default=1.0, gt=0)
    """Value at threshold."""


class ReadoutSpec(Spec):
    """Leaky integrators without spikes, one per class, and how their membranes become logits."""

    kind: Literal["leaky"] = "leaky"
    tau_mem_s: float = Field(default=20e-3, gt=0)
    tau_syn_s: float = Field(default=10e-3, gt=0)
    reduce: Literal["max", "last", "sum", "mean", "softmax-sum"] = "max"
    """max, last, sum, mean: of the membrane over time; softmax-sum: the sum over time of the softmax over
    classes (Hammouamri et al. 2024)."""
    norm: Literal["none", "batch"] = "none"
    """batch: what an integrator receives is normalised as in hidden layers (Bittar & Garner 2022), so that
    membranes are about 1 at first; then a learning rate that suits hidden layers suits the readout."""


class SpikingReadoutSpec(Spec):
    """LIF neurons, one per class, with the model's surrogate, and how their spikes become logits."""

    kind: Literal["spike-count", "first-spike"]
    """spike-count: spikes per sample; first-spike: minus the time of the first spike in units of
    `scale_s`, and of the end where there is none."""
    tau_mem_s: float = Field(default=20e-3, gt=0)
    tau_syn_s: float = Field(default=10e-3, gt=0)
    threshold: float = Field(default=1.0, gt=0)
    scale_s: float = Field(default=10e-3, gt=0)
    """Of first-spike only."""


AnyReadoutSpec = Annotated[
    Annotated[ReadoutSpec, Tag("leaky")]
    | Annotated[SpikingReadoutSpec, Tag("spike-count")]
    | Annotated[SpikingReadoutSpec, Tag("first-spike")],
    by_kind("leaky"),
]


DelaySpec = Annotated[
    Annotated[LearnedDelaySpec, Tag("learned")] | Annotated[DelayLineSpec, Tag("fixed")],
    by_kind("learned"),
]


class ModelSpec(Spec):
    """A spiking network: stacked layers of `hidden` sizes and a readout."""

    name: str
    # it came when every model was a spiking one: what is written of those stays as it was
    kind: Literal["spiking"] = Field(default="spiking", exclude_if=lambda _: True)
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(128,), min_length=1)
    recurrent: bool | tuple[bool, ...] = False
    """Whether units of a hidden layer hear each other: of all layers, or layer by layer."""
    gradient_through_recurrence: bool = True
    """Whether the backward pass goes back in time through recurrent weights; they learn all the same."""
    neuron: NeuronSpec = LifSpec()
    surrogate: SurrogateSpec = SurrogateSpec()
    readout: AnyReadoutSpec = ReadoutSpec()
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalisation of what reaches a hidden layer from below: batch, each unit over samples and time, with
    running figures in evaluation (Bittar & Garner 2022); layer, each sample and step over units."""
    input_gain: float = Field(default=1.0, gt=0)
    """Scale of the initial feedforward weights; for the whole formula see models/layers.py."""
    recurrent_gain: float = Field(default=1.0, ge=0)
    """Scale of the initial recurrent weights, likewise."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which a hidden unit is silenced for a whole sample in training."""
    delays: DelaySpec | None = None
    """Delays of spikes on their way to hidden layers; None has none."""
    conv: ConvSpec | None = None
    """Weights shared along the channels in the first layers, which have `hidden` filters each; None has a
    weight for each pair of units."""

    @model_validator(mode="after")
    def _connections_fit(self) -> Self:
        n_layers = len(self.hidden)
        if not isinstance(self.recurrent, bool) and len(self.recurrent) != n_layers:
            raise ValueError(
                f"recurrent = {_toml(self.recurrent)} has {len(self.recurrent)} values; hidden ="
                f" {list(self.hidden)} asks for {n_layers}, or for one that holds for all"
            )
        if self.delays is not None and self.delays.where == "hidden" and n_layers == 1:
            raise ValueError(
                'delays.where = "hidden" is between hidden layers, and hidden has one of them;'
                ' add a layer, or take "input"'
            )
        if self.conv is None:
            return self
        n_conv = len(self.conv.kernels)
        if n_conv > n_layers:
            raise ValueError(
                f"conv.kernels = {list(self.conv.kernels)} has {n_conv} numbers; hidden ="
                f" {list(self.hidden)} asks for at most {n_layers}"
            )
        if len(self.conv.strides) != n_conv:
            raise ValueError(
                f"conv.strides = {list(self.conv.strides)} has {len(self.conv.strides)} numbers;"
                f" conv.kernels = {list(self.conv.kernels)} asks for {n_conv}"
            )
        if self.delays is not None and (self.delays.where != "hidden" or n_conv == n_layers):
            raise ValueError(
                "delays and conv are two ways from one layer to the next; with delays.where ="
                ' "hidden" and fewer conv.kernels than hidden layers, delays lead to those above'
            )
        if self.conv.recurrent_kernel is not None and not any(self.are_recurrent[:n_conv]):
            raise ValueError(
                f"conv.recurrent_kernel = {self.conv.recurrent_kernel} goes with recurrent = true"
            )
        return self

    @property
    def are_recurrent(self) -> tuple[bool, ...]:
        """For every hidden layer, whether its units hear each other."""
        if isinstance(self.recurrent, bool):
            return (self.recurrent,) * len(self.hidden)
        return self.recurrent

    def conv_shapes(self, n_inputs: int) -> list[ConvShape]:
        """Of the convolutional layers, which come first; none without a convolution."""
        return [] if self.conv is None else self.conv.shapes(n_inputs, self.hidden)

    def connections(self, n_inputs: int) -> list[Connections]:
        """What reaches each hidden layer, above `n_inputs` channels."""
        found: list[Connections] = []
        shapes = self.conv_shapes(n_inputs)
        for i, (size, recurrent) in enumerate(zip(self.hidden, self.are_recurrent, strict=True)):
            n_below = found[-1].n_units if found else n_inputs
            if i >= len(shapes):
                found.append(Connections(n_below, size, self._delays_into(i), recurrent, None))
                continue
            shape, around = shapes[i], None
            if recurrent and self.conv is not None and self.conv.recurrent_kernel is not None:
                kernel = self.conv.recurrent_kernel
                around = ConvShape(shape.filters, shape.positions, shape.filters, kernel, 1)
            n_units = shape.filters * shape.positions
            found.append(Connections(n_below, n_units, shape, recurrent, around))
        return found

    def _delays_into(self, layer: int) -> LearnedDelaySpec | DelayLineSpec | None:
        if self.delays is None:
            return None
        here = "hidden" if layer else "input"
        return self.delays if self.delays.where in ("all", here) else None


def _toml(values: tuple[bool, ...]) -> str:
    return f"[{', '.join(str(v).lower() for v in values)}]"
