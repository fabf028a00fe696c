"""Exclusive or of spike times (Zenke & Ganguli 2018, fig. 5): hidden units needed.

Three groups of 100 inputs, in which each unit fires once, at a frozen time within 10 ms. The first group
always fires alike and tells when a stimulus begins; each of the two others in one of two ways, 0 or 1. Output
0 should fire where both are 0 or both 1, output 1 otherwise, within the stimulus and 15 ms after it. Spikes
of 4 Hz are in the background, and stimuli come after gaps of random length.

A wrong output's spike counts as an error at once, a silent right output at the window's end. How the two
values are coded, the gaps (40 to 100 ms) and the rate's cut to a tenth in the last third are our choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from snnbench.plots import BLUE, GREEN, INK, ORANGE, QUIET, titled_figure
from snnbench.studies import raster_plots
from snnbench.studies.runner import mean_and_interval
from snnbench.studies.study import Data, Job, Report, Study, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from snnbench.models.online.errors import Window

GROUP, GROUPS = 100, 3
WITHIN_S, AFTER_S = 10e-3, 15e-3
GAPS_S = (40e-3, 100e-3)
CUT_AFTER = 2 / 3
"""Share of the training after which the rate is divided by ten."""
BACKGROUND_HZ = 4.0
CASES: dict[str, tuple[str, int, float]] = {
    "symmetric": ("symmetric", 4, 0.0),
    "random": ("random", 4, 0.0),
    "uniform": ("uniform", 4, 0.0),
    "symmetric, regularised": ("symmetric", 4, 1.0),
    "random, regularised": ("random", 4, 1.0),
    "uniform, regularised": ("uniform", 4, 1.0),
    "no hidden layer": ("symmetric", 0, 0.0),
}
"""Name: feedback, hidden cells, rho."""
SOLVED, UNSOLVED = 0.9, 0.8


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    seconds: float = 1500.0
    rate_mv: float = 1.0
    hidden: int = 4


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One for each case, all seeds side by side."""
    return [
        Job(
            name.replace(",", "").replace(" ", "-"),
            learn_xor,
            {
                "case": name,
                "seeds": list(seeds),
                "feedback": feedback,
                "hidden": p.hidden if cells else 0,
                "rho": rho,
                "seconds": p.seconds,
                "rate_mv": p.rate_mv,
            },
        )
        for name, (feedback, cells, rho) in CASES.items()
    ]


