"""Pictures of what units and connections have for themselves: time constants, thresholds, delays.

Grey is the network as its seed made it, colour what training made of it; as in `snnbench.network_plots`.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from snnbench.network_plots import BINS, draw_histograms, named_panels, spreads, write_corner
from snnbench.plots import QUIET, STYLE, layer_colours
from snnbench.snapshot import Snapshot, UnitValues

_LOGARITHMIC_FROM = 8.0  # with a smaller ratio of the bounds a logarithmic axis has hardly a tick
_BINS = 25
_BOUNDS_END = 0.74  # of the panel's height: above it stand figures
_MARGIN = 0.04  # of the axis, on either side of the bounds


def constant_histograms(
    before: Snapshot, after: Snapshot, *, title: str = "Constants of the units", note: str = ""
) -> Figure:
    """Distribution over units of every constant that each has for itself, with its bounds.

    Times are in ms. A constant that is drawn and not learned looks the same before and after.
    """
    subtitle = "Units by their constants, before (grey) and after training (colour); dashed: bounds"
    layers = dict(zip(after.rates_hz, layer_colours(len(after.rates_hz)), strict=True))
    shown = {
        f"{layer}, {name.removesuffix('_s')}": (layer, name)
        for layer, constants in after.constants.items()
        for name in constants
    }
    with matplotlib.rc_context(STYLE):
        figure, panels = named_panels(list(shown), title, subtitle, note)
        for heading, axes in panels.items():
            layer, name = shown[heading]
            old, new = before.constants[layer][name], after.constants[layer][name]
            _draw_constant(axes, name, old, new, layers[layer])
            axes.set_title(heading)
    return figure


def delay_histograms(
    before: Snapshot, after: Snapshot, *, title: str = "Delays", note: str = ""
) -> Figure:
    """Distribution of the delays of every connection between layers, in ms."""
    subtitle = "Delays before (grey) and after training (colour)"
    with matplotlib.rc_context(STYLE):
        figure, panels = named_panels(list(after.delays_s), title, subtitle, note)
        for (name, axes), colour in zip(panels.items(), layer_colours(len(panels)), strict=True):
            old_ms, new_ms = (1e3 * snapshot.delays_s[name] for snapshot in (before, after))
            top = float(max(old_ms.max(), new_ms.max())) or 1.0
            draw_histograms(axes, old_ms, new_ms, np.linspace(0, top, BINS), colour)
            axes.set_title(name)
            write_corner(axes, f"{new_ms.size:,} delays\n{_change(old_ms, new_ms, ' ms')}")
            axes.set_xlabel("Delay (ms)")
    return figure


def _draw_constant(axes: Axes, name: str, old: UnitValues, new: UnitValues, colour: str) -> None:
    is_time = name.endswith("_s")
    factor, unit = (1e3, " ms") if is_time else (1.0, "")
    low, high = factor * new.low, factor * new.high
    # float32 may round a value at a bound to the other side of it
    was, now = (np.clip(factor * c.values.astype(float), low, high) for c in (old, new))
    logarithmic = new.logarithmic and high / low >= _LOGARITHMIC_FROM
    edges = np.geomspace(low, high, _BINS) if logarithmic else np.linspace(low, high, _BINS)
    edges[[0, -1]] = low, high  # exactly
    draw_histograms(axes, was, now, edges, colour)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlim(low * (low / high) ** _MARGIN, high * (high / low) ** _MARGIN)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlim(low - _MARGIN * (high - low), high + _MARGIN * (high - low))
    for bound in (low, high):
        axes.axvline(bound, ymax=_BOUNDS_END, color=QUIET, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xlabel(f"{name.removesuffix('_s')} (ms)" if is_time else name)
    axes.set_ylabel("Units")
    if new.learned:
        write_corner(axes, _change(was, now, unit))
    else:
        write_corner(axes, f"drawn, not learned\nmean {np.mean(now):.3g}{unit}")


def _change(old: NDArray[np.floating], new: NDArray[np.floating], unit: str) -> str:
    """Mean and spread before and after, in two lines."""
    means = f"mean {np.mean(old):.3g} → {np.mean(new):.3g}{unit}"
    return f"{means}\n{spreads(old, new)}".replace("-", "−")
