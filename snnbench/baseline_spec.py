"""What a network without spiking neurons is: the literature's baselines, as frozen specifications.

All see the input's spike counts, binned as a spiking network sees them (`train.dt_s`, `train.bin_mode`,
`train.units_per_channel`). LSTM and CNN are those that Cramer, Stradmann, Schemmel & Zenke (2020, IEEE TNNLS
33(7)) set beside their spiking networks: an LSTM of 128 units, a CNN over time and units. Everything else
about them is ours. What they compute stands in `snnbench.models.baselines`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, Tag, model_validator

from snnbench.model_spec import ModelSpec
from snnbench.spec_base import Spec, by_kind

Size = Annotated[int, Field(ge=1)]


def _some(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if not sizes or min(sizes) < 1:
        raise ValueError(f"needs one number or more, each at least 1, got {sizes}")
    return sizes


Sizes = Annotated[tuple[int, ...], AfterValidator(_some)]


class LstmSpec(Spec):
    """Layers of long short-term memory units (Hochreiter & Schmidhuber 1997) and a linear readout."""

    name: str
    kind: Literal["lstm"]
    hidden: Sizes = (128,)
    """Units of every layer, in each direction."""
    bidirectional: bool = False
    """Whether every layer also runs backwards in time; the next one sees both."""
    reduce: Literal["max", "last", "mean"] = "max"
    """What becomes of the readout's values in all steps: their maximum over time, the last, the mean."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which a hidden unit is silenced upwards for a whole sample in training."""


class CnnSpec(Spec):
    """Convolutions over time, or over time and channels; then a mean over time and a linear readout."""

    name: str
    kind: Literal["cnn"]
    channels: Sizes = (32, 64, 64)
    """Feature maps of every layer."""
    kernel: Sizes = (5, 5)
    """Size in time bins, and with two numbers in input channels: one number is a convolution over time that
    sees all channels at once. Odd, so that every layer stays centred on what it sees."""
    stride: Sizes = (2, 2)
    """Every so many places of it there is an output; as many numbers as `kernel`."""
    norm: Literal["none", "batch"] = "batch"
    """batch: every feature map over samples and places, before its threshold (Ioffe & Szegedy 2015)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which a value of a hidden layer is silenced in training."""

    @model_validator(mode="after")
    def _kernel_fits(self) -> Self:
        if any(size % 2 == 0 for size in self.kernel):
            raise ValueError(f"kernel = {self.kernel} needs odd sizes")
        if not len(self.stride) == len(self.kernel) <= 2:
            raise ValueError(
                f"kernel = {self.kernel} and stride = {self.stride} need one number each, for time, or"
                " two each, for time and channels"
            )
        return self


class CountsSpec(Spec):
    """A linear readout of how often inputs spike: what can be told without, or with little of, time."""

    name: str
    kind: Literal["counts"]
    time_bins: Size = 1
    """Parts of a sample whose spikes are counted on their own; with one, as in the literature, time is
    lost."""
    channel_bins: Size | None = None
    """Groups of neighbouring channels that are counted together; None counts every channel."""
    log: bool = True
    """Whether the readout sees log(1 + count) in place of the count."""


BaselineSpec = LstmSpec | CnnSpec | CountsSpec

AnyModelSpec = Annotated[
    Annotated[ModelSpec, Tag("spiking")]
    | Annotated[LstmSpec, Tag("lstm")]
    | Annotated[CnnSpec, Tag("cnn")]
    | Annotated[CountsSpec, Tag("counts")],
    by_kind("spiking"),
]
"""A model of any kind; one that names none is spiking."""
