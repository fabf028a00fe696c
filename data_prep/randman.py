"""Random manifolds: smooth random curves on which every point is a pattern of spike times.

Each class has a manifold of D dimensions in the space of its units' spike times (Zenke & Vogels 2021). A
point x in [0, 1]^D, drawn uniformly, gives unit i the value

    y_i(x) = prod_d sum_k s(k) a_idk sin(2 pi (k b_idk x_d + c_idk))        a, b, c uniform in [0, 1)

which is stretched to [0, 1] over all samples of the class, and is the time of the unit's one spike in
parts of the duration. alpha makes smooth: it is the power with which the spectrum s falls,

    article           s(k) = k^-alpha                  k = 1 .. 1000, the formula in print
    public-package    s(k) = 1 / ((k + 1)^alpha + 1)   k = 1 .. 999, what the authors' package computes

Both end earlier, at k = precision^(-1/alpha), where alpha is large. Spike counts tell nothing: every
sample has one spike per unit.

Random numbers are raw 64-bit words of PCG64, and times are cut down to whole us, so that a library's last
bit of a sine makes no other file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.encoding import Encoded, Encoder
from snnbench.data_prep.recipe import RandmanSpec, Recipe
from snnbench.data_prep.sources import NO_GROUPS, Listing, Recording
from snnbench.errors import UsageError

PRECISION = 1e-3
MAX_HARMONICS = 1000
"""Where the spectrum ends; both from the public package."""
_EPSILON = 1e-7  # keeps the latest spike before the end of the duration, as in the public package


class Manifold(NamedTuple):
    """Random numbers of one class's manifold, each of shape (unit, dimension, harmonic)."""

    amplitude: NDArray[np.float64]
    frequency: NDArray[np.float64]
    phase: NDArray[np.float64]


@dataclass(frozen=True)
class RandmanEncoder(Encoder):
    """Samples of random manifolds; nothing is read."""

    spec: RandmanSpec
    n_units: int
    duration_s: float

    per_shard: ClassVar[int] = 1000

    @property
    def constants(self) -> dict[str, Any]:
        """The version of the arithmetic, and where the spectrum ends."""
        return {"algorithm": "randman/1", "precision": PRECISION, "max_harmonics": MAX_HARMONICS}

    def __call__(self, recording: Recording) -> Encoded:
        """One spike per unit, sorted by time, then unit."""
        parts = class_samples(self.spec, self.n_units, recording.label)[recording.position]
        time_us = np.floor(parts * (self.duration_s * 1e6))
        units = np.argsort(time_us, kind="stable")
        return Encoded((time_us[units] / 1e6).astype(np.float32), units.astype(np.uint16))


def spectrum(kind: str, alpha: float) -> NDArray[np.float64]:
    """Amplitude s(k) of the harmonics k = 1, 2, ..."""
    last = min(math.ceil(round(PRECISION ** (-1 / alpha), 9)), MAX_HARMONICS)
    if kind == "article":
        return np.arange(1.0, last + 1) ** -alpha
    return 1 / (np.arange(2.0, last + 1) ** alpha + 1)


def evaluate(
    manifold: Manifold, strength: NDArray[np.float64], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values y of shape (sample, unit) at points of shape (sample, dimension); see the module."""
    values = np.ones((len(points), len(manifold.amplitude)))
    for d in range(points.shape[1]):
        wave = np.zeros_like(values)
        # one harmonic after the other: the order of a matrix product is the machine's
        for k, s in enumerate(strength, 1):
            a, b, c = (numbers[:, d, k - 1] for numbers in manifold)
            wave += s * a * np.sin(2 * np.pi * (points[:, d, None] * (k * b) + c))
        values *= wave
    return values


def draw(spec: RandmanSpec, n_units: int, label: int) -> tuple[Manifold, NDArray[np.float64]]:
    """Manifold of a class, and its random points of shape (sample, dimension)."""
    n_harmonics = len(spectrum(spec.spectrum, spec.alpha))
    shape = (3, n_units, spec.dimensions, n_harmonics)
    n_samples = spec.per_class.train + spec.per_class.valid + spec.per_class.test
    words = np.random.PCG64([spec.seed, label]).random_raw(
        math.prod(shape) + n_samples * spec.dimensions
    )
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    manifold = Manifold(*uniform[: math.prod(shape)].reshape(shape))
    return manifold, uniform[math.prod(shape) :].reshape(n_samples, spec.dimensions)


@lru_cache(maxsize=2)
def class_samples(spec: RandmanSpec, n_units: int, label: int) -> NDArray[np.float64]:
    """Spike times of a class in parts of the duration, in [0, 1), shape (sample, unit)."""
    manifold, points = draw(spec, n_units, label)
    values = evaluate(manifold, spectrum(spec.spectrum, spec.alpha), points)
    least, most = values.min(axis=0), values.max(axis=0)
    return (values - least) / (most - least + _EPSILON)


def random_manifolds(folder: Path, recipe: Recipe) -> Listing:
    """The samples that the recipe's `[randman]` asks for, class by class; `folder` is not looked at."""
    if recipe.randman is None:
        raise UsageError(f"recipe {recipe.name}: its source needs a section [randman]")
    splits = [split for split, n in recipe.randman.per_class.model_dump().items() for _ in range(n)]
    recordings = [
        Recording(None, f"{name}/{position:04d}", label, NO_GROUPS, split, position=position)
        for label, name in enumerate(recipe.classes)
        for position, split in enumerate(splits)
    ]
    return Listing(recordings, recipe.classes)
