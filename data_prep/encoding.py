"""What makes spikes of a sample: the one thing that is its own for every kind of data.

An encoder is small and frozen, since it travels to worker processes. Its `constants` are everything that
decides the spikes and does not stand in the recipe itself: resolved defaults, and the version of the
arithmetic.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.sources import Recording


class Encoded(NamedTuple):
    """Spikes of one recording, sorted by time."""

    times: NDArray[np.float32]
    """s, shape (spike,)."""
    units: NDArray[np.uint16]
    audio_s: float = 0.0
    """Seconds of sound, 0 where there is none."""


class Encoder(Protocol):
    """Makes the spikes of one recording."""

    per_shard: ClassVar[int]
    """Recordings a worker does between two writes to disk: some seconds of work."""

    @property
    def constants(self) -> dict[str, Any]:
        """What decides the spikes beside the recipe, as JSON values."""
        ...

    def prepare(self) -> None:
        """What is done once, before the workers start; by default nothing."""
        return None

    def __call__(self, recording: Recording) -> Encoded:
        """The spikes of `recording`; SnnbenchError naming its file where they cannot be made."""
        ...
