"""Pictures: spike rasters, learning curves, confusion matrices, accuracy against spikes.

Every function returns a matplotlib Figure and touches no global state; `save` writes it. One style
for all: quiet axes, the colours of Okabe & Ito (2008), which stay apart for colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray

from snnbench.errors import UsageError
from snnbench.paths import whole_file

if TYPE_CHECKING:
    from snnbench.data_prep.basilar_membrane import MembraneParameters

INK = "#1f2430"
QUIET = "#6b7280"
FAINT = "#e5e7eb"
BLUE, ORANGE, GREEN, PINK, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
LAYER_COLOURS = (GREEN, PINK, SKY, ORANGE, BLUE)

STYLE: dict[Any, Any] = {
    # the names after DejaVu serve an SVG that is opened where DejaVu is not installed
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: searchable, readable, small
    "svg.hashsalt": "snnbench",  # ids that are the same at every run
}

_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
RASTERIZE_ABOVE = 2000
"""More marks than this are drawn as an image inside an SVG or PDF, which keeps the file small."""
_KHZ_TICKS = (10, 5, 2, 1, 0.5, 0.25, 0.125)
_ENVELOPE_POINTS = 1200
_LABEL_PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (6, 6, "left", "bottom"),
    (-6, 6, "right", "bottom"),
    (6, -6, "left", "top"),
    (-6, -6, "right", "top"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (14, 16, "left", "bottom"),
    (-14, 16, "right", "bottom"),
    (14, -16, "left", "top"),
    (-14, -16, "right", "top"),
    (18, 30, "left", "bottom"),
    (-18, 30, "right", "bottom"),
    (18, -30, "left", "top"),
    (-18, -30, "right", "top"),
)
"""Where a name may stand, best first: offset from its point in points, and alignment."""
_COUNTS_UP_TO = 20
"""Largest number of classes for which a confusion matrix shows its counts."""


class AccuracyPoint(NamedTuple):
    """One model in `accuracy_against_spikes`."""

    name: str
    spikes_per_sample: float
    accuracy: float
    """Fraction, 0 to 1."""
    half_width_95: float = 0.0
    """Half-width of the 95 % interval of the accuracy; 0 or nan draws none."""


def save(figure: Figure, path: Path) -> None:
    """Write a figure as .png, .svg or .pdf, whole or not at all; equal figures give equal bytes.

    Raises
    ------
    UsageError
        For any other suffix.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in _NO_DATE:
        raise UsageError(
            f"{path}: cannot draw {path.suffix or 'a file without a suffix'!r};"
            " take .png, .svg or .pdf"
        )
    with matplotlib.rc_context(STYLE), whole_file(path) as temporary:
        _settle(figure)
        # vector formats: finer, since readers zoom into what is an image in them
        dpi = 200 if suffix == "png" else 300
        figure.savefig(temporary, format=suffix, dpi=dpi, metadata=_NO_DATE[suffix])


