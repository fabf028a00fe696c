"""Pictures of a network before and after training: weights, firing rates, activity, spikes of one sample.

Grey is the network as its seed made it, colour what training made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from snnbench.plots import (
    BLUE,
    FAINT,
    INK,
    QUIET,
    RASTERIZE_ABOVE,
    STYLE,
    layer_colours,
    titled_figure,
)
from snnbench.snapshot import Raster, Snapshot

BEFORE = "#c4c9d1"
BINS = 41
_PANELS_PER_ROW = 3
_PANEL_IN = (3.0, 2.0)  # width, height


def weight_histograms(
    before: Snapshot, after: Snapshot, *, title: str = "Weights", note: str = ""
) -> Figure:
    """Distribution of the numbers in every weight matrix, before and after training."""
    spread = "Weights before (grey) and after training (colour)"
    with matplotlib.rc_context(STYLE):
        figure, panels = named_panels(list(after.weights), title, spread, note)
        for name, axes in panels.items():
            old, new = before.weights[name], after.weights[name]
            draw_histograms(axes, old, new, _symmetric_edges(old, new), BLUE)
            axes.set_title(name)
            write_corner(axes, f"{new.size:,} weights\n{spreads(old, new)}")
            axes.set_xlabel("Weight")
    return figure


def rate_histograms(
    before: Snapshot, after: Snapshot, *, title: str = "Firing rates", note: str = ""
) -> Figure:
    """Distribution of the units' mean rates in every hidden layer, before and after training."""
    subtitle = "Units by their mean rate over validation samples, before (grey) and after (colour)"
    with matplotlib.rc_context(STYLE):
        figure, panels = named_panels(list(after.rates_hz), title, subtitle, note)
        for (name, axes), colour in zip(panels.items(), layer_colours(len(panels)), strict=True):
            old, new = before.rates_hz[name], after.rates_hz[name]
            top = max(old.max(initial=0.0), new.max(initial=0.0)) or 1.0
            draw_histograms(axes, old, new, np.linspace(0, top, BINS), colour)
            axes.set_title(name)
            silent = f"silent {np.mean(old == 0):.0%} → {np.mean(new == 0):.0%}"
            write_corner(axes, f"mean {np.mean(old):.3g} → {np.mean(new):.3g} Hz\n{silent}")
            axes.set_xlabel("Rate (Hz)")
            axes.set_ylabel("Units")
            axes.set_xlim(left=0)
    return figure


def hidden_rasters(
    before: Snapshot,
    after: Snapshot,
    *,
    dt_s: float,
    duration_s: float,
    classes: Sequence[str],
    label: int,
    title: str = "Spikes of the hidden layers",
    note: str = "",
) -> Figure:
    """Spikes of every layer in one validation sample, before training on the left, after on the right.

    Parameters
    ----------
    before, after
        Snapshots of the same sample.
    dt_s, duration_s
        Width of a bin, and of the time axis.
    classes, label
        Names of all classes, and the sample's class.
    title, note
        Headline and small print.
    """
    names = list(after.rasters)
    # a layer of four times the units is shown twice as high
    heights = [float(np.clip(after.rasters[n].n_units, 30, 1000)) ** 0.5 for n in names]
    subtitle = f"Validation sample {after.sample}, class “{classes[label]}”"
    with matplotlib.rc_context(STYLE):
        size_in = 0.9 + 0.13 * sum(heights)
        figure = titled_figure(9.0, max(3.6, size_in), title, subtitle, note)
        grid = figure.subplots(
            len(names), 2, sharex=True, sharey="row", height_ratios=heights, squeeze=False
        )
        colours = [INK, *layer_colours(len(names) - 1)]
        for column, snapshot in zip(grid.T, (before, after), strict=True):
            for axes, name, colour in zip(column, names, colours, strict=True):
                _draw_raster(axes, snapshot.rasters[name], dt_s, colour)
            column[-1].set_xlim(0, duration_s)
            column[-1].set_xlabel("Time (s)")
        for axes, name in zip(grid[:, 0], names, strict=True):
            axes.set_ylabel(name)
        for axes, when, snapshot in zip(grid[0], ("Before", "After"), (before, after), strict=True):
            axes.set_title(f"{when} training: taken for “{classes[snapshot.predicted]}”")
        figure.align_ylabels(grid[:, 0])
    return figure


