"""A picture in 3.5 s of 100 spike trains: hidden sizes, and kinds of feedback (figs. 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from snnbench.plots import BLUE, GREEN, INK, ORANGE, titled_figure
from snnbench.studies import raster_plots
from snnbench.studies.pattern_learning import learn, task
from snnbench.studies.patterns import logo
from snnbench.studies.study import Data, Job, Study, Verdict

DT_S = 1e-4
RAN_AWAY = 1e3
"""What a distance counts as where rates ran away."""


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    seconds: float = 1000.0
    cut_after_s: float = 800.0
    """The rate is divided by ten from here on."""
    rate_mv: float = 1.0
    sizes: tuple[int, ...] = (8, 32, 256)
    """Hidden layers with symmetric feedback, beside `hidden`."""
    hidden: int = 128
    """Hidden layer of the kinds of feedback."""


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One for each case and seed."""
    cases: list[tuple[str, str, int, float]] = [
        ("symmetric", "symmetric", p.hidden, 0.0),
        ("symmetric-linear", "symmetric-linear", p.hidden, 0.0),
        ("frozen hidden layer", "frozen", p.hidden, 0.0),
        ("random", "random", p.hidden, 0.0),
        ("random, regularised", "random", p.hidden, 1.0),
        ("uniform", "uniform", p.hidden, 0.0),
        ("no hidden layer", "symmetric", 0, 0.0),
        *((f"symmetric, {n} cells", "symmetric", n, 0.0) for n in p.sizes),
    ]
    pattern = logo(data)
    return [
        Job(
            f"{name}-{seed}".replace(",", "").replace(" ", "-"),
            learn,
            {
                "case": name,
                **task(
                    pattern,
                    seeds=[seed],
                    hidden=(size,) if size else (),
                    seconds=p.seconds,
                    feedback=feedback,
                    rate_mv=p.rate_mv,
                    rho=rho,
                    cut_after_s=p.cut_after_s,
                    every_s=20.0,
                    frames_s=(p.seconds - 8,) if seed == 0 else (),
                ),
            },
        )
        for name, feedback, size, rho in cases
        for seed in seeds
    ]


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Distance at the end, rates and irregularity of hidden units, by case."""
    cases: dict[str, Any] = {}
    for job, r in results:
        case = cases.setdefault(
            job.arguments["case"],
            {"at_end": [], "diverged": 0, "hidden_hz": [], "cv": [], "curves": [], "_frame": None},
        )
        if "diverged" in r:
            # it counts as worse than all, and its curve ends where it ran away
            case["diverged"] += 1
            case["at_end"].append(RAN_AWAY)
            continue
        case["at_end"] += [c[-1] for c in r["metric"]]
        case["curves"] += r["metric"]
        if job.arguments["hidden"]:
            case["hidden_hz"] += r["rates_hz"][0]
            case["cv"] += r["cv"]
        if r["frames"]:
            case["_frame"] = r["frames"][-1]["layers"][-1]
    for case in cases.values():
        case["mean"] = float(np.mean(case["at_end"]))
    frames = {name: case.pop("_frame") for name, case in cases.items()}
    return {
        "data": results[0][1]["source"],
        "times_s": results[0][1]["times_s"],
        "cases": cases,
        "_frames": frames,
        "_targets": next(r["targets"] for _, r in results if r["targets"]),
    }


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """Order of the kinds of feedback."""
    mean = {name: case["mean"] for name, case in numbers["cases"].items()}
    best = mean["symmetric"] < min(mean[x] for x in ("symmetric-linear", "frozen hidden layer"))
    worse = mean["random"] > mean["no hidden layer"]
    worst = mean["uniform"] >= max(v for name, v in mean.items() if not name.startswith("uniform"))
    hidden = numbers["cases"]["symmetric"]
    variation = np.mean(hidden["cv"])
    told = ", ".join(
        f"{name} {'ran away' if x >= RAN_AWAY else f'{x:.1f}'}"
        for name, x in sorted(mean.items(), key=lambda kv: kv[1])
    )
    said = [
        "symmetric is best" if best else "symmetric is not best",
        "random is worse than no hidden layer"
        if worse
        else "random is better than no hidden layer",
        "uniform is worst" if worst else "uniform is not worst",
    ]
    return Verdict(
        best and worse and worst,
        f"{', '.join(said)}. Distance at the end: {told}. Hidden units with symmetric feedback fire "
        f"{np.mean(hidden['hidden_hz']):.0f} Hz, intervals vary by {variation:.2f} of their mean.",
    )


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Curves by feedback and by size; the picture that some of them draw."""
    cases, times = numbers["cases"], numbers["times_s"]
    figure = titled_figure(
        8.6,
        3.9,
        "A picture of 100 spike trains",
        f"Mean of the seeds; the rate is divided by ten after {p.cut_after_s:g} s",
        numbers["data"],
    )
    left, right = figure.subplots(1, 2, sharey=True)
    by_size = [n for n in cases if n.endswith("cells")]
    for axes, names in (
        (left, [n for n in cases if n not in by_size]),
        (right, [*by_size, "symmetric"]),
    ):
        for name, colour in zip(names, raster_plots.COLOURS, strict=False):
            if not cases[name]["curves"]:
                continue
            label = (
                f"symmetric, {p.hidden} cells" if axes is right and name == "symmetric" else name
            )
            axes.plot(times, np.mean(cases[name]["curves"], 0), color=colour, label=label)
        axes.set_xlabel("training (s of biological time)")
        raster_plots.plain_log(axes)
        axes.legend(fontsize=7)
    left.set_ylabel("van Rossum distance")
    left.set_title(f"by feedback, {p.hidden} hidden cells")
    right.set_title("by hidden cells")
    shown = [
        n for n in ("symmetric", "random", "uniform", "no hidden layer") if numbers["_frames"][n]
    ]
    pictures = titled_figure(
        8.6,
        5.2,
        "What the output draws",
        "Target, and output spikes of one loop at the end",
        numbers["data"],
    )
    panels = {"target": numbers["_targets"], **{n: numbers["_frames"][n] for n in shown}}
    grid = pictures.subplots(2, -(-len(panels) // 2), sharex=True, sharey=True, squeeze=False)
    for axes, (name, events), colour in zip(
        grid.flat, panels.items(), (INK, BLUE, ORANGE, GREEN, INK), strict=False
    ):
        raster_plots.raster(axes, events, DT_S, colour, size=6.0)
        axes.set_title(name)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("time in the loop (s)")
    for axes in grid[:, 0]:
        axes.set_ylabel("output unit")
    return {"": figure, "pictures": pictures}


STUDY = Study(
    name="superspike-pattern",
    shows="a picture of 100 spike trains: hidden sizes, kinds of feedback",
    source="Zenke & Ganguli 2018, figs. 6 and 7",
    criterion="mean distance at the end: symmetric feedback is better than symmetric-linear and than a frozen"
    " hidden layer; random feedback is worse than no hidden layer; uniform feedback is worst of all",
    parameters=Parameters(),
    seeds=2,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"seconds": 12.0, "cut_after_s": 10.0, "sizes": (8,), "hidden": 16},
)
