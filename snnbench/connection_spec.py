"""How spikes of the layer below become the drive of a layer, where plain weights are not all.

Delays let spikes arrive later, a convolution shares weights along the axis of channels. Sizes that follow
from them are computed here, without torch, for the network, its description and its costs alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from snnbench.spec_base import Spec

Where = Literal["all", "input", "hidden"]
"""Connections with delays: from the input, between hidden layers, or both. Readouts have none."""

_Positive = Annotated[float, Field(gt=0)]


class LearnedDelaySpec(Spec):
    """Every synapse has a delay that is trained with its weight (Hammouamri et al. 2024).

    While it trains, a synapse spreads each spike over time as a Gaussian around its delay; the Gaussian
    narrows, and in evaluation the delay is a whole number of bins (`snnbench.models.delays`).
    """

    kind: Literal["learned"] = "learned"
    max_s: _Positive
    """Delays lie between 0 and this."""
    where: Where = "all"
    draw: Literal["uniform"] = "uniform"
    """Delays at the start: uniform between 0 and `max_s`."""
    sigma_start: _Positive | None = None
    """Width of the Gaussian in bins at the start; None is half the number of bins it may cover."""
    sigma_end: _Positive = 0.23
    anneal_share: float = Field(default=0.25, ge=0, le=1)
    """Share of the epochs in which the width falls geometrically to `sigma_end`; then it stays."""

    def n_bins(self, dt_s: float) -> int:
        """The largest delay K in bins of `dt_s`."""
        return round(self.max_s / dt_s)

    def sigma(self, share_of_training: float, dt_s: float) -> float:
        """Width of the Gaussian in bins when this share of the epochs is over."""
        start = self.sigma_start or (self.n_bins(dt_s) + 1) / 2
        if share_of_training >= self.anneal_share:
            return self.sigma_end
        return float(start * (self.sigma_end / start) ** (share_of_training / self.anneal_share))


class DelayLineSpec(Spec):
    """Every pair of units has a weight for each tap of a delay line (Nowotny, Turner & Knight 2025)."""

    kind: Literal["fixed"]
    taps_s: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    where: Where = "all"

    def bins(self, dt_s: float) -> tuple[int, ...]:
        """Delay of every tap in bins of `dt_s`."""
        return tuple(round(tap_s / dt_s) for tap_s in self.taps_s)


class ConvShape(NamedTuple):
    """A convolution over positions, `kernel // 2` zeros on either side; units are (filter, position)."""

    filters_in: int
    positions_in: int
    filters: int
    kernel: int
    stride: int

    @property
    def padding(self) -> int:
        """Zeros on either side."""
        return self.kernel // 2

    @property
    def positions(self) -> int:
        """Of every filter, at least one."""
        return (self.positions_in + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def matrix_size(self) -> tuple[int, int]:
        """Filters, and weights that reach each unit of one."""
        return self.filters, self.filters_in * self.kernel

    @property
    def n_weights(self) -> int:
        """Numbers that are learned."""
        return self.filters * self.filters_in * self.kernel

    @property
    def n_synapses(self) -> int:
        """Pairs of a unit and a unit that it sees: the zeros at the ends are none."""
        starts = [n * self.stride - self.padding for n in range(self.positions)]
        seen = sum(min(s + self.kernel, self.positions_in) - max(s, 0) for s in starts)
        return self.filters * self.filters_in * seen


class ConvSpec(Spec):
    """Convolution over channels (recurrent convolutional network of Rossbroich, Gygax & Zenke 2022).

    A layer's `hidden` is then its number of filters, each of which has a unit at every position. With fewer
    kernels than hidden layers those above have a weight for each pair of units.
    """

    kernels: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """Positions that a unit sees, one number for each convolutional layer, from the first on."""
    strides: tuple[Annotated[int, Field(ge=1)], ...]
    """Positions from one unit to the next, likewise."""
    recurrent_kernel: int | None = Field(default=None, ge=1)
    """Units of recurrent layers see so many positions of all filters of their own layer, with shared
    weights; None lets all of them see each other, with weights of their own."""

    @model_validator(mode="after")
    def _is_centred(self) -> Self:
        if self.recurrent_kernel is not None and self.recurrent_kernel % 2 == 0:
            raise ValueError(
                f"recurrent_kernel = {self.recurrent_kernel} has no middle; take an odd number"
            )
        return self

    def shapes(self, n_channels: int, filters: Sequence[int]) -> list[ConvShape]:
        """Of the convolutional layers, from input channels and filters per layer."""
        shapes: list[ConvShape] = []
        positions = n_channels
        for (below, here), kernel, stride in zip(
            pairwise((1, *filters)), self.kernels, self.strides, strict=False
        ):
            shapes.append(ConvShape(below, positions, here, kernel, stride))
            positions = shapes[-1].positions
        return shapes


class Connections(NamedTuple):
    """What reaches the units of one hidden layer."""

    n_inputs: int
    """Units below, or input channels."""
    n_units: int
    below: LearnedDelaySpec | DelayLineSpec | ConvShape | None
    """What spikes from below go through; None, a weight for each pair of units and nothing else."""
    recurrent: bool
    """Whether the units hear each other."""
    around: ConvShape | None
    """Of recurrent weights that positions share; None where each pair of units has its own, or none."""

    @property
    def takes_spikes(self) -> bool:
        """Whether spikes from below are needed as numbers, and not only what weights make of them."""
        return self.below is not None and not isinstance(self.below, DelayLineSpec)

    @property
    def n_taps(self) -> int:
        """Weights for each unit below and here that spikes go through where they occur; 0 with others."""
        if isinstance(self.below, DelayLineSpec):
            return len(self.below.taps_s)
        return int(self.below is None)

    @property
    def n_moved(self) -> int:
        """Drives of all taps of a delay line at one step, before they are moved; 0 without one."""
        return self.n_taps * self.n_units if isinstance(self.below, DelayLineSpec) else 0
