"""One neuron learns five spike times from frozen noise (Zenke & Ganguli 2018, fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from snnbench.plots import ORANGE, QUIET, titled_figure
from snnbench.studies import raster_plots
from snnbench.studies.pattern_learning import TRACE_EVERY_S, learn, task
from snnbench.studies.patterns import five_spikes
from snnbench.studies.runner import mean_and_interval
from snnbench.studies.study import Data, Job, Study, Verdict

DT_S = 1e-4
JUDGED_AT_S, BELOW, SHARE = 250.0, 10.0, 0.8


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    seconds: float = 800.0
    rate_mv: float = 0.5
    seeds_in_a_job: int = 10


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """Some seeds side by side in each."""
    pattern = five_spikes(data)
    groups = [seeds[k : k + p.seeds_in_a_job] for k in range(0, len(seeds), p.seeds_in_a_job)]
    return [
        Job(
            f"seeds-{group[0]}-{group[-1]}",
            learn,
            task(
                pattern,
                seeds=group,
                hidden=(),
                seconds=p.seconds,
                rate_mv=p.rate_mv,
                traces_s=(0.0, JUDGED_AT_S, p.seconds - 1) if 0 in group else (),
            ),
        )
        for group in groups
    ]


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Curves, the distance at 250 s, hits at the end."""
    first = results[0][1]
    metric = [curve for _, r in results for curve in r["metric"]]
    hits = [h for _, r in results for h in r["hits"]]
    at = int(np.argmin(np.abs(np.asarray(first["times_s"]) - JUDGED_AT_S)))
    judged = [curve[at] for curve in metric]
    return {
        "data": first["source"],
        "metric_at_250_s": judged,
        "below_10": sum(x < BELOW for x in judged),
        "metric_at_start": mean_and_interval([curve[0] for curve in metric]),
        "metric_at_end": mean_and_interval([curve[-1] for curve in metric]),
        "hit_share_at_end": mean_and_interval(hits),
        "times_s": first["times_s"],
        "metric": metric,
        "_traces": first["traces"],
        "_targets": first["targets"],
    }


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """By the distance at 250 s."""
    below, of = numbers["below_10"], len(numbers["metric_at_250_s"])
    median = float(np.median(numbers["metric_at_250_s"]))
    hits = numbers["hit_share_at_end"]["mean"]
    return Verdict(
        below >= SHARE * of,
        f"After 250 s the distance is below 10 in {below} of {of} seeds (median {median:.1f}, silent 40);"
        f" at the end {hits:.0%} of target spikes are hit within 2 ms.",
    )


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Learning curves of all seeds; membrane, spikes and error of one before, during and after."""
    seeds = len(numbers["metric"])
    figure = titled_figure(
        7.2,
        3.6,
        "Five precise spike times, one neuron",
        f"{seeds} seeds and their median",
        numbers["data"],
    )
    axes = figure.subplots()
    raster_plots.curves(axes, {"": (numbers["times_s"], numbers["metric"])}, each=True)
    axes.axvline(JUDGED_AT_S, color=QUIET, lw=0.7, ls=":")
    axes.text(JUDGED_AT_S + 5, axes.get_ylim()[1] * 0.95, "judged here", color=QUIET, va="top")
    traces = numbers["_traces"]
    panels = titled_figure(
        7.2,
        1.75 * len(traces) + 1,
        "Membrane, spikes and error of one neuron",
        "Bands: where a spike should be. Dotted: threshold. Orange: the error trace, in its own scale",
        numbers["data"],
    )
    grid = panels.subplots(len(traces), 1, sharex=True, squeeze=False)[:, 0]
    for k, (axes, trace) in enumerate(zip(grid, traces, strict=True)):
        raster_plots.membrane(axes, trace, numbers["_targets"], DT_S, TRACE_EVERY_S)
        error = np.asarray(trace["error"])
        own = axes.twinx()
        own.plot(np.arange(len(error)) * TRACE_EVERY_S * 1e3, error * 1e3, color=ORANGE, lw=0.9)
        own.set_ylim(-16, 16)
        axes.set_xlim(0, len(error) * TRACE_EVERY_S * 1e3)
        own.set_ylabel("error × 1000", color=ORANGE)
        own.spines["right"].set_visible(True)
        axes.set_title(f"after {trace['time_s']:g} s" if k else "before learning")
    grid[-1].set_xlabel("time in the loop (ms)")
    return {"": figure, "membranes": panels}


STUDY = Study(
    name="superspike-single",
    shows="one neuron learns five precise spike times",
    source="Zenke & Ganguli 2018, fig. 2",
    criterion="after 250 s the van Rossum distance is below 10 (a silent neuron has 40) in at least 80 % of"
    " the seeds",
    parameters=Parameters(),
    seeds=20,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"seconds": 20.0},
)