def audio_raster(
    times_s: ArrayLike,
    units: ArrayLike,
    *,
    n_units: int,
    duration_s: float,
    title: str,
    waveform: ArrayLike | None = None,
    sample_rate_hz: float | None = None,
    cochlea: bool = True,
    note: str = "",
) -> Figure:
    """Spikes of the cochlea over time, high frequencies on top, below the sound they come from.

    Parameters
    ----------
    times_s, units
        Spike times in s and cochlea channels (0 is the base, the highest frequency); shape (spike,).
    n_units
        Number of channels; they are labelled with their characteristic frequency.
    duration_s
        Width of the time axis.
    title
        What was said, by whom.
    waveform, sample_rate_hz
        Sound pressure, shape (sample,), in any scale, and its rate.
    cochlea
        Whether the units are channels of a cochlea; of other units the axis shows the number.
    note
        Small print, for example "synthetic speech".
    """
    times = np.asarray(times_s, dtype=float)
    with matplotlib.rc_context(STYLE):
        subtitle = (
            f"{times.size:,} spikes in {n_units} {'cochlea channels' if cochlea else 'units'}"
        )
        figure = titled_figure(7.2, 4.3 if waveform is not None else 3.6, title, subtitle, note)
        if waveform is None:
            raster = figure.add_subplot()
        else:
            if sample_rate_hz is None:
                raise ValueError("a waveform needs its sample_rate_hz")
            sound, raster = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4.2))
            draw_waveform(sound, np.asarray(waveform, dtype=float), sample_rate_hz)
        raster.plot(
            times,
            np.asarray(units),
            linestyle="none",
            marker="o",
            markersize=1.15,
            markeredgewidth=0,
            color=BLUE,
            rasterized=times.size > RASTERIZE_ABOVE,
        )
        raster.set_xlim(0, duration_s)
        raster.set_ylim(n_units - 0.5, -0.5)
        raster.set_xlabel("Time (s)")
        if cochlea:
            raster.set_ylabel("Characteristic frequency (kHz)")
            positions, labels = frequency_ticks(n_units)
            raster.set_yticks(positions, labels)
        else:
            raster.set_ylabel("Unit")
            raster.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def learning_curves(
    history: Mapping[str, Sequence[float]], *, title: str = "Learning curves", note: str = ""
) -> Figure:
    """Loss, accuracy and firing rates over epochs, with the epoch that validation chose.

    Parameters
    ----------
    history
        Columns of history.csv: `epoch`, `loss`, `train_accuracy`, `valid_accuracy` (fractions) and
        `rate_hz.<layer>`, each of shape (epoch,). The chosen epoch is the one with the best
        validation accuracy, the earlier one at a tie.
    title, note
        Headline and small print.
    """
    columns = {name: np.asarray(values, dtype=float) for name, values in history.items()}
    rates = {n.removeprefix("rate_hz."): c for n, c in columns.items() if n.startswith("rate_hz.")}
    epoch, valid = columns["epoch"], columns["valid_accuracy"]
    if np.isfinite(valid).any():
        best = int(np.nanargmax(valid))
        subtitle = f"Epoch {epoch[best]:.0f} chosen: validation accuracy {valid[best]:.1%}"
    else:
        best, subtitle = None, "No epoch with a validation accuracy"
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(9.0, 3.2, title, subtitle, note)
        panels = figure.subplots(1, 3 if rates else 2)
        for axes in panels:
            axes.set_xlabel("Epoch")
            axes.grid(axis="y")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlim(0, max(2.0, 1.02 * epoch.max(initial=0)))
            if best is not None:
                axes.axvline(epoch[best], color=QUIET, linewidth=0.8, linestyle=(0, (3, 3)))
        _curve(panels[0], epoch, columns["loss"], BLUE, "training")
        panels[0].set_title("Loss")
        panels[0].set_ylim(bottom=0)
        _curve(panels[1], epoch, columns["train_accuracy"], BLUE, "training")
        _curve(panels[1], epoch, valid, ORANGE, "validation")
        panels[1].set_title("Accuracy")
        panels[1].set_ylim(0, 1.03)
        panels[1].yaxis.set_major_formatter(_percent)
        if best is not None:
            panels[1].plot(epoch[best], valid[best], "o", color=ORANGE, markersize=5.5)
        for colour, (layer, rate) in zip(layer_colours(len(rates)), rates.items(), strict=True):
            _curve(panels[2], epoch, rate, colour, layer)
        if rates:
            panels[2].set_title("Mean firing rate (Hz)")
            panels[2].set_ylim(bottom=0)
        for axes in panels[1:]:
            axes.legend(loc="best", handlelength=1.2)
    return figure


def confusion_matrix(
    matrix: ArrayLike, classes: Sequence[str], *, title: str = "Confusion matrix", note: str = ""
) -> Figure:
    """Predicted against true classes: colour is the share of the true class, numbers are counts.

    Parameters
    ----------
    matrix
        Counts, shape (true class, predicted class), as `snnbench.metrics.confusion` makes them.
    classes
        Class names in the matrix's order.
    title, note
        Headline and small print.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    n = len(classes)
    if counts.shape != (n, n):
        raise ValueError(f"matrix has shape {counts.shape}, expected {(n, n)} for {n} classes")
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    correct, total = int(np.trace(counts)), int(counts.sum())
    subtitle = f"{correct:,} of {total:,} correct ({correct / max(total, 1):.1%})"
    written = n <= _COUNTS_UP_TO
    side = max(2.8, (0.27 if written else 0.19) * n)
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(side + 1.8, side + 1.4, title, subtitle, note)
        axes = figure.add_subplot()
        axes.set_anchor("N")
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for true, predicted in np.argwhere(counts) if written else ():
            axes.text(
                predicted,
                true,
                str(counts[true, predicted]),
                ha="center",
                va="center_baseline",
                fontsize=7,
                color="white" if share[true, predicted] > 0.55 else INK,
            )
        turned = max(map(len, classes), default=0) > 2
        axes.set_xticks(range(n), classes, rotation=90 if turned else 0)
        axes.set_yticks(range(n), classes)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(1, n) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, n) - 0.5, minor=True)
        axes.tick_params(which="minor", length=0)
        axes.grid(which="minor", color="white", linewidth=1 if written else 0.5)
        axes.set_xlabel("Predicted class")
        axes.set_ylabel("True class")
        bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=18, format=_percent)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        bar.set_label("Share of the true class")
    return figure


def accuracy_against_spikes(
    rows: Iterable[AccuracyPoint], *, title: str = "Accuracy against spikes", note: str = ""
) -> Figure:
    """Accuracy of models, with 95 % intervals, against the spikes they spend on a sample.

    The spike axis is logarithmic where it spans more than a factor of ten. Up and left is better.
    """
    points = list(rows)
    spikes = [p.spikes_per_sample for p in points]
    subtitle = "Mean over seeds; bars are 95 % intervals of the mean"
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(6.4, 4.2, title, subtitle, note)
        axes = figure.add_subplot()
        axes.grid()
        axes.margins(x=0.2, y=0.12)
        for p in points:
            axes.errorbar(
                p.spikes_per_sample,
                p.accuracy,
                yerr=p.half_width_95 if p.half_width_95 > 0 else None,
                fmt="o",
                markersize=6,
                color=BLUE,
                ecolor=SKY,
                elinewidth=1.4,
                capsize=0,
            )
        if points and min(spikes) > 0 and max(spikes) > 10 * min(spikes):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("Spikes per sample, all hidden layers")
        axes.set_ylabel("Test accuracy")
        _label_points(figure, axes, points)
    return figure


def titled_figure(
    width_in: float, height_in: float, title: str, subtitle: str, note: str
) -> Figure:
    """A figure with title and subtitle at the upper left and the note small at the lower right."""
    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasAgg(figure)
    head, foot, margin = 0.52 / height_in, (0.2 if note else 0.0) / height_in, 0.09 / width_in
    figure.set_layout_engine("constrained", rect=(margin / 2, foot, 1 - margin, 1 - head - foot))
    top: dict[str, Any] = {"x": margin, "va": "top", "ha": "left"}
    figure.text(y=1 - 0.08 / height_in, s=title, fontsize=12, fontweight="bold", **top)
    figure.text(y=1 - 0.30 / height_in, s=subtitle, fontsize=8.5, color=QUIET, **top)
    style: dict[str, Any] = {
        "fontsize": 8,
        "fontstyle": "italic",
        "color": QUIET,
        "ha": "right",
        "va": "bottom",
    }
    figure.text(1 - margin, 0.07 / height_in, note, **style)
    return figure


def _settle(figure: Figure) -> None:
    """Lay the axes out once, at rounded places: the layout's solver differs in the last digits."""
    if figure.get_layout_engine() is None:
        return  # saved before, in another format
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    with matplotlib.rc_context(
        {"figure.constrained_layout.use": False, "figure.autolayout": False}
    ):
        # none at all, rather than one that does nothing: for that one every format is drawn twice
        figure.set_layout_engine(None)
    for axes in figure.axes:
        corners = np.round(axes.get_position(original=True).get_points(), 5)
        axes.set_position(Bbox(corners), which="original")


