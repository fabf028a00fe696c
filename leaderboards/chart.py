"""Geometry of the page's plot: accuracy against what a row costs, in spikes, parameters or training time.

Ranges, ticks and the first drawing are computed here, so that the page needs no script to show it, and equal
boards give equal bytes. The page's script lays the same axes out anew when a reader asks for another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snnbench.leaderboards.table import Row

COSTS = {
    "spikes": "spikes per sample",
    "parameters": "parameters",
    "training": "training time in seconds",
}
"""What can be along the horizontal axis, and its title."""

MARGIN = (58.0, 16.0, 18.0, 46.0)  # px: left, right, top, bottom
_CHARACTER = 7.0  # px, generous width of a character of the labels
_LINE = 15.0  # px, height of a label

Span = tuple[float, float, float]
"""Low end of the 95 % interval of the mean, mean, high end."""


@dataclass(frozen=True)
class Mark:
    """What a plot shows of a row: a verified one, or one of the literature."""

    key: str
    name: str
    kind: str
    """`ranked`, `open` (without a rank) or `literature`."""
    accuracy: Span
    """In per cent."""
    costs: dict[str, Span]
    """By key of COSTS; a row lacks what it has no figure of."""
    sure: bool = True
    """Whether the plot has to make room for the interval of the accuracy, too."""
    front: tuple[str, ...] = ()
    """Costs for which no ranked row is as accurate for less: the row is on the Pareto front."""

    @property
    def label(self) -> str:
        """The name, as much of it as stands beside a point."""
        return self.name if len(self.name) <= 28 else self.name[:27] + "…"


@dataclass(frozen=True)
class Axis:
    """A range of values, and where it has ticks."""

    low: float
    high: float
    logarithmic: bool
    ticks: tuple[tuple[float, str], ...]
    """Value and text."""

    def at(self, value: float) -> float:
        """Place of a value as a fraction of the axis, 0 to 1; what lies beyond an end is put there."""
        value = min(self.high, max(self.low, value))
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def as_data(self) -> list[Any]:
        """For the page's script."""
        return [self.low, self.high, self.logarithmic, self.ticks]


@dataclass(frozen=True)
class Point:
    """A mark in the drawing; all positions in px, rounded."""

    mark: Mark
    x: float
    y: float
    x_bar: tuple[float, float]
    """Ends of the 95 % interval of the mean cost."""
    y_bar: tuple[float, float]
    """Ends of the 95 % interval of the mean accuracy, bottom first."""
    label: tuple[float, float, str] | None
    """x, y and text-anchor, where there is room for the name."""


@dataclass(frozen=True)
class Chart:
    """A drawing of a given size in px."""

    cost: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    points: tuple[Point, ...]
    front: str
    """The Pareto front as the `d` of a path; empty where fewer than two rows are on it."""


# ---------------------------------------------------------------- what is shown


def row_marks(rows: Sequence[Row]) -> list[Mark]:
    """Marks of verified rows, with their Pareto fronts."""
    marks = []
    for row in rows:
        accuracy, spikes, training = row.accuracy, row.spikes, row.training_s
        costs = {"parameters": _exact(row.n_parameters)}
        if spikes:
            costs["spikes"] = _span(spikes.mean, spikes.half_width_95)
        if training:
            costs["training"] = _exact(training)
        low, mean, high = _span(100 * accuracy.mean, 100 * accuracy.half_width_95)
        ranked = row.standing == "ranked"
        marks.append(
            Mark(
                row.key,
                row.entry.name,
                "ranked" if ranked else "open",
                (max(0.0, low), mean, min(100.0, high)),
                {key: costs[key] for key in COSTS if key in costs and costs[key][1] > 0},
                # two or three seeds, or a diverged one, can have an interval as long as the axis
                sure=row.standing != "unranked" and not row.n_diverged,
            )
        )
    fronts = {cost: pareto_front(marks, cost) for cost in COSTS}
    return [
        replace(mark, front=tuple(cost for cost in COSTS if mark.key in fronts[cost]))
        for mark in marks
    ]


def literature_marks(rows: Iterable[Any], key: str) -> list[Mark]:
    """Marks of published results; `key` is the beginning of their ids."""
    marks = []
    for position, row in enumerate(rows):
        costs = {"spikes": row.spikes, "parameters": row.parameters}
        marks.append(
            Mark(
                f"{key}-{position}",
                f"{row.name} ({row.year})",
                "literature",
                _exact(100 * row.accuracy),
                {cost: _exact(value) for cost, value in costs.items() if value},
            )
        )
    return marks


def pareto_front(marks: Iterable[Mark], cost: str) -> list[str]:
    """Keys of ranked rows than which no ranked row is as accurate for less, cheapest first."""
    front: list[str] = []
    best = -math.inf
    ranked = [mark for mark in marks if mark.kind == "ranked" and cost in mark.costs]
    for mark in sorted(ranked, key=lambda m: (m.costs[cost][1], -m.accuracy[1], m.key)):
        if mark.accuracy[1] > best:
            best = mark.accuracy[1]
            front.append(mark.key)
    return front


