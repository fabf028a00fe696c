"""Surrogate derivatives: spikes stay spikes in the forward pass, the backward pass sees a smooth slope.

With x the distance of a membrane from its threshold, S = 1 where x > 0, and dS/dx is taken as one of the
functions below. Each has the value 1 at threshold whatever the slope, and is not multiplied by `slope`,
which would make it the derivative of a curve that rises from 0 to 1: the learning rate absorbs the scale
(Zenke & Ganguli 2018, eq. 2.6), and a peak above 1 lets gradients grow through recurrence and reset
(Zenke & Vogels 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snnbench.models.expressions import exp, where_positive
from snnbench.spec import SurrogateSpec

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


DERIVATIVES: dict[str, Callable[[Any, Any], Any]] = {
    "superspike": superspike,
    "sigmoid": sigmoid,
    "triangle": triangle,
    "boxcar": boxcar,
    "gaussian": gaussian,
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
    return Surrogate(spec.kind, DERIVATIVES[spec.kind], spec.slope)
