"""Activity pulls weights down: strength by exponent, with random feedback (Zenke & Ganguli 2018, fig. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from snnbench.plots import titled_figure
from snnbench.studies.pattern_learning import learn, task
from snnbench.studies.patterns import logo
from snnbench.studies.study import Data, Job, Study, Verdict

UNSTABLE = 200.0
"""What a distance counts as that is larger, or where rates ran away."""


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    seconds: float = 300.0
    rate_mv: float = 1.0
    hidden: int = 128
    rhos: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    exponents: tuple[int, ...] = (0, 1, 2, 4)


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One for each pair and seed, and none at all beside them."""
    pairs = [(0.0, 4), *((rho, a) for a in p.exponents for rho in p.rhos)]
    pattern = logo(data)
    return [
        Job(
            f"rho-{rho:g}-a-{exponent}-{seed}",
            learn,
            task(
                pattern,
                seeds=[seed],
                hidden=(p.hidden,),
                seconds=p.seconds,
                feedback="random",
                rate_mv=p.rate_mv,
                rho=rho,
                exponent=exponent,
                every_s=20.0,
            ),
        )
        for rho, exponent in pairs
        for seed in seeds
    ]


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Mean distance at the end and hidden rates, by exponent and rho."""
    grid: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    for job, r in results:
        rho = job.arguments["rho"]
        key = f"a={job.arguments['exponent']} rho={rho:g}" if rho else "none"
        ends = [
            min(c[-1], UNSTABLE) if "diverged" not in r and c else UNSTABLE for c in r["metric"]
        ]
        grid.setdefault(key, []).extend(ends)
        rates.setdefault(key, []).extend(r["rates_hz"][0] if r["rates_hz"] else [])
    return {
        "data": results[0][1]["source"],
        "distance": {key: float(np.mean(x)) for key, x in grid.items()},
        "hidden_hz": {key: float(np.mean(x)) if x else None for key, x in rates.items()},
    }


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """Exponent 4 with rho 1 against none and against exponent 0."""
    d = numbers["distance"]
    best = min(d, key=lambda key: d[key])
    reference = d.get("a=4 rho=1", UNSTABLE)
    best_0 = min((x for key, x in d.items() if key.startswith("a=0")), default=UNSTABLE)
    return Verdict(
        reference < d["none"] and reference < best_0 and best.startswith("a=4"),
        f"Distance after {p.seconds:g} s: {reference:.1f} with a = 4 and rho = 1, {d['none']:.1f} without, "
        f"{best_0:.1f} at best with a = 0; best of all {best} with {d[best]:.1f}.",
    )


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """A map of the distance, and of hidden rates."""
    figure = titled_figure(
        8.6,
        3.4,
        "Heterosynaptic regularisation with random feedback",
        f"After {p.seconds:g} s; without it: distance {numbers['distance']['none']:.0f}",
        numbers["data"],
    )
    panels = figure.subplots(1, 2)
    for axes, name, title in zip(
        panels,
        ("distance", "hidden_hz"),
        ("van Rossum distance", "hidden units' rate (Hz)"),
        strict=True,
    ):
        values = np.array(
            [[numbers[name].get(f"a={a} rho={r:g}") or np.nan for r in p.rhos] for a in p.exponents]
        )
        axes.imshow(values, cmap="cividis", aspect="auto", norm="log")
        for (i, j), value in np.ndenumerate(values):
            axes.text(
                j, i, "–" if np.isnan(value) else f"{value:.0f}", ha="center", va="center",
                color="white" if value < np.nanmedian(values) else "black", fontsize=8,
            )  # fmt: skip
        axes.set_xticks(range(len(p.rhos)), [f"{r:g}" for r in p.rhos])
        axes.set_yticks(range(len(p.exponents)), [str(a) for a in p.exponents])
        axes.set_xlabel("rho")
        axes.set_ylabel("exponent a")
        axes.set_title(title)
    return {"": figure}


STUDY = Study(
    name="superspike-heterosynaptic",
    shows="strength and exponent of the pull of activity, random feedback",
    source="Zenke & Ganguli 2018, fig. 8",
    criterion="distance after 300 s: rho = 1 with a = 4 is better than none and than the best with a = 0, and"
    " the best of the whole scan has a = 4",
    parameters=Parameters(),
    seeds=1,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"seconds": 3.0, "hidden": 8, "rhos": (1.0,), "exponents": (0, 4)},
)
