"""Rates of learning: fixed, RMSprop, RMaxProp, over five decades (Zenke & Ganguli 2018, fig. 1).

RMSprop and RMaxProp divide by the size of past gradients, so that r0 is in mV. A fixed rate is in mV per unit
of gradient; its grid is centred where it learns best and as wide in decades.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from snnbench.plots import QUIET, titled_figure
from snnbench.studies import raster_plots
from snnbench.studies.pattern_learning import learn, task
from snnbench.studies.patterns import five_spikes
from snnbench.studies.study import Data, Job, Study, Verdict

GRID = tuple(10 ** (k / 2) for k in range(-5, 6))
"""Half decades around the centre of each kind."""
CENTRES = {"fixed": 300.0, "rmsprop": 0.3, "rmaxprop": 1.0}
WORKS_BELOW, RAN_AWAY = 10.0, 1e3
"""A distance that counts as learnt, and what counts where rates ran away."""


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    seconds: float = 250.0


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One for each kind and rate, all seeds side by side."""
    pattern = five_spikes(data)
    return [
        Job(
            f"{kind}-{k}",
            learn,
            task(
                pattern,
                seeds=seeds,
                hidden=(4,),
                seconds=p.seconds,
                update=kind,
                rate_mv=centre * factor,
                every_s=50.0,
            ),
        )
        for kind, centre in CENTRES.items()
        for k, factor in enumerate(GRID)
    ]


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Distance at the end, by kind and rate, and how many rates work."""
    kinds: dict[str, Any] = {
        kind: {"rates": [], "median": [], "low": [], "high": []} for kind in CENTRES
    }
    for job, r in results:
        ends = [c[-1] if c and "diverged" not in r else RAN_AWAY for c in r["metric"]]
        of = kinds[job.arguments["update"]]
        of["rates"].append(job.arguments["rate_mv"])
        low, median, high = (float(x) for x in np.quantile(ends, [0.25, 0.5, 0.75]))
        of["median"].append(median)
        of["low"].append(low)
        of["high"].append(high)
    for of in kinds.values():
        of["decades"] = 0.5 * sum(m < WORKS_BELOW for m in of["median"])
        of["best"] = min(of["median"])
    return {"data": results[0][1]["source"], "kinds": kinds}


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """By how many decades of rates work."""
    wide = {kind: of["decades"] for kind, of in numbers["kinds"].items()}
    best = {kind: of["best"] for kind, of in numbers["kinds"].items()}
    told = ", ".join(f"{kind} {wide[kind]:g} (best {best[kind]:.1f})" for kind in wide)
    return Verdict(
        min(wide["rmsprop"], wide["rmaxprop"]) > wide["fixed"],
        f"Decades of rates with a median distance below {WORKS_BELOW:g} after {p.seconds:g} s: {told}.",
    )


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Distance at the end against the rate, a panel for each kind."""
    figure = titled_figure(
        8.6,
        3.4,
        "How wide a range of learning rates works",
        f"Distance after {p.seconds:g} s, median and middle half of seeds",
        numbers["data"],
    )
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (kind, of), colour in zip(
        panels, numbers["kinds"].items(), raster_plots.COLOURS, strict=False
    ):
        axes.fill_between(of["rates"], of["low"], of["high"], color=colour, alpha=0.2, lw=0)
        axes.plot(of["rates"], of["median"], "o-", ms=3, color=colour)
        raster_plots.plain_log(axes, horizontal=True)
        axes.axhline(WORKS_BELOW, color=QUIET, lw=0.7, ls=":")
        axes.set_title(kind)
        axes.set_xlabel("rate (mV per unit of gradient)" if kind == "fixed" else "r0 (mV)")
    panels[0].set_ylim(0, 80)
    panels[0].set_ylabel("van Rossum distance")
    return {"": figure}


STUDY = Study(
    name="superspike-rates",
    shows="fixed rate, RMSprop and RMaxProp over five decades of rates",
    source="Zenke & Ganguli 2018, fig. 1",
    criterion="RMSprop and RMaxProp each learn (median distance below 10 after 250 s) over more decades of"
    " their rate than a fixed rate does, on a grid of half decades",
    parameters=Parameters(),
    seeds=10,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"seconds": 5.0},
)
