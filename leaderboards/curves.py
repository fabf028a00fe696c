"""Small drawings of a row's details: learning curves, latency to decision, confusion matrix.

All seeds are drawn. What a record does not hold is not drawn: those that came before these figures hold none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnbench.leaderboards.chart import Axis, linear_ticks, logarithmic_ticks
from snnbench.leaderboards.table import Row
from snnbench.metrics import confusion
from snnbench.record import RunRecord, read_predictions

MOST_POINTS = 40  # a curve's: more than can be told apart in that width
LEVELS = 8
"""Shades of a confusion matrix."""


class Box(NamedTuple):
    """A frame's size and where its axes are, in px."""

    width: int = 240
    height: int = 156
    left: int = 36
    right: int = 234
    top: int = 8
    bottom: int = 122


_Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Curves:
    """Lines in one frame; positions in px."""

    title: str
    x_title: str
    x_ticks: tuple[tuple[int, str], ...]
    y_ticks: tuple[tuple[int, str], ...]
    lines: tuple[tuple[str, str], ...]
    """Kind (`seed`, `failed`, `mean` or `train`) and the `d` of a path."""
    summary: str
    """What a reader who does not see it must know."""
    box: Box


@dataclass(frozen=True)
class Confusion:
    """Test predictions of all finished seeds, counted."""

    counts: NDArray[np.int64]
    """Shape (true class, predicted class)."""

    @property
    def n_classes(self) -> int:
        """Rows and columns."""
        return len(self.counts)

    def paths(self) -> list[tuple[int, str]]:
        """Shade from 1 to LEVELS and the `d` of all its cells, as strokes one unit wide.

        A cell's shade is the root of its share of the true class, so that rare confusions are seen.
        """
        totals = np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        shades = np.ceil(LEVELS * np.sqrt(self.counts / totals)).astype(int)
        drawn: dict[int, list[str]] = {level: [] for level in range(1, LEVELS + 1)}
        for y, line in enumerate(shades):
            ends = [0, *(np.flatnonzero(np.diff(line)) + 1), len(line)]
            for start, end in pairwise(ends):
                if line[start]:
                    drawn[int(line[start])].append(f"M{start} {y}h{end - start}")
        return [(level, "".join(strokes)) for level, strokes in drawn.items() if strokes]

    def packed(self) -> str:
        """The counts for the page's script: rows by semicolons, cells by commas, nothing for 0."""
        return ";".join(",".join(str(n or "") for n in line) for line in self.counts.tolist())

    def most_mistaken(self, n: int = 5) -> list[tuple[int, int, int, int]]:
        """True class, predicted class, how often, of how many; most frequent first."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        totals = self.counts.sum(axis=1)
        order = np.argsort(-wrong, axis=None, kind="stable")[:n]
        cells = [(int(i) // self.n_classes, int(i) % self.n_classes) for i in order]
        return [
            (true, predicted, int(wrong[true, predicted]), int(totals[true]))
            for true, predicted in cells
            if wrong[true, predicted]
        ]


def confusion_of(row: Row) -> Confusion | None:
    """Over all seeds, from the entry's stored predictions; None where there are none."""
    if row.folder is None:
        return None
    n = row.records[0].spec.task.n_classes
    finished = [record.spec.seed for record in row.records if record.test]
    files = [row.folder / "predictions" / f"seed-{seed}.npz" for seed in finished]
    stored = [read_predictions(file) for file in files]
    if not stored:
        return None
    return Confusion(
        np.sum([confusion(s.predictions, s.labels, n) for s in stored], axis=0, dtype=np.int64)
    )


def curves_of(row: Row) -> list[Curves]:
    """Validation accuracy and loss epoch by epoch, and accuracy against time seen."""
    drawings = (_accuracy(row.records), _loss(row.records), _latency(row.records))
    return [drawing for drawing in drawings if drawing]


def _accuracy(records: Sequence[RunRecord]) -> Curves | None:
    told = [r for r in records if r.history]
    if not told:
        return None
    lines: list[tuple[str, _Curve]] = []
    shortest = min(len(r.history) for r in told)
    training = [
        (float(e + 1), 100 * statistics.fmean(r.history[e].train_accuracy for r in told))
        for e in range(shortest)
    ]
    lines.append(("train", training))
    for record in told:
        held_out = [
            (float(epoch), 100 * figures.validation_accuracy)
            for epoch, figures in enumerate(record.history, 1)
            if figures.validation_accuracy is not None
        ]
        lines.append(("seed" if record.test else "failed", held_out))
    last = [curve[-1][1] for kind, curve in lines if kind != "train" and curve]
    told_last = f"; at the end {min(last):.1f} to {max(last):.1f} % on validation" if last else ""
    return _frame(
        "Validation % (dashed: training)" if last else "Training accuracy %",
        "epoch",
        lines,
        f"Accuracy over {max(len(r.history) for r in told)} epochs, {len(told)} seeds{told_last}.",
    )


