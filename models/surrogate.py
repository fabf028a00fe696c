"""Surrogate derivatives: spikes stay spikes in the forward pass, the backward pass sees a smooth slope.

With x the distance of a membrane from its threshold, S = 1 where x > 0, and dS/dx is taken as one of the
functions below, times `peak`. Each function has the value 1 at threshold whatever the slope, and is not
multiplied by `slope`, which would make it the derivative of a curve that rises from 0 to 1: the learning
rate absorbs the scale (Zenke & Ganguli 2018, eq. 2.6), and a peak above 1 lets gradients grow through
recurrence and reset (Zenke & Vogels 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snnbench.model_spec import SurrogateSpec
from snnbench.models.expressions import exp, where_positive

if TYPE_CHECKING:
    from torch import Tensor


def superspike(x: Any, slope: Any) -> Any:
    """1 / (1 + slope |x|)^2: a fast sigmoid's derivative (Zenke & Ganguli 2018, eq. 2.6)."""
    return 1 / (1 + slope * abs(x)) ** 2


def sigmoid(x: Any, slope: Any) -> Any:
    """4 s (1 - s) with s the logistic function of slope x (Zenke & Vogels 2021)."""
    decayed = exp(-slope * abs(x))
    return 4 * decayed / (1 + decayed) ** 2


def triangle(x: Any, slope: Any) -> Any:
    """max(0, 1 - slope |x|) (Esser et al. 2016; Bellec et al. 2018)."""
    height = 1 - slope * abs(x)
    return where_positive(height, height, 0 * x)


def boxcar(x: Any, slope: Any) -> Any:
    """1 where |x| < 1 / (2 slope), else 0 (Kaiser, Mostafa & Neftci 2020)."""
    return where_positive(1 - 2 * slope * abs(x), 1 + 0 * x, 0 * x)


def gaussian(x: Any, slope: Any) -> Any:
    """exp(-(slope x)^2 / 2) (Yin, Corradi & Bohté 2021, without the side lobes)."""
    return exp(-((slope * x) ** 2) / 2)


def multi_gaussian(x: Any, slope: Any) -> Any:
    """(1 + h) exp(-z^2 / 2) - (h / s) (exp(-(z - 1)^2 / (2 s^2)) + exp(-(z + 1)^2 / (2 s^2))), over its
    value at 0, with z = slope x, h = 0.15 and s = 6: negative far away (Yin, Corradi & Bohté 2021, eq. 8).
    """
    z = slope * x
    lobes = exp(-((z - 1) ** 2) / (2 * _S**2)) + exp(-((z + 1) ** 2) / (2 * _S**2))
    return ((1 + _H) * exp(-(z**2) / 2) - _H / _S * lobes) / _MULTI_GAUSSIAN_AT_0


def arctangent(x: Any, slope: Any) -> Any:
    """1 / (1 + (pi slope x / 2)^2), of an arctangent (Fang et al. 2021)."""
    return 1 / (1 + (math.pi / 2 * slope * x) ** 2)


def slayer(x: Any, slope: Any) -> Any:
    """exp(-slope |x|) (Shrestha & Orchard 2018)."""
    return exp(-slope * abs(x))


def straight_through(x: Any, slope: Any) -> Any:
    """1 everywhere: the spike counts as its distance from threshold (Bengio, Léonard & Courville 2013)."""
    return 1 + 0 * x


_H, _S = 0.15, 6.0
_MULTI_GAUSSIAN_AT_0 = 1 + _H - 2 * _H / _S * math.exp(-1 / (2 * _S**2))

DERIVATIVES: dict[str, Callable[[Any, Any], Any]] = {
    "superspike": superspike,
    "sigmoid": sigmoid,
    "triangle": triangle,
    "boxcar": boxcar,
    "gaussian": gaussian,
    "multi-gaussian": multi_gaussian,
    "arctangent": arctangent,
    "slayer": slayer,
    "straight-through": straight_through,
}


@dataclass(frozen=True)
class Surrogate:
    """A spike with a derivative of one's choice: `spikes = surrogate(distance)`."""

    kind: str
    """Name in errors and records."""
    derivative: Callable[[Any, Any], Any]
    """derivative(x, slope), of tensors or symbols."""
    slope: float
    """Steepness per unit of membrane, > 0."""

    def __call__(self, distance: Tensor) -> Tensor:
        """1 where `distance` is above 0, else 0, any shape."""
        from snnbench.models.spike import spikes_with_derivative

        return spikes_with_derivative(distance, self)


def make_surrogate(spec: SurrogateSpec) -> Surrogate:
    """The surrogate that a spec names."""
    return Surrogate(spec.kind, derivative(spec.kind, spec.peak), spec.slope)


def derivative(kind: str, peak: float) -> Callable[[Any, Any], Any]:
    """A shape times its value at threshold."""
    return DERIVATIVES[kind] if peak == 1 else Scaled(kind, peak)


@dataclass(frozen=True)
class Scaled:
    """A shape with another value at threshold.

    Those of equal arguments are equal, so that kernels for them are made once; and a copy in another process
    is, which a function within a function would not be.
    """

    kind: str
    peak: float

    def __call__(self, x: Any, slope: Any) -> Any:
        return self.peak * DERIVATIVES[self.kind](x, slope)
