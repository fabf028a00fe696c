"""Figures that studies of online learning share: learning curves, rasters, membranes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from snnbench.plots import BLUE, GREEN, INK, ORANGE, PINK, QUIET, SKY

COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, INK, QUIET)
METRIC_LABEL = "van Rossum distance"


def curves(
    axes: Axes,
    named: Mapping[str, tuple[Sequence[float], Sequence[Sequence[float]]]],
    *,
    each: bool = False,
) -> None:
    """Median over seeds with the range of the middle half, for each name: (times_s, values [seed][point])."""
    for (name, (times, values)), colour in zip(named.items(), _endless(), strict=False):
        x = np.asarray(values, float)
        if each:
            axes.plot(times, x.T, color=colour, lw=0.5, alpha=0.35)
        elif len(x) > 2:
            low, high = np.quantile(x, [0.25, 0.75], axis=0)
            axes.fill_between(times, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(times, np.median(x, axis=0), color=colour, label=name)
    axes.set_xlabel("training (s of biological time)")
    axes.set_ylabel(METRIC_LABEL)
    axes.set_ylim(bottom=0)
    if len(named) > 1:
        axes.legend(loc="upper right")


def raster(
    axes: Axes, events: Sequence[Sequence[int]], dt_s: float, colour: str, *, size: float = 1.0
) -> None:
    """A dot for each (step, unit)."""
    if events:
        at = np.asarray(events)
        axes.scatter(
            at[:, 0] * dt_s,
            at[:, 1],
            s=size,
            color=colour,
            marker=".",
            linewidths=0,
            rasterized=True,
        )


def membrane(
    axes: Axes,
    trace: Mapping[str, Any],
    targets: Sequence[Sequence[int]],
    dt_s: float,
    every_s: float,
) -> None:
    """An output's membrane over a loop, its spikes, and where they should be."""
    u = np.asarray(trace["membrane_mv"])
    axes.plot(np.arange(len(u)) * every_s * 1e3, u, color=BLUE, lw=0.8)
    axes.axhline(-50, color=QUIET, lw=0.6, ls=":")
    for t, unit in targets:
        if unit == 0:
            axes.axvline(t * dt_s * 1e3, color=ORANGE, lw=6, alpha=0.25)
    for t in trace["spikes"]:
        axes.plot([t * dt_s * 1e3] * 2, [-50, -42], color=INK, lw=1.0)
    axes.set_ylabel("membrane (mV)")
    axes.set_ylim(min(-75.0, float(u.min()) - 1), -40)


def spread(count: int, half_width: float) -> NDArray[np.float64]:
    """Where to put dots side by side around a place: one of them in its middle."""
    return np.linspace(-half_width, half_width, count) if count > 1 else np.zeros(count)


def plain_log(axes: Axes, *, horizontal: bool = False) -> None:
    """A logarithmic axis with plain numbers: the vertical one at 1, 2 and 5, or the horizontal at decades."""
    if horizontal:
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if horizontal else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1,) if horizontal else (1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())


def _endless() -> Any:
    while True:
        yield from COLOURS