def activity_over_time(
    before: Snapshot,
    after: Snapshot,
    *,
    dt_s: float,
    duration_s: float,
    title: str = "Activity over time",
    note: str = "",
) -> Figure:
    """Mean rate of a unit of the input and of every hidden layer in each bin, before and after training.

    Parameters as in `hidden_rasters`.
    """
    names = list(after.activity_hz)
    subtitle = "Mean over units and validation samples, before (grey) and after training (colour)"
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(6.4, 1.2 + 1.25 * len(names), title, subtitle, note)
        grid = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        colours = [INK, *layer_colours(len(names) - 1)]
        for axes, name, colour in zip(grid, names, colours, strict=True):
            old, new = before.activity_hz[name], after.activity_hz[name]
            edges = np.minimum(np.arange(len(new) + 1) * dt_s, duration_s)
            _draw_before_and_after(axes, old, new, edges, colour)
            # each axis has its own scale: an input channel's rate is no hidden unit's
            axes.set_ylim(0, 1.25 * max(old.max(), new.max()) or 1.0)
            axes.set_title(name)
            mean, was = float(np.mean(new)), float(np.mean(old))
            change = "mean" if name == "input" else f"mean {was:.3g} →"
            write_corner(axes, f"{change} {mean:.3g} Hz")
        grid[-1].set_xlim(0, duration_s)
        grid[-1].set_xlabel("Time (s)")
        figure.supylabel("Rate of a unit (Hz)", fontsize=9)
    return figure


def named_panels(
    names: Sequence[str], title: str, subtitle: str, note: str
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one panel for each name, in rows."""
    columns = min(len(names), _PANELS_PER_ROW)
    rows = -(-len(names) // columns)
    width, height = max(2, columns) * _PANEL_IN[0], rows * _PANEL_IN[1] + 0.9
    figure = titled_figure(width, height, title, subtitle, note)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for unused in grid[len(names) :]:
        unused.remove()
    return figure, dict(zip(names, grid, strict=False))


def draw_histograms(
    axes: Axes, old: NDArray[Any], new: NDArray[Any], edges: NDArray[Any], colour: str
) -> None:
    """Of values before training as a grey area, after it as a line."""
    was, now = (np.histogram(values, edges)[0] for values in (old, new))
    _draw_before_and_after(axes, was, now, edges, colour)
    axes.margins(x=0.02)
    axes.set_ylim(0, 1.35 * axes.dataLim.y1)  # room for the figures in the corner
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _draw_before_and_after(
    axes: Axes, old: NDArray[Any], new: NDArray[Any], edges: NDArray[Any], colour: str
) -> None:
    axes.stairs(old, edges, fill=True, color=BEFORE)
    axes.stairs(new, edges, color=colour, linewidth=1.5)
    axes.grid(axis="y", color=FAINT)


def _symmetric_edges(old: NDArray[Any], new: NDArray[Any]) -> NDArray[np.float64]:
    largest = max(np.abs(old).max(initial=0.0), np.abs(new).max(initial=0.0)) or 1.0
    return np.linspace(-largest, largest, BINS)


def spreads(old: NDArray[Any], new: NDArray[Any]) -> str:
    """Standard deviations before and after training, in words; that of one number many times is 0."""
    before, after = (0.0 if np.ptp(v) == 0 else float(np.std(v)) for v in (old, new))
    return f"sd {before:.2g} → {after:.2g}"


def write_corner(axes: Axes, text: str) -> None:
    """Figures in small print at a panel's upper right."""
    axes.text(
        0.98, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=7.5, color=QUIET
    )


def _draw_raster(axes: Axes, raster: Raster, dt_s: float, colour: str) -> None:
    axes.plot(
        (raster.bins + 0.5) * dt_s,
        raster.units,
        linestyle="none",
        marker="o",
        markersize=1.3,
        markeredgewidth=0,
        color=colour,
        rasterized=raster.bins.size > RASTERIZE_ABOVE,
    )
    axes.set_ylim(raster.n_units - 0.5, -0.5)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    count = f"{raster.n_spikes:,} spikes"
    axes.text(
        1, 1.01, count, transform=axes.transAxes, ha="right", va="bottom", fontsize=7.5, color=QUIET
    )
