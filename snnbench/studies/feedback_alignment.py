"""Feedback alignment: under random feedback the forward weights turn, so that it becomes useful.

The angle is between what hidden weights gather under the feedback in use, and under symmetric feedback, in
the same half second from the same state; the latter is the gradient of a surrogate loss. Learned feedback
takes the transposed changes of the forward weights (Kolen & Pollack 1994). Talk, slides on feedback;
Lillicrap et al. 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from snnbench.plots import QUIET, titled_figure
from snnbench.studies import raster_plots
from snnbench.studies.pattern_learning import learn, task
from snnbench.studies.patterns import logo
from snnbench.studies.runner import mean_and_interval
from snnbench.studies.study import Data, Job, Report, Study, Verdict

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
    credit = {"pattern": pattern, "seed": seeds[0], "hidden": p.hidden}
    return [
        Job("credit", hear_one_error, credit),
        *_learning(p, seeds, pattern),
    ]


def _learning(p: Parameters, seeds: Sequence[int], pattern: Mapping[str, Any]) -> list[Job]:
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


def hear_one_error(a: Mapping[str, Any], report: Report, scratch: Path) -> dict[str, Any]:
    """What every unit hears of the first half second's errors, by kind of feedback, before learning.

    Returns for each kind the hidden units' error traces (unit, point), and the output's; a point is 5 ms.
    """
    import torch

    from snnbench.models.online.feedback import make_feedback
    from snnbench.models.superspike import Learner, initial_weights
    from snnbench.studies.patterns import load_pattern

    pattern = load_pattern(a["pattern"], 1e-4, a["seed"])
    sizes = (pattern.inputs.shape[2], a["hidden"], pattern.targets.shape[2])
    heard: dict[str, Any] = {}
    for kind in ("symmetric", "random", "uniform"):
        generators = [torch.Generator().manual_seed(a["seed"])]
        weights = initial_weights(sizes, generators)
        learner = Learner(weights, make_feedback(kind, weights, generators))
        steps = learner.settings.steps
        done = learner.run(pattern.inputs[:steps], pattern.targets[:steps], learn=False)
        hidden, output = (x[::50, 0].mT for x in done.errors)
        heard[kind] = [[round(x, 6) for x in row] for row in hidden.tolist()]
        heard["output"] = [[round(x, 6) for x in row] for row in output.tolist()]
    return {"source": pattern.source, "heard": heard}


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Angles over time, early and late; distances at the end."""
    heard = next(r["heard"] for job, r in results if job.key == "credit")
    results = [(job, r) for job, r in results if job.key != "credit"]
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
        "_heard": heard,
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
    return {"": figure, "credit": _credit(numbers)}


def _credit(numbers: dict[str, Any]) -> Figure:
    """Errors of the output, and what hidden units make of them."""
    figure = titled_figure(
        8.6,
        3.6,
        "Who hears of which error",
        "Error traces before learning; blue: fire more, red: fire less. Each panel in its own scale",
        numbers["data"],
    )
    names = ("output", "symmetric", "random", "uniform")
    for axes, name in zip(figure.subplots(1, 4, sharex=True), names, strict=True):
        x = np.asarray(numbers["_heard"][name])
        largest = float(np.abs(x).max()) or 1.0
        axes.imshow(
            x, aspect="auto", origin="lower", cmap="RdBu", vmin=-largest, vmax=largest,
            extent=(0, x.shape[1] * 5e-3, 0, len(x)),
        )  # fmt: skip
        axes.set_title(name if name == "output" else f"hidden, {name}")
        axes.set_xlabel("time (s)")
    figure.axes[0].set_ylabel("unit")
    return figure


STUDY = Study(
    name="feedback-alignment",
    shows="the angle between feedback and gradient falls during learning",
    source="Lillicrap et al. 2016; talk, slides on feedback alignment",
    criterion="under random feedback the angle between the hidden weights' gathered change and that of"
    " symmetric feedback falls from the beginning to the last fifth of training, by more than the 95 %"
    " interval over seeds",
    parameters=Parameters(),
    seeds=8,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"seconds": 6.0, "hidden": 8},
)
