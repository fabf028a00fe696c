"""Geometry of the page's plot, accuracy against spikes per sample; the template draws it as SVG.

Everything is computed here, so the page needs no script to show it, and equal boards give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snnbench.leaderboards.table import Row

_CHARACTER = 7.0  # px, generous width of a character of the labels
_LINE = 15.0  # px, height of a label
_MARGIN = (58.0, 16.0, 18.0, 46.0)  # px: left, right, top, bottom


@dataclass(frozen=True)
class Tick:
    """A position along an axis, in px, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """A row in the plot; all positions in px, rounded."""

    row: Row
    x: float
    y: float
    x_bar: tuple[float, float]
    """Ends of the 95 % interval of the mean number of spikes."""
    y_bar: tuple[float, float]
    """Ends of the 95 % interval of the mean accuracy."""
    label: tuple[float, float, str] | None
    """x, y and text-anchor, where there is room for the name."""


@dataclass(frozen=True)
class Chart:
    """A plot of a given size in px."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]


def accuracy_against_spikes(rows: Sequence[Row], width: float, height: float) -> Chart | None:
    """The plot of all rows with spikes on a logarithmic axis; None where there is nothing to plot."""
    shown = [(row, row.spikes) for row in rows if row.spikes and row.spikes.mean > 0]
    if not shown:
        return None
    left, right = _MARGIN[0], width - _MARGIN[1]
    top, bottom = _MARGIN[2], height - _MARGIN[3]
    spans = []
    for row, spikes in shown:
        accuracy = row.accuracy
        half_x, half_y = _finite(spikes.half_width_95), _finite(accuracy.half_width_95)
        # an interval that reaches zero has no left end on a logarithmic axis
        x = (max(spikes.mean - half_x, spikes.mean / 10), spikes.mean, spikes.mean + half_x)
        y = tuple(
            100 * min(1.0, max(0.0, v))
            for v in (accuracy.mean - half_y, accuracy.mean, accuracy.mean + half_y)
        )
        spans.append((row, x, y))
    x_low, x_high = _widened(min(s[1][0] for s in spans), max(s[1][2] for s in spans))
    # a diverged seed's interval can be the whole axis; it may be cut, the mean must be seen
    seen = [v for row, _, y in spans for v in (y[1:2] if row.n_diverged else y)]
    y_low, y_high = min(seen), max(seen)
    room = max(0.12 * (y_high - y_low), 0.5)
    y_low, y_high = max(0.0, y_low - room), min(100.0, y_high + room)

    def px(value: float) -> float:
        return left + (right - left) * math.log(value / x_low) / math.log(x_high / x_low)

    def py(value: float) -> float:
        value = min(y_high, max(y_low, value))
        return bottom - (bottom - top) * (value - y_low) / (y_high - y_low)

    places = [
        (row, tuple(round(px(v), 1) for v in x), tuple(round(py(v), 1) for v in y))
        for row, x, y in spans
    ]
    labels = _place_labels(
        [(r.entry.name, x[1], y[1]) for r, x, y in places], left, right, top, bottom
    )
    return Chart(
        width,
        height,
        left,
        right,
        top,
        bottom,
        tuple(Tick(round(px(v), 1), f"{v:,.6g}") for v in logarithmic_ticks(x_low, x_high)),
        tuple(Tick(round(py(v), 1), f"{v:.6g}") for v in linear_ticks(y_low, y_high)),
        tuple(
            Point(row, x[1], y[1], (x[0], x[2]), (y[0], y[2]), label)
            for (row, x, y), label in zip(places, labels, strict=True)
        ),
    )


def linear_ticks(low: float, high: float) -> list[float]:
    """Multiples within low..high of the largest step 1, 2 or 5 times a power of ten that gives three."""
    power = math.floor(math.log10(high - low))
    for step in (d * 10.0**p for p in (power, power - 1) for d in (5, 2, 1)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first >= 2:
            break
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """Values 1, 2, 5 times powers of ten within low..high; round steps where that gives too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5)):
        ticks = [float(f"{d * 10.0**p:.10g}") for p in powers for d in digits]
        ticks = [t for t in ticks if low <= t <= high]
        if len(ticks) >= 4:
            return ticks
    return [t for t in linear_ticks(low, high) if t > 0]


def _finite(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _widened(low: float, high: float) -> tuple[float, float]:
    """Room at both ends of a logarithmic axis, at least a factor 1.25 each way."""
    factor = max(1.25, (high / low) ** 0.12)
    return low / factor, high * factor


def _place_labels(
    points: Sequence[tuple[str, float, float]], left: float, right: float, top: float, bottom: float
) -> list[tuple[float, float, str] | None]:
    """For each (text, x, y) a free place right, left, above or below the point, or None."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for _, x, y in points]
    labels: list[tuple[float, float, str] | None] = []
    for text, x, y in points:
        wide = len(text) * _CHARACTER
        middle = min(max(x, left + wide / 2), right - wide / 2)
        candidates = (
            (x + 11, y + 4, "start", x + 11),
            (x - 11, y + 4, "end", x - 11 - wide),
            (middle, y - 13, "middle", middle - wide / 2),
            (middle, y + 22, "middle", middle - wide / 2),
        )
        labels.append(None)
        for at_x, at_y, anchor, start in candidates:
            box = (start, at_y - _LINE + 4, start + wide, at_y + 4)
            inside = box[0] >= left and box[2] <= right and box[1] >= top - 8 and box[3] <= bottom
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                labels[-1] = (round(at_x, 1), round(at_y, 1), anchor)
                break
    return labels


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
