"""The same five spikes through four hidden cells, by three ways to tell them of errors (fig. 4).

Random feedback whose weights are all negative tells every hidden cell the opposite of what a single output
with positive weights would need: with four such cells nothing is learnt, with eight of both signs it is.
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

CASES: dict[str, tuple[str, int, int]] = {
    "symmetric, 4 cells": ("symmetric", 4, 0),
    "random, 4 cells": ("random", 4, 0),
    "uniform, 4 cells": ("uniform", 4, 0),
    "random, all negative, 4 cells": ("random", 4, -1),
    "random, 8 cells": ("random", 8, 0),
}
"""Name: feedback, hidden cells, sign."""
LEARNT_BELOW, FAILED_ABOVE = 5.0, 20.0
FAILS = "random, all negative, 4 cells"


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    seconds: float = 300.0
    rate_mv: float = 1.0


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One for each case, all seeds side by side."""
    pattern = five_spikes(data)
    return [
        Job(
            name.replace(",", "").replace(" ", "-"),
            learn,
            {
                "case": name,
                **task(
                    pattern,
                    seeds=seeds,
                    hidden=(cells,),
                    seconds=p.seconds,
                    rate_mv=p.rate_mv,
                    feedback=feedback,
                    sign=sign,
                ),
            },
        )
        for name, (feedback, cells, sign) in CASES.items()
    ]


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Distances at the end and curves, by case."""
    cases = {
        job.arguments["case"]: {
            "median": float(np.median([c[-1] for c in r["metric"]])),
            "at_end": [c[-1] for c in r["metric"]],
            "hit_share": float(np.mean(r["hits"])),
            "hidden_hz": float(np.mean(r["rates_hz"][0])),
            "curves": r["metric"],
        }
        for job, r in results
    }
    return {"data": results[0][1]["source"], "times_s": results[0][1]["times_s"], "cases": cases}


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """Three learn, one fails, the larger one learns."""
    medians = {name: case["median"] for name, case in numbers["cases"].items()}
    learnt = [name for name in CASES if name != FAILS and medians[name] < LEARNT_BELOW]
    failed = medians[FAILS] > FAILED_ABOVE
    told = "; ".join(f"{name} {x:.1f}" for name, x in medians.items())
    return Verdict(
        failed and len(learnt) == len(CASES) - 1,
        f"Median distance after {p.seconds:g} s: {told}. A silent output has 40.",
    )


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Median curves of every case, and each seed's end."""
    cases = numbers["cases"]
    seeds = len(next(iter(cases.values()))["at_end"])
    figure = titled_figure(
        8.6,
        3.8,
        "Five spike times through hidden cells",
        f"Median and middle half of {seeds} seeds; right: every seed at the end",
        numbers["data"],
    )
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1), sharey=True)
    raster_plots.curves(left, {n: (numbers["times_s"], c["curves"]) for n, c in cases.items()})
    for k, (case, colour) in enumerate(zip(cases.values(), raster_plots.COLOURS, strict=False)):
        spread = raster_plots.spread(seeds, 0.2)
        right.plot(k + spread, case["at_end"], "o", ms=3, color=colour, alpha=0.7)
    right.set_xticks(range(len(cases)), [n.replace(", ", "\n") for n in cases], fontsize=7)
    right.axhline(LEARNT_BELOW, color=QUIET, lw=0.7, ls=":")
    left.set_ylim(-1, 85)
    return {"": figure}


STUDY = Study(
    name="superspike-hidden",
    shows="four hidden cells: symmetric, random and uniform feedback; feedback of one sign",
    source="Zenke & Ganguli 2018, fig. 4",
    criterion="after 300 s the median distance is below 5 for symmetric, random and uniform feedback with"
    " four cells and for random feedback with eight, and above 20 with four cells and negative feedback",
    parameters=Parameters(),
    seeds=20,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"seconds": 10.0},
)
