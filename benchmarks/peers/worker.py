"""A process that trains one contender when asked to.

    python -m peers.worker NAME --threads 2

Requests come on standard input and answers go to standard output, one JSON object a line:

    {"setup": {"case": [256, 100, 128], "options": {}}}  ->  {"rate", "compile_s", "csr_ms", "versions"}
    {"turn": true}                                       ->  {"seconds": [...], "cpu_seconds": [...]}
    {"rate": true}                                       ->  {"rate"}
    {"peak": true}                                       ->  {"peak_mib"}

A turn begins with steps that do not count: a process that has slept finds its memory and the processor's
caches cold. An answer {"error": TEXT} ends the process, and so does the end of its input. Between requests
it sleeps in a read, so that of several workers only the one that was asked uses the processor.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import importlib.util
import json
import os
import resource
import sys
import time
import traceback
from typing import Any, TextIO

from peers.contender import Case, Contender, Data, Options, settle_rate
from peers.roster import ROSTER, Entry

INSTALL = (
    "pip install -r benchmarks/peers/requirements.txt,"
    " then pip install --no-deps -r benchmarks/peers/requirements-no-deps.txt"
)

COLD_STEPS = 3
COLD_S = 1.0
"""A turn begins with at least so many steps, for at least so long, that do not count."""
TURN_STEPS = 5
TURN_S = 1.5
"""Then come so many that do, or fewer once this time has passed."""


def main() -> None:
    """Answer requests until there are no more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=ROSTER)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    answers = _own_stdout()
    keep_to(arguments.threads, with_torch="torch" in ROSTER[arguments.name].packages)
    contender: Contender | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "setup" in request:
                contender, answer = set_up(ROSTER[arguments.name], request["setup"])
            else:
                assert contender, "setup comes first"
                answer = respond(contender, request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
        if "error" in answer:
            return


def keep_to(threads: int, *, with_torch: bool) -> None:
    """Use so many threads: PyTorch is told, JAX takes as many as there are processors allowed."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if with_torch and importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
        # gradients that fade to denormal numbers would slow PyTorch down; JAX flushes them anyway
        torch.set_flush_denormal(True)


def set_up(entry: Entry, request: dict[str, Any]) -> tuple[Contender, dict[str, Any]]:
    """Build the contender, bring it to the common rate, and take two steps, which compile."""
    missing = [name for name in entry.packages if _version(name) is None]
    if missing:
        raise ModuleNotFoundError(f"not installed: {', '.join(missing)}; {INSTALL}")
    case = Case(*request["case"])
    options = Options(**{**request["options"], **entry.options})
    build = getattr(importlib.import_module(f"peers.{entry.module}"), entry.function)
    contender = build(case, Data.draw(case), options)
    rate = settle_rate(contender)
    (first, _), (second, _) = timed(contender), timed(contender)
    answer = {
        "rate": rate,
        "compile_s": contender.compile_s + max(0.0, first - second),
        "csr_ms": contender.csr_ms,
        "versions": {name: _version(name) for name in entry.packages},
    }
    # what is there now stays: the collector need not look through a library's objects in the middle of steps
    gc.collect()
    gc.freeze()
    return contender, answer


def respond(contender: Contender, request: dict[str, Any]) -> dict[str, Any]:
    """Answer anything but setup."""
    if "turn" in request:
        return take_turn(contender)
    if "rate" in request:
        return {"rate": contender.rate()}
    if "peak" in request:
        return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    raise ValueError(f"unknown request {request}")


def take_turn(contender: Contender) -> dict[str, list[float]]:
    """Times of some steps, after some that do not count."""
    cold: list[float] = []
    while len(cold) < COLD_STEPS or sum(cold) < COLD_S:
        cold.append(timed(contender)[0])
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    while len(seconds) < TURN_STEPS and sum(seconds) < TURN_S:
        taken, of_processors = timed(contender)
        seconds.append(taken)
        cpu_seconds.append(of_processors)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def timed(contender: Contender) -> tuple[float, float]:
    """Seconds that a training step takes: on the clock, and of all threads on processors together."""
    started, started_cpu = time.perf_counter(), time.process_time()
    contender.step()
    return time.perf_counter() - started, time.process_time() - started_cpu


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _own_stdout() -> TextIO:
    """Standard output for answers only: whatever a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    main()
