"""How much more two workers do than one: a conversion, a bench and a sweep as commands, in turn, in one run.

    python benchmarks/growth.py [--workers 1 2] [--rounds 3]

Synthetic speech is converted, then trained on, so nothing is downloaded but what the recipe names. Times are
of whole commands, start of Python included, which weighs more the shorter the work is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASK, MODEL = "digits-synthetic", "rec-lif"


def commands(folder: Path, workers: int, n: int) -> dict[str, list[str]]:
    """By kind of work; what they write is named after `n`."""
    data = str(folder / "data.h5")
    told = ["--workers", str(workers), "--out", str(folder / f"{n}.h5")]
    run = [TASK, MODEL, "--data", data, "--no-track", *told[:3], str(folder / f"{n}")]
    return {
        "conversion": ["data", "convert", TASK, *told],
        "bench, 4 seeds": ["bench", *run, "--seeds", "4", "--set", "train.epochs=20"],
        "sweep, 16 trials": [
            *("sweep", "run", *run, "--trials", "16", "--sampler", "random", "--pruner", "none"),
            *("--set", "train.epochs=5", "--set", "train.batch_size=64"),
        ],
    }


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """What the command takes; it must end well."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "snnbench", *command],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "SNNBENCH_HOME": str(folder / "home")}
        seconds(["data", "convert", TASK, "--out", str(folder / "data.h5")], environment)
        for turn in range(arguments.rounds):
            for workers in arguments.workers:
                for kind, command in commands(folder, workers, 100 * turn + workers).items():
                    found.setdefault((kind, workers), []).append(seconds(command, environment))
    for kind in dict.fromkeys(kind for kind, _ in found):
        one = found[kind, arguments.workers[0]]
        for workers in arguments.workers:
            times = found[kind, workers]
            gains = [a / b for a, b in zip(one, times, strict=True)]
            print(
                f"{kind:18} {workers} workers: {statistics.median(times):6.1f} s"
                f" ({min(times):.1f} to {max(times):.1f}), throughput x {statistics.median(gains):.2f}"
            )


if __name__ == "__main__":
    main()
