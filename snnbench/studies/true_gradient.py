"""Why surrogates: the true gradient of a spike is 0 wherever it exists (talk; SpyTorch, first tutorial).

256 random spike patterns with random labels, 100 inputs, 4 hidden units, 2 outputs, 200 steps of 1 ms; 1000
steps of Adam on all patterns. With the true gradient hidden weights learn nothing, and only the readout's do:
two weights for each of 4 units whose spikes stay as they were at first. The tutorial's readout goes one step
further than ours, whose maximum is over 200 steps; all else is equal to its equations, see the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from snnbench.plots import QUIET, titled_figure
from snnbench.studies import raster_plots
from snnbench.studies.runner import mean_and_interval
from snnbench.studies.study import Data, Job, Report, Study, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from snnbench.models.network import SpikingNetwork

INPUTS, HIDDEN, OUTPUTS, PATTERNS, STEPS = 100, 4, 2, 256, 200
DT_S, RATE_HZ = 1e-3, 5.0
ARMS = ("surrogate", "true gradient")
ABOVE, BELOW = 0.8, 0.6


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    epochs: int = 1000
    lr: float = 2e-3


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One for each arm and seed; both arms begin with the same weights and patterns."""
    return [
        Job(
            f"{arm}-{seed}".replace(" ", "-"),
            train,
            {"arm": arm, "seed": seed, "epochs": p.epochs, "lr": p.lr},
        )
        for arm in ARMS
        for seed in seeds
    ]


def make_network(seed: int) -> SpikingNetwork:
    """The tutorial's network: weights from N(0, 7 (1 - beta) / sqrt(n)), steepness 100, reset to zero."""
    import torch

    from snnbench.model_spec import ModelSpec
    from snnbench.models.network import build
    from snnbench.seeding import make_generator

    spec = ModelSpec.model_validate(
        {
            "name": "true-gradient",
            "hidden": [HIDDEN],
            "neuron": {"kind": "lif", "tau_mem_s": 10e-3, "tau_syn_s": 5e-3, "reset": "zero"},
            "surrogate": {"kind": "superspike", "slope": 100.0},
            "readout": {"kind": "leaky", "tau_mem_s": 10e-3, "tau_syn_s": 5e-3},
        }
    )
    generator = make_generator(seed, "init")
    network = build(spec, INPUTS, OUTPUTS, DT_S, generator)
    scale = 7 * (1 - np.exp(-DT_S / 10e-3))
    with torch.no_grad():
        for weight in network.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn * scale / np.sqrt(weight.shape[1]))
    return network


def patterns(seed: int) -> tuple[Tensor, Tensor]:
    """Poisson spikes (time, pattern, unit) and labels."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(STEPS, PATTERNS, INPUTS, generator=generator)
    labels = torch.randint(OUTPUTS, (PATTERNS,), generator=generator)
    return (chance < RATE_HZ * DT_S).float(), labels


def train(a: Mapping[str, Any], report: Report, scratch: Path) -> dict[str, Any]:
    """Accuracy on the trained patterns over epochs, and hidden spikes of a pattern at the end."""
    import torch

    network = make_network(a["seed"])
    spikes, labels = patterns(a["seed"])
    learnt = list(network.parameters())
    if a["arm"] == "true gradient":
        # the derivative of a step is 0 on both sides: nothing of the loss reaches what is below a spike
        for layer in network.layers:
            for weight in layer.parameters():
                weight.requires_grad_(False)
        learnt = [w for w in learnt if w.requires_grad]
    optimiser = torch.optim.Adam(learnt, lr=a["lr"])
    accuracy, losses, count = [], [], 0.0
    for epoch in range(a["epochs"]):
        out = network(spikes)
        loss = torch.nn.functional.cross_entropy(out.logits, labels)
        if epoch % 20 == 0 or epoch == a["epochs"] - 1:
            accuracy.append(float((out.logits.argmax(1) == labels).double().mean()))
            losses.append(loss.item())
            count = out.spike_counts[0].sum(1).mean().item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        report((epoch + 1) / a["epochs"])
    return {"accuracy": accuracy, "loss": losses, "hidden_spikes": count}


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Accuracy at the end, and curves, by arm."""
    arms: dict[str, Any] = {}
    for arm in ARMS:
        mine = [r for job, r in results if job.arguments["arm"] == arm]
        arms[arm] = {
            "accuracy": mean_and_interval([r["accuracy"][-1] for r in mine]),
            "each": [r["accuracy"][-1] for r in mine],
            "hidden_spikes": float(np.mean([r["hidden_spikes"] for r in mine])),
            "curves": [r["accuracy"] for r in mine],
        }
    return {"data": "generated: random patterns, random labels", "arms": arms}


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """Surrogate above 80 %, true gradient below 60 %."""
    found = {arm: of["accuracy"] for arm, of in numbers["arms"].items()}
    told = " and ".join(
        f"{100 * m['mean']:.1f} ± {100 * m['half_width_95']:.1f} % with the {arm}"
        for arm, m in found.items()
    )
    return Verdict(
        found["surrogate"]["mean"] > ABOVE and found["true gradient"]["mean"] < BELOW,
        f"Trained patterns told apart: {told} (tutorial: 85.9 and 51.2).",
    )


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Accuracy over epochs, each seed and the median."""
    seeds = len(numbers["arms"][ARMS[0]]["each"])
    figure = titled_figure(
        6.4,
        3.6,
        "Surrogate and true gradient",
        f"256 random patterns, 4 hidden units; {seeds} seeds and their median",
        numbers["data"],
    )
    axes = figure.subplots()
    points = len(numbers["arms"][ARMS[0]]["curves"][0])
    epochs = [min(20 * k, p.epochs - 1) for k in range(points)]
    named = {
        arm: (epochs, (100 * np.asarray(of["curves"])).tolist())
        for arm, of in numbers["arms"].items()
    }
    raster_plots.curves(axes, named, each=True)
    axes.axhline(50, color=QUIET, lw=0.7, ls=":")
    axes.set_ylim(40, 100)
    axes.set_ylabel("accuracy on trained patterns (%)")
    axes.set_xlabel("epoch")
    axes.legend(loc="center right")
    return {"": figure}


STUDY = Study(
    name="true-gradient",
    shows="surrogate against true gradient on random patterns",
    source="Talk, slide on the spike's derivative; Neftci, Mostafa & Zenke 2019, first tutorial",
    criterion="mean accuracy on the trained patterns is above 80 % with the surrogate and below 60 % with the"
    " true gradient",
    parameters=Parameters(),
    seeds=5,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"epochs": 5},
)