def draw_waveform(axes: Axes, waveform: NDArray[np.float64], sample_rate_hz: float) -> None:
    """The envelope (least and greatest value per stretch), which looks as all samples would."""
    stretch = max(1, waveform.size // _ENVELOPE_POINTS)
    starts = np.arange(0, waveform.size, stretch)
    low, high = np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
    axes.fill_between(
        (starts + stretch / 2) / sample_rate_hz, low, high, color=QUIET, linewidth=0.4
    )
    peak = float(np.abs(waveform).max(initial=0.0)) or 1.0
    axes.set_ylim(-1.05 * peak, 1.05 * peak)
    axes.set_ylabel("Sound")
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False)


def frequency_ticks(
    n_units: int, membrane: MembraneParameters | None = None
) -> tuple[NDArray[np.float64], list[str]]:
    """Positions (fractional channels) of round characteristic frequencies, and their labels in kHz."""
    from snnbench.data_prep.basilar_membrane import (
        MembraneParameters,
        characteristic_frequency_hz,
        places_cm,
    )

    membrane = membrane or MembraneParameters()
    frequency_hz = characteristic_frequency_hz(places_cm(n_units, membrane), membrane)
    inside = [f for f in _KHZ_TICKS if frequency_hz[-1] <= 1e3 * f <= frequency_hz[0]]
    # np.interp wants rising abscissas; frequency falls with the channel
    positions = np.interp(1e3 * np.array(inside), frequency_hz[::-1], np.arange(n_units)[::-1])
    return positions, [f"{f:g}" for f in inside]


def _curve(axes: Axes, x: NDArray[Any], y: NDArray[Any], colour: str, label: str) -> None:
    # a single epoch makes no line: show it as a point
    axes.plot(x, y, color=colour, label=label, marker="o" if x.size == 1 else None, markersize=4)


def _percent(fraction: float, _position: float = 0) -> str:
    return f"{100 * fraction:g}%"


def layer_colours(n: int) -> list[str]:
    """Colours of n hidden layers, the same in every picture."""
    return [LAYER_COLOURS[i % len(LAYER_COLOURS)] for i in range(n)]


def _label_points(figure: Figure, axes: Axes, points: Sequence[AccuracyPoint]) -> None:
    """Write each name beside its point, at the first of `_LABEL_PLACES` that overlaps nothing."""
    _settle(figure)  # now points have a place in pixels
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg has one
    centres = [axes.transData.transform((p.spikes_per_sample, p.accuracy)) for p in points]
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in centres]
    for p in points:
        for dx, dy, ha, va in _LABEL_PLACES:
            label = axes.annotate(
                p.name,
                (p.spikes_per_sample, p.accuracy),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=8.5,
                # a name that had to move away keeps a thin line to its point
                arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.6, "shrinkB": 4}
                if abs(dy) > 10
                else None,
            )
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
            if inside and not box.count_overlaps(taken):
                break
            if (dx, dy, ha, va) != _LABEL_PLACES[-1]:
                label.remove()
        taken.append(box)
