"""The surrogate's shape hardly matters (Zenke & Vogels 2021): four shapes, each at its best learning rate.

A feedforward layer, without gradient through the reset. `snnbench.studies.surrogate_grid` tells what is not
as in the paper. Latency MNIST (2,000 training images, one rate) is shown beside where its file is; the
criterion is of the manifolds.

A first run had a quarter of the training and test samples, 3 seeds and a reset that subtracts: too few to
tell 1 point. The criterion is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from snnbench.plots import titled_figure
from snnbench.studies import raster_plots
from snnbench.studies.runner import mean_and_interval
from snnbench.studies.study import Data, Job, Study, Verdict
from snnbench.studies.surrogate_grid import CLASSES, SHAPES, task, train

MANIFOLDS, MNIST = "random manifolds", "latency MNIST"
WITHIN = 0.01


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    slope: float = 10.0
    rates: tuple[float, ...] = (5e-3, 1e-2, 2e-2)
    epochs: int = 15
    per_class: int = 400
    hidden: int = 100
    mnist_epochs: int = 5
    images: int = 2000


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One for each shape, rate and seed, on both data sets where MNIST is there."""
    found = []
    mnist = data.find("mnist-latency.h5")
    for shape in SHAPES:
        for seed in seeds:
            found += [
                Job(
                    f"manifolds-{shape.replace(' ', '-')}-{lr:g}-{seed}",
                    train,
                    task(
                        shape, p.slope, lr, seed=seed, epochs=p.epochs, per_class=p.per_class,
                        hidden=p.hidden,
                    ),
                )
                for lr in p.rates
            ]  # fmt: skip
            if mnist:
                arguments = task(
                    shape, p.slope, 2e-3, seed=seed, epochs=p.mnist_epochs,
                    per_class=p.images // CLASSES,
                    hidden=p.hidden, mnist=str(mnist),
                )  # fmt: skip
                found.append(Job(f"mnist-{shape.replace(' ', '-')}-{seed}", train, arguments))
    return found


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Accuracy by data set and shape, at the rate that is best on validation; how far shapes are apart."""
    sets: dict[str, Any] = {}
    for name in (MANIFOLDS, MNIST):
        mine = [
            (j.arguments, r) for j, r in results if bool(j.arguments["mnist"]) == (name == MNIST)
        ]
        if not mine:
            continue
        sets[name] = {}
        for shape in SHAPES:
            by_rate: dict[float, list[dict[str, Any]]] = {}
            for a, r in mine:
                if a["shape"] == shape:
                    by_rate.setdefault(a["lr"], []).append(r)
            best = max(by_rate, key=lambda lr: np.mean([r["validation"] for r in by_rate[lr]]))
            chosen = by_rate[best]
            sets[name][shape] = {
                "lr": best,
                "accuracy": mean_and_interval([r["accuracy"] for r in chosen]),
                "each": [r["accuracy"] for r in chosen],
                "hidden_spikes": float(np.mean([r["hidden_spikes"] for r in chosen])),
            }
    mnist = MNIST if MNIST in sets else "no file of MNIST"
    return {
        "data": f"{mnist}; generated: {MANIFOLDS}",
        "sets": sets,
        "apart": {name: _apart(shapes) for name, shapes in sets.items()},
    }


def _apart(shapes: dict[str, Any]) -> dict[str, Any]:
    """Best shape minus worst, seed by seed: both have the same data and first weights."""
    order = sorted(shapes, key=lambda shape: shapes[shape]["accuracy"]["mean"])
    worst, best = order[0], order[-1]
    pairs = zip(shapes[best]["each"], shapes[worst]["each"], strict=True)
    return {"best": best, "worst": worst, **mean_and_interval([b - w for b, w in pairs])}


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """By the distance between the best and the worst shape on the manifolds."""
    told = []
    for name, shapes in numbers["sets"].items():
        each = ", ".join(
            f"{shape} {100 * of['accuracy']['mean']:.1f} ± {100 * of['accuracy']['half_width_95']:.1f}"
            for shape, of in shapes.items()
        )
        apart = numbers["apart"][name]
        gap = f"{100 * apart['mean']:.1f} ± {100 * apart['half_width_95']:.1f} points"
        told.append(f"{name}: {each} % ({apart['best']} over {apart['worst']}: {gap})")
    return Verdict(numbers["apart"][MANIFOLDS]["mean"] <= WITHIN, f"{'; '.join(told)}.")


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Each seed's accuracy and the interval of the mean, by shape."""
    sets = numbers["sets"]
    figure = titled_figure(
        3.4 * len(sets) + 1.2,
        3.5,
        "Four shapes of surrogate",
        f"Test accuracy at slope {p.slope:g}; dots: seeds; bars: 95 % of the mean",
        numbers["data"],
    )
    for axes, (name, shapes) in zip(
        figure.subplots(1, len(sets), squeeze=False)[0], sets.items(), strict=True
    ):
        for k, (of, colour) in enumerate(zip(shapes.values(), raster_plots.COLOURS, strict=False)):
            values = 100 * np.asarray(of["each"])
            spread = raster_plots.spread(len(values), 0.12)
            axes.plot(k + spread, values, "o", ms=3.5, color=colour, alpha=0.6)
            m = of["accuracy"]
            axes.errorbar(k + 0.28, 100 * m["mean"], 100 * m["half_width_95"], fmt="_", ms=9,
                          color=colour, capsize=2)  # fmt: skip
        axes.set_xticks(range(len(shapes)), [s.replace(" ", "\n") for s in shapes])
        axes.set_title(name)
        axes.set_ylabel("test accuracy (%)")
        axes.set_ylim(min(90.0, 5 * np.floor(axes.get_ylim()[0] / 5)), 100.3)
    return {"": figure}


STUDY = Study(
    name="surrogate-shape",
    shows="four shapes of surrogate at their best learning rates",
    source="Zenke & Vogels 2021; talk, slide on the shape of f(U)",
    criterion="on random manifolds the four shapes' mean test accuracies, each at the learning rate that is"
    " best on validation, lie within 1 point",
    parameters=Parameters(),
    seeds=5,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={
        "rates": (5e-3,),
        "epochs": 1,
        "per_class": 13,
        "hidden": 10,
        "mnist_epochs": 1,
        "images": 130,
    },
    version=2,
)