# ---------------------------------------------------------------- axes


def accuracy_axis(marks: Iterable[Mark]) -> Axis:
    """Room for every mean, and for the intervals of rows that are sure."""
    seen = [v for mark in marks for v in (mark.accuracy if mark.sure else mark.accuracy[1:2])]
    low, high = min(seen), max(seen)
    room = max(0.12 * (high - low), 0.5)
    low, high = _round(max(0.0, low - room)), _round(min(100.0, high + room))
    return Axis(low, high, False, _texts(linear_ticks(low, high)))


def cost_axis(marks: Iterable[Mark], cost: str, *, logarithmic: bool) -> Axis | None:
    """Room for all marks with this cost; None where there is none. A linear axis begins at 0."""
    spans = [mark.costs[cost] for mark in marks if cost in mark.costs]
    if not spans:
        return None
    top = max(high for _, _, high in spans)
    if not logarithmic:
        high = _round(1.06 * top)
        return Axis(0.0, high, False, _texts(linear_ticks(0.0, high)))
    # an interval that reaches zero has no left end on a logarithmic axis
    low, high = _widened(min(max(low, mean / 10) for low, mean, _ in spans), top)
    return Axis(low, high, True, _texts(logarithmic_ticks(low, high)))


def axes(marks: Sequence[Mark]) -> dict[str, Any]:
    """Every axis of a plot as data for the page's script: key to [low, high, logarithmic, ticks].

    Keys are `accuracy`, and for each cost that a mark has, `<cost> linear` and `<cost> logarithmic`.
    """
    found: dict[str, Any] = {"accuracy": accuracy_axis(marks).as_data()} if marks else {}
    for cost in COSTS:
        for logarithmic in (False, True):
            axis = cost_axis(marks, cost, logarithmic=logarithmic)
            if axis:
                found[f"{cost} {'logarithmic' if logarithmic else 'linear'}"] = axis.as_data()
    return found


def tick_text(value: float) -> str:
    """A short number, millions with an M."""
    return f"{value / 1e6:,.6g} M" if value >= 1e6 else f"{value:,.6g}"


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


# ---------------------------------------------------------------- the first drawing


def draw(marks: Sequence[Mark], width: float, height: float) -> Chart | None:
    """Accuracy against the first cost that any mark has, logarithmic; None where there is nothing to plot."""
    cost = next((c for c in COSTS if any(c in mark.costs for mark in marks)), None)
    if cost is None:
        return None
    shown = [mark for mark in marks if cost in mark.costs]
    x_axis, y_axis = cost_axis(shown, cost, logarithmic=True), accuracy_axis(marks)
    assert x_axis is not None
    left, right = MARGIN[0], width - MARGIN[1]
    top, bottom = MARGIN[2], height - MARGIN[3]

    def px(value: float) -> float:
        return round(left + (right - left) * x_axis.at(value), 1)

    def py(value: float) -> float:
        return round(bottom - (bottom - top) * y_axis.at(value), 1)

    places = [
        (mark, [px(v) for v in mark.costs[cost]], [py(v) for v in mark.accuracy]) for mark in shown
    ]
    labels = _place_labels(
        [(mark.label, x[1], y[1]) for mark, x, y in places], left, right, top, bottom
    )
    corners = sorted((x[1], y[1]) for mark, x, y in places if cost in mark.front)
    return Chart(
        cost,
        width,
        height,
        left,
        right,
        top,
        bottom,
        tuple((px(value), text) for value, text in x_axis.ticks),
        tuple((py(value), text) for value, text in y_axis.ticks),
        tuple(
            Point(mark, x[1], y[1], (x[0], x[2]), (y[0], y[2]), label)
            for (mark, x, y), label in zip(places, labels, strict=True)
        ),
        _staircase(corners, right),
    )


def _staircase(corners: Sequence[tuple[float, float]], right: float) -> str:
    """For more cost, the better row, and from there on no better one."""
    if len(corners) < 2:
        return ""
    (x, y), *rest = corners
    return f"M{x:g} {y:g}" + "".join(f"H{a:g}V{b:g}" for a, b in rest) + f"H{right:g}"


def _span(mean: float, half_width: float) -> Span:
    half = 0.0 if math.isnan(half_width) else half_width
    return _round(mean - half), _round(mean), _round(mean + half)


def _exact(value: float) -> Span:
    return _span(value, 0.0)


def _round(value: float) -> float:
    """Six digits: more than a screen has pixels."""
    return float(f"{value:.6g}")


def _texts(ticks: Iterable[float]) -> tuple[tuple[float, str], ...]:
    return tuple((tick, tick_text(tick)) for tick in ticks)


def _widened(low: float, high: float) -> tuple[float, float]:
    """Room at both ends of a logarithmic axis, at least a factor 1.25 each way."""
    factor = max(1.25, (high / low) ** 0.12)
    return _round(low / factor), _round(high * factor)


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
            (x + 11, y - 5, "start", x + 11),
            (x - 11, y - 5, "end", x - 11 - wide),
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
