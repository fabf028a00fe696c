"""Ranks: pure functions of accuracies over seeds.

The rule, in full. Rows of one task version, protocol and data set are compared by their mean accuracy
over all seeds; a diverged seed counts as accuracy 0.

- `ranked`: at least the task's minimum of seeds. `provisional`: at least five, or any number from a
  checkout with uncommitted changes. `unranked`: fewer. Only ranked rows get a number; the others
  follow in this order.
- Ranked rows go down by mean. The first leads a group. Each next row joins the group if Welch's t-test
  against its leader gives p >= 0.05 (two-sided), else it leads the next group. All rows of a group share
  its rank, which is 1 + the number of rows above the group (1, 1, 3). So ranks never contradict means,
  and a row is compared with the best of its group, not with its neighbour.
- Within a group, rows that somebody else has trained again (`reproduced`) stand above the others. Only
  there the order may differ from that of the means.
- Equal means go by smaller standard deviation, then by name, so the order of the input plays no part.
- Where neither row varies between seeds, the test is undefined: rows are separate if their means differ.
  One seed alone separates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from snnbench.metrics import summarise

PROVISIONAL_SEEDS = 5
SIGNIFICANCE = 0.05

Standing = Literal["ranked", "provisional", "unranked"]
STANDINGS: tuple[Standing, ...] = ("ranked", "provisional", "unranked")


class Contender(NamedTuple):
    """A row to be placed; `name` is unique among those it is compared with."""

    name: str
    accuracies: tuple[float, ...]
    """One per seed, 0 to 1."""
    provisional: bool = False
    """Held back from the ranking whatever the number of seeds."""
    reproduced: bool = False
    """Whether somebody has trained it again, and it came out."""


class Place(NamedTuple):
    """Where a row stands."""

    name: str
    standing: Standing
    rank: int | None
    """From 1, shared by rows that the test does not separate; None where not ranked."""


def place(contenders: Sequence[Contender], min_seeds: int) -> list[Place]:
    """Places of all rows, best first."""
    ordered = sorted(
        contenders, key=lambda c: (STANDINGS.index(standing(c, min_seeds)), _by_mean(c))
    )
    places: list[Place] = []
    leader: tuple[float, ...] = ()
    rank = 0
    for index, row in enumerate(ordered):
        status = standing(row, min_seeds)
        if status != "ranked":
            places.append(Place(row.name, status, None))
            continue
        if not leader or separated(leader, row.accuracies):
            leader, rank = row.accuracies, index + 1
        places.append(Place(row.name, status, rank))
    self_reported = {row.name for row in contenders if not row.reproduced}
    last = len(places)
    # a stable sort: beside the status of ties nothing moves
    return sorted(
        places, key=lambda p: (p.rank or last + 1, bool(p.rank) and p.name in self_reported)
    )


def standing(row: Contender, min_seeds: int) -> Standing:
    """Whether a row has the seeds for a rank."""
    n = len(row.accuracies)
    if n >= min_seeds and not row.provisional:
        return "ranked"
    return "provisional" if n >= min(PROVISIONAL_SEEDS, min_seeds) else "unranked"


def separated(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether Welch's unequal-variances t-test tells two rows apart at p < 0.05, two-sided."""
    from scipy import stats

    a, b = summarise(one), summarise(other)
    if len(one) < 2 or len(other) < 2:
        return False
    if a.sd == b.sd == 0:
        return a.mean != b.mean
    test = stats.ttest_ind_from_stats(
        a.mean, a.sd, len(one), b.mean, b.sd, len(other), equal_var=False
    )
    return bool(test.pvalue < SIGNIFICANCE)


def _by_mean(row: Contender) -> tuple[float, float, str]:
    summary = summarise(row.accuracies)
    return -summary.mean, 0.0 if math.isnan(summary.sd) else summary.sd, row.name
