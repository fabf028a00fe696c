"""A row on changed test samples, corruption by corruption: what its details show of `robustness/`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from snnbench.corruption_spec import CORRUPTIONS
from snnbench.leaderboards.table import Row
from snnbench.metrics import Summary
from snnbench.robustness import Robustness, over_seeds

WIDTH, HEIGHT = 100, 28
"""Of a drawing, in its own units."""
CLEAN_Y, CHANCE_Y = 3, 25
"""Where nothing is lost, and where the network only guesses."""


@dataclass(frozen=True)
class Changed:
    """One corruption; means over the seeds tested."""

    title: str
    axis: str
    """What the levels say, with its unit."""
    levels: tuple[tuple[str, float], ...]
    """Level as a person would say it of the task, and accuracy from 0 to 1."""
    retained: str
    lines: tuple[tuple[str, str], ...]
    """Kind (`seed` or `mean`) and the `d` of a path: the share that is left, from the clean sample on.

    Levels stand at equal distances, so that their mean height is what is retained. Empty where that is not
    told.
    """


def changed_of(row: Row) -> list[Changed]:
    """All corruptions in their order; none where no seed was tested."""
    if not row.audits:
        return []
    task, audits = row.records[0].spec.task, list(row.audits.values())
    views = []
    for name, corruption in CORRUPTIONS.items():
        by_seed = [audit.accuracies(name) for audit in audits]
        means = {x: statistics.fmean(seed[x] for seed in by_seed) for x in corruption.levels}
        views.append(
            Changed(
                corruption.title,
                corruption.axis,
                tuple((f"{corruption.in_terms(x, task):.3g}", means[x]) for x in means),
                spread_text(over_seeds([audit.retained(name) for audit in audits])),
                tuple(_lines(audits, name)),
            )
        )
    return views


def robustness_text(row: Row) -> str:
    """Mean ± standard deviation, and how many seeds they are of where not all were tested."""
    tested, seeds = len(row.audits), len(row.records)
    if row.robustness is None or tested == seeds:
        return spread_text(row.robustness)
    return f"{spread_text(row.robustness)} ({tested} of {seeds} seeds)"


def spread_text(summary: Summary | None) -> str:
    """Mean ± standard deviation of a share; a dash where there is none."""
    if summary is None:
        return "–"
    if math.isnan(summary.sd):
        return f"{summary.mean:.3f}"
    return f"{summary.mean:.3f} ± {summary.sd:.3f}"


def _lines(audits: Sequence[Robustness], corruption: str) -> list[tuple[str, str]]:
    """A line for every seed, and above them that of their mean where there are several."""
    if any(audit.retained(corruption) is None for audit in audits):
        return []
    shares = [
        [(a - audit.chance) / (audit.clean.accuracy - audit.chance) for a in accuracies.values()]
        for audit in audits
        for accuracies in [audit.accuracies(corruption)]
    ]
    lines = [("seed" if len(shares) > 1 else "mean", _path(share)) for share in shares]
    if len(shares) > 1:
        lines.append(("mean", _path([statistics.fmean(of) for of in zip(*shares, strict=True)])))
    return lines


def _path(shares: Sequence[float]) -> str:
    """A line through shares at equal distances; what is beyond an edge is put there."""
    step = WIDTH / (len(shares) - 1)
    heights = [CHANCE_Y - (CHANCE_Y - CLEAN_Y) * share for share in shares]
    points = [
        f"{round(i * step)} {round(min(HEIGHT - 1, max(1, y)), 1):g}" for i, y in enumerate(heights)
    ]
    return "M" + "L".join(points)
