"""Time of a training step, beside other libraries in one run.

    python benchmarks/training.py [--peers-python PYTHON] [--case 256x100x128 ...] [--rounds 7]
                                  [--only NAME ...] [--threads 2] [--json FILE]

One step of a recurrent network of spiking neurons on one batch (benchmarks/peers/contender.py tells the
task): from the batch as a library likes it best, made before, to the updated weights. What a batch of events
costs to make is printed by itself.

Every contender has a process of its own, and only one of them works at a time; the others sleep. In each
round all take their turn, in an order that moves on by one with every round, and a figure is the median over
all steps; the first steps of each turn do not count. What compiles does so before, and is told apart.
Processor time adds up all threads: much less of it than time on the clock means that somebody else was using
the machine.

The time of ours depends on how much there is to do. So all hidden layers are first brought to one rate, a
spike in 5 % of bins; it is printed as it was before and after.

Other libraries need an environment of their own: see benchmarks/peers/requirements.txt. What is not
installed is said and left out.

On a GPU:

    python benchmarks/training.py --device cuda [--replicas 10]

Memory of ours, at its peak, in processes of their own:

    python benchmarks/training.py --memory --case 256x1000x1024 [--recompute-steps 50]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from peers.contender import HIDDEN_RATE, Case, Options
from peers.crew import Worker, WorkerError
from peers.roster import ROSTER, on_device

from snnbench.environment import git_state, processor_name

CASES = ("256x100x128", "256x250x128", "64x1000x128", "64x100x1024", "256x100x256")


class Figures(NamedTuple):
    """What was measured of a contender, or why it was not."""

    seconds: tuple[float, ...] = ()
    """Of every timed step."""
    cpu_seconds: tuple[float, ...] = ()
    """The same, of all threads on processors together."""
    rate_before: float = 0.0
    rate_after: float = 0.0
    compile_s: float = 0.0
    csr_ms: float | None = None
    """Time to make a batch of events."""
    versions: dict[str, str] = {}  # noqa: RUF012
    error: str = ""

    @property
    def median_ms(self) -> float:
        """Of all steps; nan without any."""
        return 1e3 * statistics.median(self.seconds) if self.seconds else math.nan


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse arguments, measure, print."""
    options = parse(arguments)
    print(header(options), flush=True)
    if options.memory:
        for case in options.case:
            print_memory(case, options)
        return
    results = {}
    for case in options.case:
        results[case] = measure(case, options)
        print(case_table(case, results[case]), flush=True)
    print(summary(results))
    if options.json:
        options.json.write_text(json.dumps(as_json(results, options), indent=1) + "\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = [Case.parse(text) for text in CASES]
    sizes = {"type": Case.parse, "metavar": "BATCHxSTEPSxHIDDEN"}
    parser.add_argument("--case", nargs="+", default=cases, **sizes)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="that each may use")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=ROSTER, help="contenders")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--replicas", type=int, default=1, help="networks of ours at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all times, for machines")
    parser.add_argument("--memory", action="store_true", help="peak memory of ours instead")
    parser.add_argument("--recompute-steps", type=int, default=50, help="with --memory")
    options = parser.parse_args(arguments)
    options.only = options.only or on_device(options.device)
    return options


def measure(case: Case, options: argparse.Namespace) -> dict[str, Figures]:
    """Figures of all contenders for one case."""
    figures: dict[str, Figures] = {}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in options.only:
            log(f"{case}: setting up {name}")
            worker = stack.enter_context(Worker(name, python_of(name, options), options.threads))
            try:
                figures[name] = set_up(worker, case, options)
                workers[name] = worker
            except WorkerError as error:
                figures[name] = Figures(error=str(error))
        for number in range(options.rounds):
            log(f"{case}: round {number + 1} of {options.rounds}")
            for name in rotated(list(workers), number):
                figures[name] = take_turn(workers[name], figures[name])
                if figures[name].error:
                    del workers[name]
        for name, worker in workers.items():
            figures[name] = checked(figures[name]._replace(rate_after=worker.rate()))
    return figures


def checked(figures: Figures) -> Figures:
    """The figures, if the network still does as much as before: one whose weights diverged does not."""
    before, after = figures.rate_before, figures.rate_after
    if abs(after - before) <= 0.1 * before:
        return figures
    return Figures(error=f"the hidden rate went from {before:.4f} to {after:.4f} while training")


def set_up(worker: Worker, case: Case, options: argparse.Namespace) -> Figures:
    """Build a contender in its process."""
    wanted = Options(device=options.device, replicas=options.replicas)
    answer = worker.set_up(case, wanted)
    return Figures(
        rate_before=answer["rate"],
        compile_s=answer["compile_s"],
        csr_ms=answer["csr_ms"],
        versions=answer["versions"],
    )


def take_turn(worker: Worker, figures: Figures) -> Figures:
    """The figures with some more steps; or the error, if there was one."""
    try:
        seconds, cpu_seconds = worker.take_turn()
    except WorkerError as error:
        return Figures(error=str(error))
    return figures._replace(
        seconds=(*figures.seconds, *seconds), cpu_seconds=(*figures.cpu_seconds, *cpu_seconds)
    )


