"""Snapshots of networks that nobody trained, for tests of pictures."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import StepPatch
from numpy.typing import NDArray

from snnbench.snapshot import Raster, Snapshot, UnitValues

N_CHANNELS, N_UNITS, N_CLASSES, N_STEPS = 15, 40, 3, 20


def make_snapshot(seed: int, scale: float, layers: int = 2, predicted: int = 0) -> Snapshot:
    """Of a recurrent network with time constants, thresholds and delays of its own for every unit."""
    rng = np.random.default_rng(seed)
    names = [f"hidden{i}" for i in range(1, layers + 1)]
    sizes = {"input": N_CHANNELS, **dict.fromkeys(names, N_UNITS), "readout": N_CLASSES}
    chain = ["input", *names, "readout"]
    shapes = {f"{a} to {b}": (sizes[b], sizes[a]) for a, b in itertools.pairwise(chain)}
    shapes |= {f"within {name}": (N_UNITS, N_UNITS) for name in names}

    def constant(low: float, high: float, learned: bool) -> UnitValues:
        values = rng.uniform(low, high, N_UNITS).astype("f4")
        return UnitValues(values, low, high, learned, logarithmic=True)

    weights = {n: (rng.normal(size=shape) * scale).astype("f4") for n, shape in shapes.items()}
    return Snapshot(
        weights=weights,
        matrices=weights,
        rates_hz={name: rng.exponential(5 * scale, N_UNITS) for name in names},
        activity_hz={name: rng.exponential(5 * scale, N_STEPS) for name in ("input", *names)},
        constants={
            name: {
                "tau_mem_s": constant(0.005, 0.1, learned=True),
                "threshold": constant(0.5, 1.5, learned=False),
            }
            for name in names
        },
        delays_s={"input to hidden1": rng.uniform(0, 0.1, (N_UNITS, N_CHANNELS)).astype("f4")},
        sample=7,
        rasters={
            name: Raster(rng.integers(0, N_STEPS, 90), rng.integers(0, sizes[name], 90), 40, 95)
            for name in ("input", *names)
        },
        predicted=predicted,
    )


def silent_snapshot() -> Snapshot:
    """Of a feedforward network whose every number is zero, and which has no constants of its units."""
    nothing = np.zeros(0, int)
    weights = {
        "input to hidden1": np.zeros((4, 5), "f4"),
        "hidden1 to readout": np.zeros((3, 4), "f4"),
    }
    return Snapshot(
        weights=weights,
        matrices=weights,
        rates_hz={"hidden1": np.zeros(4)},
        activity_hz={"input": np.zeros(6), "hidden1": np.zeros(6)},
        constants={},
        delays_s={"input to hidden1": np.zeros((4, 5), "f4")},
        sample=0,
        rasters={n: Raster(nothing, nothing, 4, 0) for n in ("input", "hidden1")},
        predicted=0,
    )


def steps(axes: Axes) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Heights and edges of the stairs in a panel: before, after."""
    drawn = [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]
    return [(heights, edges) for heights, edges, _ in drawn]


def texts(axes: Axes) -> list[str]:
    """The small print within a panel."""
    return [text.get_text() for text in axes.texts]
