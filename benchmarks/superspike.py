"""Speed of online learning, beside the rule as plain loops and as Brian2 runs it, in one run on one thread.

    python benchmarks/superspike.py [--rounds 5] [--quick] [--device cuda]

Ours at the sizes of two studies, the picture (200-256-200, random feedback) and the single neuron (100-1, 20
seeds side by side); and everybody at one layer of 200-200, with the same input, targets and weights. Input is
Poisson, 5 Hz for the picture and the single layer and 10 Hz for the single neuron, targets 20 Hz.

The loops are `tests.superspike_reference`, the rule step by step and synapse by synapse in Python, for a few
steps. Brian2 (`tests.superspike_brian`) keeps every variable of every synapse and steps it by its clock. It
is translated to C++ as a whole (cpp_standalone), its fastest way, where there is a compiler, and else run by
NumPy. Both compute in float64; ours in float32, as studies do, and in float64.

In each round all take their turn, one after the other. A figure is the median over turns of steps of all
seeds together in a second of processor time, start and compilation apart. A synaptic update is one step of
one plastic synapse. At the end ours, in float64, and Brian2, which changes weights where the next block
begins, have to have the same ones.

With `--device cuda` ours on the GPU, one seed and many at once, beside ours on one processor core; a figure
is then the median of time on the clock.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the loops and Brian2's version belong to the tests

from snnbench.environment import git_state, processor_name  # noqa: E402
from snnbench.models.online.feedback import make_feedback  # noqa: E402
from snnbench.models.superspike import Learner, initial_weights  # noqa: E402
from tests.brian import import_brian2  # noqa: E402
from tests.superspike_brian import BrianLayer, layer_in_brian  # noqa: E402
from tests.superspike_reference import ReferenceConstants, simulate  # noqa: E402

DT_S, BLOCK = 1e-4, 5000
WARM_UP = 4
"""Blocks of ours that do not count: they compile, and networks find their rates."""
TARGET_HZ = 20.0
TOGETHER = [200, 200]
"""Sizes at which all are compared."""
GPU_SEEDS = (1, 20, 100)
AGREE = 2
"""Blocks after which ours and Brian2 have to have the same weights: the first tells signs only."""


@dataclass
class Contender:
    """Something that learns online; `turn` does so many steps."""

    name: str
    network: str
    synapses: int
    """Plastic ones, of all seeds."""
    turn: Callable[[], object]
    steps: int
    """Of a turn, of all seeds together."""
    seeds: int = 1
    compile_s: float = 0.0
    together: bool = True
    """Whether it is at the size where all are compared."""
    seconds: list[float] = field(default_factory=list)
    """Of each turn: of the processor, or on the clock where a GPU takes part."""

    @property
    def steps_per_s(self) -> float:
        return self.steps / statistics.median(self.seconds)

    @property
    def updates_per_s(self) -> float:
        return self.steps_per_s * self.synapses / self.seeds


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a few seconds; Brian2 by NumPy")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    commit, changed = git_state(ROOT)
    gpu = f"{torch.cuda.get_device_name()}, " if options.device == "cuda" else ""
    print(
        f"{gpu}{processor_name()}, one thread, load {os.getloadavg()[0]:.1f} before; "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"commit {(commit or 'unknown')[:7]}{' and changes' if changed else ''}\n",
        flush=True,
    )
    blocks = 1 if options.quick else 4
    rounds = 1 if options.quick else options.rounds
    if options.device == "cuda":
        sizes = [200, 256, 200]
        contenders = [ours(sizes, 1, 5.0, blocks)]
        contenders += [ours(sizes, n, 5.0, blocks, device="cuda") for n in GPU_SEEDS]
        take_turns(contenders, rounds, time.perf_counter)
        print(table(contenders))
        return
    contenders = [
        ours([200, 256, 200], 1, 5.0, blocks),
        ours([100, 1], 20, 10.0, blocks),
        ours(TOGETHER, 1, 5.0, blocks, together=True),
        ours(TOGETHER, 1, 5.0, blocks, together=True, dtype=torch.float64),
        loops(3 if options.quick else 20),
    ]
    with tempfile.TemporaryDirectory(prefix="snnbench-") as folder:
        brian2, layer = in_brian2(
            100 if options.quick else AGREE * BLOCK + 1, folder, options.quick
        )
        contenders.append(brian2)
        take_turns(contenders, rounds, cpu_seconds)
        print(table(contenders))
        if not options.quick:
            print(f"\n{agreement(layer)}")


def take_turns(contenders: Sequence[Contender], rounds: int, seconds: Callable[[], float]) -> None:
    """All of them, one after the other, in each round."""
    for _ in range(rounds):
        for contender in contenders:
            started = seconds()
            contender.turn()
            contender.seconds.append(seconds() - started)


def ours(
    sizes: Sequence[int], seeds: int, rate_hz: float, blocks: int, *, together: bool = False,
    dtype: torch.dtype = torch.float32, device: str = "cpu",
) -> Contender:  # fmt: skip
    """Our learner, warmed up."""
    generators = [torch.Generator().manual_seed(s) for s in range(seeds)]
    weights = [w.to(device) for w in initial_weights(sizes, generators, dtype=dtype)]
    learner = Learner(weights, make_feedback("random", weights, generators))
    sent = [tensor(poisson(BLOCK, sizes[0], rate_hz, k)).to(device) for k in range(4)]
    wanted = [tensor(poisson(BLOCK, sizes[-1], TARGET_HZ, 100 + k)).to(device) for k in range(4)]

    def turn() -> None:
        for _ in range(blocks):
            k = learner.blocks_done % 4
            learner.run(sent[k], wanted[k])
        if device == "cuda":
            torch.cuda.synchronize()

    while learner.blocks_done < WARM_UP:
        turn()
    shape = "-".join(map(str, sizes)) + (f", {seeds} seeds" if seeds > 1 else "")
    plastic = sum(w.numel() for w in weights)
    name = f"ours, {str(dtype).removeprefix('torch.')}" + (", GPU" if device == "cuda" else "")
    return Contender(
        name, shape, plastic, turn, blocks * BLOCK * seeds, seeds, together=together
    )  # fmt: skip


def loops(steps: int) -> Contender:
    """The rule as it is defined."""
    weights, inputs, targets = same_layer(steps)

    def turn() -> None:
        simulate([weights], inputs, targets, "symmetric", ReferenceConstants())

    return Contender("plain loops", "-".join(map(str, TOGETHER)), weights.size, turn, steps)


def in_brian2(steps: int, folder: str, quick: bool) -> tuple[Contender, BrianLayer]:
    """Brian2, compiled unless there is no compiler or no time; a turn is a run from the beginning."""
    brian = import_brian2()
    weights, inputs, targets = same_layer(steps)
    compiled = not quick and shutil.which("g++") is not None
    if compiled:
        brian.set_device("cpp_standalone", directory=folder, build_on_run=False)
    started = time.perf_counter()
    layer = layer_in_brian(brian, weights, inputs, targets, ReferenceConstants())
    seconds = steps * DT_S * brian.second

    def turn() -> None:
        layer.network.run(seconds, namespace={})

    name = "Brian2, NumPy"
    if compiled:
        turn()  # only says what is to be compiled
        device: Any = brian.get_device()
        device.build(directory=folder, compile=True, run=False, with_output=False)
        name = "Brian2, C++"

        def turn() -> None:
            device.run(directory=folder, with_output=False, run_args=[])
    else:
        layer.network.run(DT_S * brian.second, namespace={})

    compile_s = time.perf_counter() - started
    network = "-".join(map(str, TOGETHER))
    return Contender(name, network, weights.size, turn, steps, compile_s=compile_s), layer


def same_layer(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, inputs and targets of the single layer; `ours` has the same in its first blocks."""
    weights = initial_weights(TOGETHER, [torch.Generator().manual_seed(0)], dtype=torch.float64)
    blocks = range(-(-steps // BLOCK))
    sent = [poisson(BLOCK, TOGETHER[0], 5.0, k) for k in blocks]
    wanted = [poisson(BLOCK, TOGETHER[1], TARGET_HZ, 100 + k) for k in blocks]
    return weights[0][0].numpy(), np.concatenate(sent)[:steps], np.concatenate(wanted)[:steps]


def agreement(layer: BrianLayer) -> str:
    """Whether Brian2's weights are ours after as many blocks."""
    weights, inputs, targets = same_layer(AGREE * BLOCK)
    learner = Learner([torch.from_numpy(weights.copy())[None]])
    for sent, wanted in zip(np.split(inputs, AGREE), np.split(targets, AGREE), strict=True):
        learner.run(tensor(sent), tensor(wanted))
    apart = float(np.abs(learner.weights[0][0].numpy() - layer.weights()).max())
    if not apart < 1e-6:
        raise SystemExit(
            f"Brian2 has other weights than ours after {AGREE} blocks: {apart:.2g} mV apart"
        )
    return f"Weights of ours in float64 and Brian2's after {AGREE} blocks: {apart:.1g} mV apart."


def table(contenders: Sequence[Contender]) -> str:
    """One row each; ratios of updates at the size where all are compared, to ours in float32."""
    lines = [
        "| what | network | plastic synapses | steps a second | synaptic updates a second"
        " | ours / it | compiling, s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    first = next((c for c in contenders if c.together), None)
    for c in contenders:
        ratio = digits(first.updates_per_s / c.updates_per_s) if first and c.together else ""
        compile_s = f"{c.compile_s:.0f}" if c.compile_s else ""
        lines.append(
            f"| {c.name} | {c.network} | {c.synapses:,} | {digits(c.steps_per_s)}"
            f" | {digits(c.updates_per_s)} | {ratio} | {compile_s} |"
        )
    return "\n".join(lines)


def digits(number: float) -> str:
    """Three of them, and thousands apart."""
    scale, word = (1e6, " million") if number >= 1e6 else (1, "")
    rounded = float(f"{number / scale:.3g}")
    return f"{rounded:,.0f}{word}" if rounded >= 100 else f"{rounded:g}{word}"


def poisson(steps: int, units: int, rate_hz: float, seed: int) -> np.ndarray:
    """Spikes (time, unit)."""
    return np.random.default_rng(seed).random((steps, units)) < rate_hz * DT_S


def tensor(spikes: np.ndarray) -> torch.Tensor:
    """(time, 1, unit), uint8."""
    return torch.from_numpy(spikes.astype(np.uint8))[:, None]


def cpu_seconds() -> float:
    """Processor time of this process and of those it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