def _loss(records: Sequence[RunRecord]) -> Curves | None:
    told = [r for r in records if r.history]
    lines = [
        (
            "seed" if record.test else "failed",
            [(float(epoch), figures.loss) for epoch, figures in enumerate(record.history, 1)],
        )
        for record in told
    ]
    if not lines:
        return None
    ends = [curve[-1][1] for _, curve in lines]
    return _frame(
        "Training loss of each seed",
        "epoch",
        lines,
        f"Training loss of {len(lines)} seeds; at the end {min(ends):.3g} to {max(ends):.3g}.",
    )


def _latency(records: Sequence[RunRecord]) -> Curves | None:
    told = [r for r in records if r.latency]
    if not told:
        return None
    lines: list[tuple[str, _Curve]] = [
        ("seed", [(1000 * m.seen_s, 100 * m.test.accuracy) for m in record.latency])
        for record in told
    ]
    first = [x for x, _ in lines[0][1]]
    if all([x for x, _ in curve] == first for _, curve in lines):
        means = [
            statistics.fmean(ys) for ys in zip(*([y for _, y in c] for _, c in lines), strict=True)
        ]
        lines.append(("mean", list(zip(first, means, strict=True))))
    else:
        means = [y for _, y in lines[0][1]]
    early = next(x for x, y in zip(first, means, strict=True) if y >= 0.9 * max(means))
    return _frame(
        "Test % if decided early",
        "ms seen",
        lines,
        f"Test accuracy against time seen, {len(told)} seeds; nine tenths of the best after"
        f" {early:.0f} of {first[-1]:.0f} ms.",
    )


def _frame(
    title: str, x_title: str, lines: Sequence[tuple[str, _Curve]], summary: str
) -> Curves | None:
    """Lines in a frame that holds all of them; losses that span decades get a logarithmic axis."""
    drawn = [(kind, _thinned(curve)) for kind, curve in lines if curve]
    xs = [x for _, curve in drawn for x, _ in curve]
    ys = [y for _, curve in drawn for _, y in curve]
    x_axis, y_axis = _axis(min(xs), max(xs)), _axis(min(ys), max(ys), decades=True)
    box = Box()

    def px(value: float) -> int:
        return round(box.left + (box.right - box.left) * x_axis.at(value))

    def py(value: float) -> int:
        return round(box.bottom - (box.bottom - box.top) * y_axis.at(value))

    return Curves(
        title,
        x_title,
        tuple((px(value), text) for value, text in x_axis.ticks),
        tuple((py(value), text) for value, text in y_axis.ticks),
        tuple((kind, _path([(px(x), py(y)) for x, y in curve])) for kind, curve in drawn),
        summary,
        box,
    )


def _axis(low: float, high: float, *, decades: bool = False) -> Axis:
    if high == low:
        low, high = low - 0.5, high + 0.5
    logarithmic = decades and low > 0 and high / low > 30
    if not logarithmic:
        ticks = linear_ticks(low, high)
        while len(ticks) > 5:
            ticks = ticks[::2]
    else:
        ticks = logarithmic_ticks(low, high)
        ticks = ticks[:: math.ceil(len(ticks) / 5)]
    return Axis(low, high, logarithmic, tuple((tick, f"{tick:,.4g}") for tick in ticks))


def _thinned(curve: _Curve) -> _Curve:
    """Every so many points, and always the last."""
    step = math.ceil(len(curve) / MOST_POINTS)
    kept = curve[::step]
    return kept if kept[-1] == curve[-1] else [*kept, curve[-1]]


def _path(points: Iterable[tuple[int, int]]) -> str:
    """Relative steps, which are short; a single point is a dot."""
    (x, y), *rest = points
    d = f"M{x} {y}" + ("l" if rest else "h0")
    steps = []
    for a, b in rest:
        steps.append(f"{a - x} {b - y}".replace(" -", "-"))
        x, y = a, b
    return d + " ".join(steps).replace(" -", "-")