def learn_xor(a: Mapping[str, Any], report: Report, scratch: Path) -> dict[str, Any]:
    """Train networks on stimuli one after the other.

    Returns
    -------
    times_s and accuracy [seed][point], the share of stimuli answered by the right output alone, over the
    stimuli since the last point; final, over the last 50 s; example, spikes of the last block of seed 0.
    """
    import torch

    from snnbench.models.online.constants import Heterosynaptic
    from snnbench.models.online.errors import solved, window_errors
    from snnbench.models.online.feedback import make_feedback
    from snnbench.models.online.updates import Update
    from snnbench.models.superspike import Learner, Settings, initial_weights

    settings = Settings(
        update=Update(rate_mv=a["rate_mv"]),
        heterosynaptic=Heterosynaptic(a["rho"]) if a["rho"] else None,
    )
    dt_s, steps = settings.neuron.dt_s, settings.steps
    generators = [torch.Generator().manual_seed(seed) for seed in a["seeds"]]
    sizes = (GROUP * GROUPS, *([a["hidden"]] if a["hidden"] else []), 2)
    weights = initial_weights(sizes, generators)
    learner = Learner(weights, make_feedback(a["feedback"], weights, generators), settings)
    stimuli = [Stimuli(seed, dt_s, steps) for seed in a["seeds"]]
    blocks = round(a["seconds"] / settings.block_s)
    every = max(1, blocks // 40)
    right: list[list[bool]] = [[] for _ in stimuli]
    points: list[list[float]] = [[] for _ in stimuli]
    times: list[float] = []
    late: list[list[bool]] = [[] for _ in stimuli]
    for block in range(blocks):
        inputs, windows = zip(*(s.block() for s in stimuli), strict=True)
        done = learner.run(
            torch.stack(inputs, 1),
            partial(window_errors, windows=windows),
            rate_scale=0.1 if block >= CUT_AFTER * blocks else 1.0,
        )
        for seed, answers in enumerate(solved(done.spikes[-1], windows)):
            right[seed] += answers
            if block >= blocks - 100:
                late[seed] += answers
        if (block + 1) % every == 0:
            times.append((block + 1) * settings.block_s)
            for seed, answers in enumerate(right):
                points[seed].append(float(np.mean(answers)) if answers else 0.0)
                answers.clear()
        report((block + 1) / blocks)
    example = [inputs[0], *(x[:, 0] for x in done.spikes)]
    return {
        "times_s": times,
        "accuracy": points,
        "final": [float(np.mean(x)) for x in late],
        "example": [x.nonzero().tolist() for x in example],
        "windows": [[w.first, w.last, w.unit] for w in windows[0]],
    }


class Stimuli:
    """Endless stimuli of one seed, block after block; a stimulus and its window lie within a block."""

    def __init__(self, seed: int, dt_s: float, steps: int) -> None:
        self._rng = np.random.default_rng([seed, 3])
        self._dt_s, self._steps = dt_s, steps
        self._frozen = self._rng.integers(0, round(WITHIN_S / dt_s), (2, GROUPS, GROUP))

    def block(self) -> tuple[Tensor, list[Window]]:
        """Input spikes (time, unit), uint8, and where answers are due."""
        import torch

        from snnbench.models.online.errors import Window

        shown = round((WITHIN_S + AFTER_S) / self._dt_s)
        spikes: NDArray[np.uint8] = np.zeros((self._steps, GROUP * GROUPS), np.uint8)
        noise = self._rng.poisson(BACKGROUND_HZ * self._dt_s * spikes.size)
        spikes.flat[self._rng.integers(0, spikes.size, noise)] = 1
        windows, at = [], self._gap()
        while at + shown < self._steps:
            codes = self._rng.integers(0, 2, 2)
            times = at + self._frozen[[0, *codes], range(GROUPS)]
            spikes[times.ravel(), np.arange(GROUP * GROUPS)] = 1
            windows.append(Window(at, at + shown, int(codes[0] != codes[1])))
            at += shown + self._gap()
        return torch.from_numpy(spikes), windows

    def _gap(self) -> int:
        return int(self._rng.uniform(*GAPS_S) / self._dt_s)


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Accuracy over the last 50 s, by case."""
    cases = {
        job.arguments["case"]: {
            "accuracy": mean_and_interval(r["final"]),
            "final": r["final"],
            "solved_by": sum(x >= SOLVED for x in r["final"]),
            "curves": r["accuracy"],
        }
        for job, r in results
    }
    example = next(r for job, r in results if job.arguments["case"] == "symmetric")
    return {
        "data": "generated: stimuli drawn from each seed",
        "times_s": results[0][1]["times_s"],
        "cases": cases,
        "_example": example["example"],
        "_windows": example["windows"],
    }


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """Hidden units needed; symmetric and random solve it in most seeds; uniform is no better."""
    cases = numbers["cases"]
    mean = {name: case["accuracy"]["mean"] for name, case in cases.items()}
    seeds = len(cases["symmetric"]["final"])
    enough = all(
        max(cases[kind]["solved_by"], cases[f"{kind}, regularised"]["solved_by"]) > seeds / 2
        for kind in ("symmetric", "random")
    )
    needed = max(cases["no hidden layer"]["final"]) < UNSOLVED
    told = ", ".join(
        f"{name} {x:.0%} ({cases[name]['solved_by']}/{seeds})" for name, x in mean.items()
    )
    return Verdict(
        enough and needed,
        f"Stimuli answered rightly in the last 50 s, and seeds that reach {SOLVED:.0%}: {told}.",
    )


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Accuracy while learning; what a trained network does."""
    cases = numbers["cases"]
    seeds = len(cases["symmetric"]["final"])
    figure = titled_figure(
        8.6,
        3.8,
        "Exclusive or of spike times",
        f"Share of stimuli answered by the right output alone; median and middle half of {seeds} seeds",
        numbers["data"],
    )
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1), sharey=True)
    raster_plots.curves(left, {n: (numbers["times_s"], c["curves"]) for n, c in cases.items()})
    left.set_ylabel("stimuli answered rightly")
    left.legend(loc="upper left", fontsize=7)
    for k, (case, colour) in enumerate(zip(cases.values(), raster_plots.COLOURS, strict=False)):
        spread = raster_plots.spread(seeds, 0.2)
        right.plot(k + spread, case["final"], "o", ms=3, color=colour, alpha=0.7)
    right.set_xticks(
        range(len(cases)), [n.replace(", ", "\n") for n in cases], rotation=60, fontsize=7
    )
    left.set_ylim(0, 1.02)
    raster = titled_figure(
        7.2,
        4.6,
        "Spikes of a trained network",
        "Last 0.5 s. Grey: inputs; bands: where output 0 (blue) or 1 (orange) should fire",
        "symmetric feedback, seed 0",
    )
    grid = raster.subplots(3, 1, sharex=True, height_ratios=(3, 1, 0.8))
    names = ("inputs", "hidden", "output")
    for axes, events, name, colour in zip(
        grid, numbers["_example"], names, (QUIET, GREEN, INK), strict=True
    ):
        for first, last, unit in numbers["_windows"]:
            axes.axvspan(first * 1e-4, last * 1e-4, color=(BLUE, ORANGE)[unit], alpha=0.15, lw=0)
        raster_plots.raster(axes, events, 1e-4, colour, size=3.0 if name == "inputs" else 60.0)
        axes.set_ylabel(name)
    grid[1].set_ylim(-0.8, p.hidden - 0.2)
    grid[1].set_yticks(range(p.hidden))
    grid[2].set_ylim(-0.8, 1.8)
    grid[2].set_yticks([0, 1])
    grid[2].set_xlabel("time (s)")
    return {"": figure, "raster": raster}


STUDY = Study(
    name="superspike-xor",
    shows="the spiking nonlinear task: exclusive or of spike times",
    source="Zenke & Ganguli 2018, fig. 5",
    criterion="over the last 50 s of 1500 s more than half of the seeds answer 90 % of stimuli rightly with"
    " symmetric feedback and with random feedback (with or without the heterosynaptic term), and no seed"
    " without a hidden layer answers 80 %",
    parameters=Parameters(),
    seeds=5,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"seconds": 10.0},
)
