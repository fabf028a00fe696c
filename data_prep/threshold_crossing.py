"""Threshold crossings: an image read as a sequence of grey values, one pixel a step.

As tonic's S-MNIST codes it, after the sequential MNIST of Bellec et al. (2018). Of n units, (n - 1) / 2
share thresholds evenly from 0 to 254, cut down to whole grey values. Between pixel p and the next one

    unit n - k              fires at step p where the grey value rises to threshold k or above
    unit n - (n-1)/2 - k    fires at step p where it falls below threshold k
    unit 0                  fires at step p where pixel p itself is 255 ("touch")

k counts from 0, and threshold 0 is never crossed: with 99 units, unit 50 never fires, and 1 stands for
nothing. With `duplicate` the steps are twice as many and every spike comes at step 2p and again at 2p + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.encoding import Encoded, Encoder
from snnbench.data_prep.idx import read_image
from snnbench.data_prep.recipe import ThresholdCrossingSpec
from snnbench.data_prep.sources import Recording

_WHITE = 255


@dataclass(frozen=True)
class ThresholdCrossingEncoder(Encoder):
    """Image -> spikes of on, off and touch units, pixel after pixel."""

    spec: ThresholdCrossingSpec
    n_units: int

    per_shard: ClassVar[int] = 2000

    @property
    def constants(self) -> dict[str, Any]:
        """The version of the arithmetic; all else stands in the recipe."""
        return {"algorithm": "threshold-crossing/1"}

    def __call__(self, recording: Recording) -> Encoded:
        """The spikes of one image, sorted by time, then unit."""
        steps, units = crossings(read_image(recording), self.n_units)
        # one number per spike: sorted, it is in order of time, then unit
        order = steps * self.n_units + units
        if self.spec.duplicate:
            doubled = order + steps * self.n_units
            order = np.concatenate([doubled, doubled + self.n_units])
        steps, units = np.divmod(np.sort(order), self.n_units)
        return Encoded((steps * self.spec.dt_s).astype(np.float32), units.astype(np.uint16))


def crossings(
    pixels: NDArray[np.uint8], n_units: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Steps and units of the spikes of a sequence of grey values, shape (pixel,), in no order."""
    half = n_units // 2
    level = _levels(half)[pixels]
    rise = np.diff(level)
    size = np.abs(rise)
    step = np.repeat(np.arange(len(rise)), size)
    # the thresholds that a step crosses are consecutive: from the lower level on
    within = np.arange(len(step)) - np.repeat(np.cumsum(size) - size, size)
    threshold = np.repeat(np.minimum(level[:-1], level[1:]), size) + within
    unit = n_units - threshold - np.where(rise[step] < 0, half, 0)
    touch = np.flatnonzero(pixels == _WHITE)
    return np.concatenate([step, touch]), np.concatenate([unit, np.zeros_like(touch)])


@lru_cache(maxsize=1)
def _levels(n_thresholds: int) -> NDArray[np.int64]:
    """How many thresholds each of the 256 grey values has reached."""
    highest = _WHITE - 1
    thresholds = highest * np.arange(n_thresholds) // max(n_thresholds - 1, 1)
    return np.searchsorted(thresholds, np.arange(_WHITE + 1), side="right")
