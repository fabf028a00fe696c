"""Feedback alignment: under random feedback the forward weights turn, so that it becomes useful.

The angle is between what hidden weights gather under the feedback in use, and under symmetric feedback, in
the same half second from the same state; the latter is the gradient of a surrogate loss. Learned feedback
takes the transposed changes of the forward weights (Kolen & Pollack 1994). Talk, slides on feedback;
Lillicrap et al. 2016.
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
from snnbench.studies.patterns import logo
from snnbench.studies.runner import mean_and_interval
from snnbench.studies.study import Data, Job, Study, Verdict

KINDS = ("random", "uniform", "learned", "frozen")
"""Frozen has no hidden learning; its distance is what the others are measured against."""


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    seconds: float = 400.0
    rate_mv: float = 1.0
    hidden: int = 64
    rho: float = 1.0


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One for each kind and seed."""
    pattern = logo(data)
    return [
        Job(
            f"{kind}-{seed}",
            learn,
            task(
                pattern,
                seeds=[seed],
                hidden=(p.hidden,),
                seconds=p.seconds,
                feedback=kind,
                rate_mv=p.rate_mv,
                rho=p.rho,
                every_s=20.0,
                angles=kind != "frozen",
            ),
        )
        for kind in KINDS
        for seed in seeds
    ]


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Angles over time, early and late; distances at the end."""
    kinds: dict[str, Any] = {kind: {"angles": [], "at_end": []} for kind in KINDS}
    for job, r in results:
        of = kinds[job.arguments["feedback"]]
        of["angles"] += [x for x in r["angles_deg"] if x]
        of["at_end"] += [c[-1] for c in r["metric"]]
    for of in kinds.values():
        x = np.asarray(of["angles"], float)
        if x.size:
            fifth = max(1, x.shape[1] // 5)
            of["early_deg"] = mean_and_interval(x[:, :1].mean(1).tolist())
            of["late_deg"] = mean_and_interval(x[:, -fifth:].mean(1).tolist())
            of["fall_deg"] = mean_and_interval((x[:, 0] - x[:, -fifth:].mean(1)).tolist())
        of["distance"] = mean_and_interval(of["at_end"])
    points = max(len(x) for of in kinds.values() for x in of["angles"])
    return {
        "data": results[0][1]["source"],
        "times_s": [20.0 * k for k in range(points)],
        "kinds": kinds,
    }


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """By the fall of the angle under random feedback, beyond its interval over seeds."""
    told = []
    for kind in ("random", "uniform", "learned"):
        of = numbers["kinds"][kind]
        told.append(f"{kind} {of['early_deg']['mean']:.0f} to {of['late_deg']['mean']:.0f} degrees")
    fall = numbers["kinds"]["random"]["fall_deg"]
    ends = ", ".join(f"{k} {of['distance']['mean']:.1f}" for k, of in numbers["kinds"].items())
    return Verdict(
        fall["mean"] - fall["half_width_95"] > 0,
        f"Angle to the gradient, at first and in the last fifth: {'; '.join(told)}. Distance: {ends}.",
    )


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Angle over training."""
    figure = titled_figure(
        6.4,
        3.8,
        "Angle between hidden weights' changes and the gradient",
        "Each seed and the median; 90 degrees: no relation",
        numbers["data"],
    )
    axes = figure.subplots()
    named = {
        kind: (numbers["times_s"][: len(of["angles"][0])], of["angles"])
        for kind, of in numbers["kinds"].items()
        if of["angles"]
    }
    raster_plots.curves(axes, named, each=True)
    axes.axhline(90, color=QUIET, lw=0.7, ls=":")
    axes.set_ylabel("angle (degrees)")
    axes.set_ylim(0, 120)
    axes.set_yticks([0, 30, 60, 90, 120])
    axes.legend(loc="lower left")
    return {"": figure}


STUDY = Study(
    name="feedback-alignment",
    shows="the angle between feedback and gradient falls during learning",
    source="Lillicrap et al. 2016; talk, slides on feedback alignment",
    criterion="under random feedback the angle between the hidden weights' gathered change and that of"
    " symmetric feedback falls from the beginning to the last fifth of training, by more than the 95 %"
    " interval over seeds",
    parameters=Parameters(),
    seeds=3,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"seconds": 6.0, "hidden": 8},
)
