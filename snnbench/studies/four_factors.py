"""The four parts of the rule for one synapse, as the talk shows them, and that they add up to its change.

A neuron learns five spike times for a while; then half a second is looked at, at the synapse whose weight is
about to change most: (1) presynaptic trace, (2) membrane and its surrogate, (3) error trace, (4) eligibility
trace, step by step as the rule defines it. The sum over steps of eligibility times error, computed so, has to
be what the learner gathered by its matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from snnbench.plots import BLUE, GREEN, INK, ORANGE, PINK, QUIET, titled_figure
from snnbench.studies.patterns import five_spikes
from snnbench.studies.study import Data, Job, Report, Study, Verdict

DT_S = 1e-4
AGREE_WITHIN = 1e-6
EVERY = 5
"""Steps between two points of the figure."""


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    seconds: float = 30.0
    """Of learning before the half second that is shown."""
    rate_mv: float = 0.5


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One a seed."""
    pattern = five_spikes(data)
    return [
        Job(
            f"seed-{seed}",
            watch_synapse,
            {"pattern": pattern, "seed": seed, "seconds": p.seconds, "rate_mv": p.rate_mv},
        )
        for seed in seeds
    ]


def watch_synapse(a: Mapping[str, Any], report: Report, scratch: Path) -> dict[str, Any]:
    """Learn, then record two blocks of one synapse; the second is shown, the first is its past."""
    import torch

    from snnbench.models.online.updates import Update
    from snnbench.models.superspike import Learner, Settings, initial_weights
    from snnbench.studies.patterns import load_pattern

    settings = Settings(update=Update(rate_mv=a["rate_mv"]))
    pattern = load_pattern(a["pattern"], settings.neuron.dt_s, a["seed"])
    generator = torch.Generator().manual_seed(a["seed"])
    sizes = (pattern.inputs.shape[2], 1)
    weights = initial_weights(sizes, [generator], dtype=torch.float64)
    learner = Learner(weights, settings=settings)
    blocks = round(a["seconds"] / settings.block_s)
    for k in range(blocks):
        learner.run(pattern.inputs, pattern.targets)
        report((k + 1) / (blocks + 2))
    kept, membranes, fired, errors = weights[0].clone(), [], [], []
    for _ in range(2):  # without learning: both blocks have the same weights
        weights[0].copy_(kept)
        done = learner.run(pattern.inputs, pattern.targets)
        membranes.append(done.membranes[0][:, 0, 0].numpy().copy())
        errors.append(done.errors[0][:, 0, 0].numpy().copy())
        fired.append(done.spikes[0][:, 0, 0].numpy().copy())
    gathered = done.gradients[0][0, 0] * settings.steps
    synapse = int(gathered.abs().argmax())
    sent = pattern.inputs[:, 0, synapse].numpy()
    parts = four_parts(
        np.concatenate([sent, sent]), np.concatenate(membranes), np.concatenate(errors)
    )
    shown = {name: x[settings.steps :] for name, x in parts.items()}
    total = float((shown["eligibility"] * errors[1]).sum())
    return {
        "source": pattern.source,
        "synapse": synapse,
        "sum_of_parts": total,
        "gathered": float(gathered[synapse]),
        "difference": abs(total / float(gathered[synapse]) - 1),
        "sent": np.flatnonzero(sent).tolist(),
        "fired": np.flatnonzero(fired[1]).tolist(),
        "targets": pattern.targets[:, 0, 0].nonzero().squeeze(1).tolist(),
        "membrane_mv": membranes[1][::EVERY].tolist(),
        "error": errors[1][::EVERY].tolist(),
        **{name: x[::EVERY].tolist() for name, x in shown.items()},
    }


