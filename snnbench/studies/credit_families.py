"""One task and one table for the families of credit assignment that the talk goes through.

Four classes of frozen latency patterns: 40 inputs fire once each within 50 ms, with jitter at every
presentation; test presentations come from other random numbers. Some families have a single layer by
construction. Online rules see their presentations one after the other; the others in batches. Families also
decide differently: some by spikes, some by membranes, which is easier. The table says which.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from snnbench.plots import BLUE, GREEN, INK, ORANGE, QUIET, titled_figure
from snnbench.studies import raster_plots
from snnbench.studies.runner import mean_and_interval
from snnbench.studies.study import Data, Job, Report, Study, Verdict

if TYPE_CHECKING:
    from torch import Tensor

INPUTS, CLASSES, HIDDEN, WITHIN_S = 40, 4, 16, 50e-3
ABOVE, BESIDE = 0.6, 0.03


@dataclass(frozen=True)
class Family:
    """A way to learn the task."""

    learn: Callable[[Mapping[str, Any], Report], float]
    hidden: int
    online: bool
    decides: str
    """What of the outputs tells the class at test."""
    source: str


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    jitter_s: float = 12e-3
    presentations: int = 2000
    """In a pass; batch learners make several."""
    passes: int = 20
    online_s: float = 600.0
    """Biological time of the online rules, about ten presentations a second."""


class Presentations:
    """Jittered spike times of frozen patterns, from a seed; test and training differ in `stream`."""

    def __init__(self, seed: int, jitter_s: float, stream: int) -> None:
        import torch

        frozen = torch.Generator().manual_seed(seed)
        self.patterns = (
            torch.rand(CLASSES, INPUTS, generator=frozen, dtype=torch.float64) * WITHIN_S
        )
        self._jitter_s = jitter_s
        self._generator = torch.Generator().manual_seed(1000 * (seed + 1) + stream)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Times (sample, input) in s, and labels."""
        import torch

        labels = torch.randint(CLASSES, (count,), generator=self._generator)
        noise = torch.randn(count, INPUTS, generator=self._generator, dtype=torch.float64)
        return (self.patterns[labels] + self._jitter_s * noise).clamp(0, WITHIN_S), labels


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One for each family and seed."""
    told = {
        "jitter_s": p.jitter_s, "presentations": p.presentations, "passes": p.passes,
        "online_s": p.online_s,
    }  # fmt: skip
    return [
        Job(f"{name.replace(' ', '-')}-{seed}", learn, {"family": name, "seed": seed, **told})
        for name in FAMILIES
        for seed in seeds
    ]


def learn(a: Mapping[str, Any], report: Report, scratch: Path) -> dict[str, Any]:
    """Accuracy on 1000 test presentations, and seconds of learning."""
    started = time.process_time()
    accuracy = FAMILIES[a["family"]].learn(a, report)
    return {"accuracy": accuracy, "seconds": time.process_time() - started}


def _data(a: Mapping[str, Any]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    train = Presentations(a["seed"], a["jitter_s"], 1).draw(a["presentations"])
    return train, Presentations(a["seed"], a["jitter_s"], 2).draw(1000)


def _batches(a: Mapping[str, Any], report: Report, size: int = 50) -> Any:
    import torch

    generator = torch.Generator().manual_seed(a["seed"])
    for k in range(a["passes"]):
        yield from torch.randperm(a["presentations"], generator=generator).split(size)
        report((k + 1) / a["passes"])


def _single_layer(a: Mapping[str, Any], report: Report, *, escape: bool) -> float:
    """Tempotron or escape noise: one layer on evoked potentials in steps of 1 ms."""
    import torch

    from snnbench.models.credit_escape import draw_spikes, escape_step
    from snnbench.models.credit_tempotron import potentials, tempotron_scores, tempotron_step
    from snnbench.seeding import make_generator

    (times, labels), (test_times, test_labels) = _data(a)
    grid = torch.arange(1, 81, dtype=torch.float64) * 1e-3
    evoked = potentials(times, grid)
    generator = make_generator(a["seed"], "init")  # of numbers that are not those of the patterns
    weights = 0.1 * torch.randn(CLASSES, INPUTS, generator=generator, dtype=torch.float64)
    for rows in _batches(a, report):
        if escape:
            weights += escape_step(weights, evoked[rows], labels[rows], 1e-3, rate=0.02)
        else:
            weights += tempotron_step(weights, evoked[rows], labels[rows], rate=0.05)
    shown = potentials(test_times, grid)
    if not escape:
        return _share(tempotron_scores(weights, shown), test_labels)
    counts = draw_spikes(weights, shown, 1e-3, generator)
    return _share(counts, test_labels, among=counts.any(1))


def _spike_times(a: Mapping[str, Any], report: Report) -> float:
    import torch

    from snnbench.models.credit_spike_times import first_spikes, loss_of, weight_cost
    from snnbench.seeding import make_generator

    (times, labels), (test_times, test_labels) = _data(a)
    tau_s = 20e-3
    z, test_z = torch.exp(times / tau_s), torch.exp(test_times / tau_s)
    generator = make_generator(a["seed"], "init")
    layers = [
        (3 / n + torch.randn(m, n, generator=generator, dtype=torch.float64) / n**0.5)
        .requires_grad_(True)
        for m, n in ((HIDDEN, INPUTS), (CLASSES, HIDDEN))
    ]  # fmt: skip
    optimiser = torch.optim.Adam(layers, lr=5e-3)
    for rows in _batches(a, report):
        out = first_spikes(first_spikes(z[rows], layers[0]), layers[1])
        loss = loss_of(out, labels[rows]) + 10 * sum(weight_cost(w) for w in layers)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(layers, 10.0)
        optimiser.step()
    with torch.no_grad():
        out = first_spikes(first_spikes(test_z, layers[0]), layers[1])
    return _share(-out, test_labels)


def _eventprop(a: Mapping[str, Any], report: Report) -> float:
    import torch

    from snnbench.models.credit_eventprop import loss_of, spike_times
    from snnbench.seeding import make_generator

    (times, labels), (test_times, test_labels) = _data(a)
    generator = make_generator(a["seed"], "init")
    layers = [
        (mean + sd * torch.randn(m, n, generator=generator, dtype=torch.float64))
        .requires_grad_(True)
        for m, n, mean, sd in ((HIDDEN, INPUTS, 0.3, 0.5), (CLASSES, HIDDEN, 0.8, 0.8))
    ]  # fmt: skip
    optimiser = torch.optim.Adam(layers, lr=2e-3)
    for rows in _batches(a, report):
        out = spike_times(spike_times(times[rows][..., None], layers[0]), layers[1])
        optimiser.zero_grad()
        loss_of(out, labels[rows]).backward()
        optimiser.step()
    with torch.no_grad():
        first = spike_times(spike_times(test_times[..., None], layers[0]), layers[1])[..., 0]
    return _share(-first, test_labels, among=first.isfinite().any(1))


def _bptt(a: Mapping[str, Any], report: Report) -> float:
    import torch

    from snnbench.model_spec import ModelSpec
    from snnbench.models.network import build
    from snnbench.seeding import make_generator

    (times, labels), (test_times, test_labels) = _data(a)
    spec = ModelSpec.model_validate(
        {
            "name": "credit-families",
            "hidden": [HIDDEN],
            "neuron": {"kind": "lif", "tau_mem_s": 10e-3, "tau_syn_s": 5e-3},
            "surrogate": {"kind": "superspike", "slope": 10.0},
            "readout": {"kind": "leaky", "tau_mem_s": 20e-3, "tau_syn_s": 5e-3},
            "input_gain": 14.0,
        }
    )
    network = build(spec, INPUTS, CLASSES, 1e-3, make_generator(a["seed"], "init"))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    inputs = _dense(times, 80, 1e-3).float()
    for rows in _batches(a, report):
        loss = torch.nn.functional.cross_entropy(network(inputs[:, rows]).logits, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        return _share(network(_dense(test_times, 80, 1e-3).float()).logits, test_labels)


def _online(a: Mapping[str, Any], report: Report, *, rule: str) -> float:
    """A presentation every 100 ms; the right output should fire within 75 ms, alone."""
    import torch

    from snnbench.models.online.errors import Window, window_errors
    from snnbench.models.online.feedback import Symmetric
    from snnbench.models.online.rules import rule_named
    from snnbench.models.superspike import Learner, Settings, initial_weights
    from snnbench.seeding import make_generator

    settings = Settings(rule=rule_named(rule))
    generators = [make_generator(a["seed"], "init")]
    weights = initial_weights((INPUTS, HIDDEN, CLASSES), generators, w0_mv=100.0)
    learner = Learner(weights, Symmetric(), settings)
    every, window, shown = 1000, 750, settings.steps // 1000
    draws = {stream: Presentations(a["seed"], a["jitter_s"], stream) for stream in (1, 2)}

    def block(stream: int, *, learning: bool, scale: float = 1.0) -> list[bool]:
        times, labels = draws[stream].draw(shown)
        inputs = torch.cat([_dense(t[None], every, 1e-4) for t in times]).to(torch.uint8)
        windows = [[Window(k * every, k * every + window, int(c)) for k, c in enumerate(labels)]]
        done = learner.run(
            inputs, lambda fired: window_errors(fired, windows), learn=learning, rate_scale=scale
        )
        counts = [done.spikes[-1][w.first : w.last, 0].sum(0) for w in windows[0]]
        return [
            bool(c.any()) and int(c.argmax()) == w.unit
            for c, w in zip(counts, windows[0], strict=True)
        ]

    blocks = round(a["online_s"] / settings.block_s)
    for k in range(blocks):
        block(1, learning=True, scale=0.1 if k >= 2 * blocks // 3 else 1.0)
        report((k + 1) / (blocks + 200))
    return float(np.mean([right for _ in range(200) for right in block(2, learning=False)]))


def _dense(times_s: Tensor, steps: int, dt_s: float) -> Tensor:
    """(time, sample, input), one spike each."""
    import torch

    x = torch.zeros(steps, *times_s.shape)
    at = (times_s / dt_s).long().clamp(max=steps - 1)
    x.scatter_(0, at[None], 1.0)
    return x


def _share(scores: Tensor, labels: Tensor, *, among: Tensor | None = None) -> float:
    """Of the samples, those whose largest score is the right one; none where nothing fired."""
    right = scores.argmax(1) == labels
    return float((right if among is None else right & among).double().mean())


def _escape(a: Mapping[str, Any], report: Report) -> float:
    return _single_layer(a, report, escape=True)


def _tempotron(a: Mapping[str, Any], report: Report) -> float:
    return _single_layer(a, report, escape=False)


def _superspike(a: Mapping[str, Any], report: Report) -> float:
    return _online(a, report, rule="superspike")


def _e_prop(a: Mapping[str, Any], report: Report) -> float:
    return _online(a, report, rule="e-prop")


FAMILIES = {
    "escape noise": Family(_escape, 0, False, "most spikes", "Pfister et al. 2006"),
    "tempotron": Family(_tempotron, 0, False, "highest membrane", "Gütig & Sompolinsky 2006"),
    "spike times": Family(_spike_times, HIDDEN, False, "first spike", "Mostafa 2018"),
    "EventProp": Family(_eventprop, HIDDEN, False, "first spike", "Wunderlich & Pehle 2021"),
    "e-prop": Family(_e_prop, HIDDEN, True, "most spikes", "Bellec et al. 2020"),
    "SuperSpike": Family(_superspike, HIDDEN, True, "most spikes", "Zenke & Ganguli 2018"),
    "surrogate BPTT": Family(_bptt, HIDDEN, False, "highest membrane", "Neftci et al. 2019"),
}


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """The table."""
    table: dict[str, Any] = {}
    for name, family in FAMILIES.items():
        mine = [r for job, r in results if job.arguments["family"] == name]
        table[name] = {
            "source": family.source,
            "hidden_units": family.hidden,
            "online": family.online,
            "decides_by": family.decides,
            "accuracy": mean_and_interval([r["accuracy"] for r in mine]),
            "each": [r["accuracy"] for r in mine],
            "seconds": float(np.mean([r["seconds"] for r in mine])),
        }
    return {"data": "generated: four latency patterns with jitter", "families": table}


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """All above 60 %, and surrogate BPTT within 3 points of the best."""
    mean = {name: of["accuracy"]["mean"] for name, of in numbers["families"].items()}
    told = ", ".join(f"{name} {100 * m:.1f}" for name, m in mean.items())
    return Verdict(
        min(mean.values()) > ABOVE and mean["surrogate BPTT"] >= max(mean.values()) - BESIDE,
        f"Test accuracy in % (chance 25): {told}.",
    )


_KINDS = {
    "one layer": GREEN,
    "hidden layer, in batches": BLUE,
    "hidden layer, online": ORANGE,
}


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Bars with every seed as a dot, and below them how each family decides."""
    families = numbers["families"]
    figure = titled_figure(
        8.8,
        4.2,
        "Families of credit assignment on one task",
        "Mean test accuracy, its 95 % interval over seeds, seconds to learn; below, what decides",
        numbers["data"],
    )
    axes = figure.subplots()
    for k, of in enumerate(families.values()):
        _bar(axes, k, of)
    axes.axhline(25, color=QUIET, lw=0.8, ls=(0, (4, 3)))
    axes.annotate(
        "chance 25 %", (1, 25), xycoords=("axes fraction", "data"), xytext=(2, 0),
        textcoords="offset points", va="center", fontsize=7.5, color=QUIET, annotation_clip=False,
    )  # fmt: skip
    axes.set_xticks(range(len(families)), list(families))
    axes.tick_params(axis="x", length=0)
    for k, of in enumerate(families.values()):
        told = "by " + of["decides_by"].replace(" ", "\n") + "\n" + textwrap.fill(of["source"], 15)
        axes.annotate(
            told, (k, 0), xycoords=("data", "axes fraction"), xytext=(0, -18),
            textcoords="offset points", ha="center", va="top", fontsize=7.5, color=QUIET,
        )  # fmt: skip
    axes.set_xlim(-0.6, len(families) - 0.4)
    axes.set_ylim(0, 110)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("Test accuracy (%)")
    entries: list[Any] = [Patch(color=c, alpha=0.5, label=kind) for kind, c in _KINDS.items()]
    entries += axes.plot([], [], "o", ms=3.6, mfc="white", mec=INK, mew=0.8, ls="", label="a seed")
    figure.legend(
        handles=entries, loc="outside lower left", ncols=len(entries), fontsize=8, handlelength=1.2
    )
    return {"": figure}