def rotated(names: list[str], by: int) -> list[str]:
    """The names, beginning with another one each time."""
    start = by % len(names) if names else 0
    return names[start:] + names[:start]


def python_of(name: str, options: argparse.Namespace) -> str:
    """The interpreter that a contender needs: peers have their own, loops run with ours."""
    return str(options.peers_python if ROSTER[name].kind == "peer" else sys.executable)


def print_memory(case: Case, options: argparse.Namespace) -> None:
    """Peak memory of ours for a case, with and without recomputation."""
    for steps in (None, options.recompute_steps):
        with Worker("ours", sys.executable, options.threads) as worker:
            worker.set_up(case, Options(recompute_steps=steps))
            milliseconds = 1e3 * statistics.median(worker.take_turn()[0])
            peak = worker.peak_mib() / 1024
        how = f"recomputing {steps} steps at a time" if steps else "keeping everything"
        print(f"{case}, {how}: {peak:.2f} GiB at the peak, {milliseconds:.0f} ms a step")


def header(options: argparse.Namespace) -> str:
    """Where and how it was measured."""
    commit, dirty = git_state(Path(__file__).resolve().parent)
    together = f", {options.replicas} networks of ours at once" if options.replicas > 1 else ""
    return (
        f"{processor_name()}, {os.cpu_count()} processors, {options.threads} threads,"
        f" device {options.device}{together}, load {os.getloadavg()[0]:.1f} before; Python"
        f" {platform.python_version()}, commit {(commit or 'unknown')[:12]}"
        f"{' and changes' if dirty else ''}"
    )


def case_table(case: Case, figures: dict[str, Figures]) -> str:
    """One row for each contender, fastest first, as a Markdown table."""
    ours = figures["ours"].median_ms if "ours" in figures else math.nan
    lines = [
        f"\n{case.batch} samples, {case.steps} steps, {case.hidden} hidden units\n",
        "| contender | ms a step | quartiles | to ours | processor ms | rate % before, after"
        " | compiling, s | how |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    ranked = sorted(figures, key=lambda name: (bool(figures[name].error), figures[name].median_ms))
    for name in ranked:
        found, note = figures[name], ROSTER[name].note
        if found.error:
            lines.append(f"| {name} | - | | | | | | {found.error} |")
            continue
        low, high = quartiles_ms(found.seconds)
        lines.append(
            f"| {name} | {found.median_ms:.1f} | {low:.1f} to {high:.1f}"
            f" | {times(found.median_ms / ours)}"
            f" | {1e3 * statistics.median(found.cpu_seconds):.1f}"
            f" | {100 * found.rate_before:.2f}, {100 * found.rate_after:.2f}"
            f" | {found.compile_s:.1f} | {note} {version_of(name, found)} |"
        )
    csr = [f.csr_ms for f in figures.values() if f.csr_ms is not None]
    if csr:
        lines.append(f"\nA batch of events is made in {statistics.median(csr):.1f} ms.")
    return "\n".join(lines)


def quartiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    """The middle half of all steps."""
    if len(seconds) < 2:
        return 1e3 * seconds[0], 1e3 * seconds[0]
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return 1e3 * low, 1e3 * high


def version_of(name: str, figures: Figures) -> str:
    """Version of the library that a peer stands for."""
    package = ROSTER[name].packages[0]
    return f"({package} {figures.versions[package]})" if package in figures.versions else ""


def summary(results: dict[Case, dict[str, Figures]]) -> str:
    """Ours beside the best of all others and beside the loops."""
    lines = [
        "\n| batch, steps, hidden | ours, ms | best other | best other / ours | loop / ours"
        " | loop, unbind / ours |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for case, figures in results.items():
        ms = {name: found.median_ms for name, found in figures.items() if not found.error}
        ours = ms.get("ours", math.nan)
        others = {name: t for name, t in ms.items() if ROSTER[name].kind != "ours"}
        best = min(others, key=lambda name: others[name], default="")
        found = f"{best}, {others[best]:.1f} ms" if best else ""
        ratios = [times(ms.get(name, math.nan) / ours) for name in (best, "loop", "loop, unbind")]
        sizes = f"{case.batch}, {case.steps}, {case.hidden}"
        lines.append(f"| {sizes} | {ours:.1f} | {found} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def times(ratio: float) -> str:
    """A ratio to ours; nothing where either was not measured."""
    return "" if math.isnan(ratio) else f"{ratio:.1f} x"


def as_json(results: dict[Case, dict[str, Figures]], options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured."""
    cases = {
        str(case): {
            name: {"error": found.error}
            if found.error
            else {"median_ms": found.median_ms, **found._asdict()}
            for name, found in figures.items()
        }
        for case, figures in results.items()
    }
    settings = {"threads": options.threads, "device": options.device, "rounds": options.rounds}
    return {"where": header(options), **settings, "hidden_rate": HIDDEN_RATE, "cases": cases}


def log(text: str) -> None:
    """Progress, away from the answer."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