def four_parts(
    sent: NDArray[np.uint8], membrane_mv: NDArray[np.float64], error: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Presynaptic trace, surrogate, their product, eligibility and gathered change of one synapse, by the
    definition in `snnbench.models.superspike`, one step after the other; inputs (time,), default constants.
    """
    from snnbench.models.online.constants import Neuron

    neuron = Neuron()
    delay, steps = neuron.delay_steps, len(sent)
    names = ("pre", "surrogate", "hebbian", "eligibility", "change")
    parts = {name: np.zeros(steps) for name in names}
    parts["surrogate"] = 1 / (1 + np.abs(membrane_mv - neuron.threshold_mv)) ** 2
    first = second = raw = eligibility = change = 0.0
    for n in range(steps):
        parts["pre"][n] = second if second > 1e-7 else 0.0
        if n >= delay:
            parts["hebbian"][n] = parts["pre"][n - delay] * parts["surrogate"][n - delay]
        raw += parts["hebbian"][n]
        eligibility += DT_S / 10e-3 * (raw - eligibility)
        raw *= np.exp(-DT_S / 5e-3)
        change += eligibility * error[n]
        parts["eligibility"][n], parts["change"][n] = eligibility, change
        second += DT_S / neuron.tau_mem_s * (first - second)
        first = first * neuron.decay_syn + (sent[n - delay] if n >= delay else 0)
    return parts


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Of the first seed what is drawn, of all seeds how well the parts add up."""
    first = results[0][1]
    small = ("synapse", "sum_of_parts", "gathered")
    return {
        "data": first["source"],
        **{name: first[name] for name in small},
        "largest_difference": max(r["difference"] for _, r in results),
        "_shown": first,
    }


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """Whether parts and learner agree."""
    return Verdict(
        numbers["largest_difference"] < AGREE_WITHIN,
        f"Eligibility times error, summed step by step, is what the learner gathered to "
        f"{numbers['largest_difference']:.1e} (synapse {numbers['synapse']}: {numbers['gathered']:.3e}).",
    )


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Four panels of one synapse, and the change that comes of them."""
    shown = numbers["_shown"]
    ms = np.arange(len(shown["pre"])) * EVERY * DT_S * 1e3
    figure = titled_figure(
        7.2,
        7.4,
        "The four parts of SuperSpike at one synapse",
        f"Half a second after {p.seconds:g} s of learning; bands: where the neuron should fire",
        numbers["data"],
    )
    grid = figure.subplots(5, 1, sharex=True)
    for axes in grid:
        for t in shown["targets"]:
            axes.axvspan(t * DT_S * 1e3 - 2, t * DT_S * 1e3 + 2, color=ORANGE, alpha=0.15, lw=0)
    grid[0].plot(ms, shown["pre"], color=BLUE)
    grid[0].set_title("1  presynaptic trace, ε ∗ S")
    for t in shown["sent"]:
        grid[0].plot([t * DT_S * 1e3] * 2, [-0.05, -0.01], color=INK, lw=1)
    grid[1].plot(ms, shown["membrane_mv"], color=QUIET, lw=0.8)
    grid[1].axhline(-50, color=QUIET, lw=0.6, ls=":")
    grid[1].set_ylabel("mV", color=QUIET)
    own = grid[1].twinx()
    own.plot(ms, shown["surrogate"], color=PINK)
    own.set_ylim(0, 1.05)
    own.set_ylabel("σ′", color=PINK)
    grid[1].set_title("2  membrane (grey) and its nonlinearity, σ′(U)")
    grid[2].plot(ms, shown["error"], color=ORANGE)
    grid[2].axhline(0, color=QUIET, lw=0.6)
    grid[2].set_title("3  third factor: the error, missing minus wrong spikes, filtered")
    grid[3].plot(ms, shown["eligibility"], color=GREEN)
    grid[3].set_title(
        "4  eligibility trace, α ∗ (σ′(U) ε ∗ S): a slow memory of the product of 1 and 2"
    )
    start = shown["change"][0]
    grid[4].plot(ms, np.asarray(shown["change"]) - start, color=INK)
    grid[4].axhline(0, color=QUIET, lw=0.6)
    grid[4].set_title("gathered: sum of 3 times 4, which moves the weight at the end")
    grid[4].set_xlabel("time in the loop (ms)")
    grid[4].set_xlim(0, ms[-1])
    return {"": figure}


STUDY = Study(
    name="four-factors",
    shows="the four parts of the rule at one synapse, and that they add up",
    source="Talk, slide on the rule's parts; Zenke & Ganguli 2018, eq. 10",
    criterion="eligibility times error, summed step by step by the definition, agrees with what the learner"
    " gathered to 1e-6 relative, for every seed",
    parameters=Parameters(),
    seeds=5,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"seconds": 1.0},
)