def _bar(axes: Any, k: int, of: Mapping[str, Any]) -> None:
    """One family at place k."""
    kind = "one layer"
    if of["hidden_units"]:
        kind = "hidden layer, online" if of["online"] else "hidden layer, in batches"
    mean, half = 100 * of["accuracy"]["mean"], 100 * of["accuracy"]["half_width_95"]
    each = 100 * np.asarray(of["each"])
    axes.bar(k, mean, 0.62, color=_KINDS[kind], alpha=0.5)
    if len(each) > 1:
        axes.errorbar(k + 0.12, mean, half, color=INK, lw=1.1, capsize=3, zorder=3)
    spread = raster_plots.spread(len(each), 0.1)
    axes.plot(k - 0.13 + spread, each, "o", ms=3.6, color="white", mec=INK, mew=0.8, zorder=4)
    axes.text(k, 12, f"{mean:.1f}", ha="center", fontsize=8.5)
    axes.text(k, 4, f"{of['seconds']:.0f} s", ha="center", fontsize=7.5, color=QUIET)


STUDY = Study(
    name="credit-families",
    shows="one task, one table: seven rules from the families of credit assignment",
    source="Talk, slide on the history of credit assignment",
    criterion="every family's mean test accuracy is above 60 % (chance 25 %), and surrogate BPTT is at most 3"
    " points below the best",
    parameters=Parameters(),
    seeds=5,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"presentations": 100, "passes": 1, "online_s": 1.0},
    version=2,  # initial weights of all but surrogate BPTT had come from the patterns' random numbers
)
