"""Two sets of runs of the cochlea on one recording: do they differ by more than chance?

Spikes are drawn at random, so two runs never agree. How alike sets of runs can be is measured within one
set (its even against its odd runs: the noise ceiling) and compared with how alike the two sets are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.cochlea import Spikes

_BIN_S = 5e-3


class Comparison(NamedTuple):
    """How alike the runs `exact` and `fast` of one recording are.

    Attributes
    ----------
    total_exact, total_fast, total_z
        Mean number of spikes, and the difference in its standard errors.
    counts, counts_across, counts_ceiling
        Correlation of the mean spike counts per channel: of all runs; of half of the runs of one set
        with half of the other's; of the halves of `exact`.
    psth, psth_ceiling
        Correlation of spikes over time, in bins of 5 ms: of all runs, and of the halves of `exact`.
    z_mean, z_sd
        Of the differences per channel in their standard errors: 0 and about 1 where only chance is
        at work.
    """

    total_exact: float
    total_fast: float
    total_z: float
    counts: float
    counts_across: float
    counts_ceiling: float
    psth: float
    psth_ceiling: float
    z_mean: float
    z_sd: float


def compare(
    exact: Sequence[Spikes], fast: Sequence[Spikes], n_channels: int, duration_s: float
) -> Comparison:
    """Compare two sets of at least four runs each of a recording of `duration_s` seconds."""
    counts = [
        np.array([np.bincount(s.units, minlength=n_channels) for s in e]) for e in (exact, fast)
    ]
    n_bins = int(duration_s / _BIN_S) + 1
    psth = [
        np.array([np.bincount((s.times / _BIN_S).astype(int), minlength=n_bins) for s in e])
        for e in (exact, fast)
    ]
    totals = [c.sum(axis=1) for c in counts]
    z = _z(*counts)
    return Comparison(
        total_exact=float(totals[0].mean()),
        total_fast=float(totals[1].mean()),
        total_z=float(_z(*(t[:, None] for t in totals))[0]),
        counts=_alike(*counts),
        counts_across=float(
            np.mean([_alike(counts[0][a::2], counts[1][b::2]) for a in (0, 1) for b in (0, 1)])
        ),
        counts_ceiling=_alike(counts[0][::2], counts[0][1::2]),
        psth=_alike(*psth),
        psth_ceiling=_alike(psth[0][::2], psth[0][1::2]),
        z_mean=float(z.mean()),
        z_sd=float(z.std()),
    )


def _alike(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Correlation of the means over runs; runs are the first axis."""
    return float(np.corrcoef(a.mean(axis=0), b.mean(axis=0))[0, 1])


def _z(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """Differences of the means over runs in standard errors, where anything varies."""
    variance = a.var(axis=0, ddof=1) / len(a) + b.var(axis=0, ddof=1) / len(b)
    varies = variance > 0
    difference = b.mean(axis=0) - a.mean(axis=0)
    return np.asarray(difference[varies] / np.sqrt(variance[varies]))
