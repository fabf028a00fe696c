"""Latency code: the brighter a pixel, the earlier its one spike.

A pixel of brightness x in [0, 1] stands for a constant current into a leaky integrator with threshold
x_theta, which reaches it after

    T(x) = tau ln(x / (x - x_theta))        x > x_theta

and never where x is not above it (Cramer, Stradmann, Schemmel & Zenke 2020; the SpyTorch tutorials of
Zenke). Times are exact here; the tutorials cut them down to whole steps of 1 ms, which binning does for
us. Near the threshold T grows without bound: the file keeps such spikes, a task cuts them off. Of 8-bit
pixels the darkest that fires at x_theta = 0.2 is 52, at 79.0 ms for tau = 20 ms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.encoding import Encoded, Encoder
from snnbench.data_prep.idx import read_image
from snnbench.data_prep.recipe import LatencySpec
from snnbench.data_prep.sources import Recording
from snnbench.errors import SnnbenchError


def latency_s(brightness: float, *, tau_s: float, threshold: float) -> float:
    """Time of the spike in s for a brightness in [0, 1]; infinite at and below the threshold."""
    if brightness <= threshold:
        return math.inf
    return tau_s * math.log(brightness / (brightness - threshold))


@dataclass(frozen=True)
class LatencyEncoder(Encoder):
    """Image -> at most one spike per pixel; the unit is the pixel's number, row by row."""

    spec: LatencySpec
    n_units: int

    per_shard: ClassVar[int] = 4000

    @property
    def constants(self) -> dict[str, Any]:
        """The version of the arithmetic; all else stands in the recipe."""
        return {"algorithm": "latency/1"}

    def __call__(self, recording: Recording) -> Encoded:
        """The spikes of one image, sorted by time, then unit."""
        pixels = read_image(recording)
        if len(pixels) != self.n_units:
            raise SnnbenchError(
                f"{recording.path}: its images have {len(pixels)} pixels, but the recipe's n_units is"
                f" {self.n_units}"
            )
        times = _table(self.spec)[pixels]
        fired = np.flatnonzero(np.isfinite(times))
        units = fired[np.argsort(times[fired], kind="stable")]
        return Encoded(times[units], units.astype(np.uint16))


@lru_cache(maxsize=1)
def _table(spec: LatencySpec) -> NDArray[np.float32]:
    """Time of the spike for each of the 256 values of a pixel, s."""
    return np.array(
        [
            latency_s(value / 255, tau_s=spec.tau_s, threshold=spec.threshold)
            for value in range(256)
        ],
        np.float32,
    )
