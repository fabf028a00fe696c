"""What it costs to hand a job to another process: the local pool beside a Dask LocalCluster, in one run.

    python benchmarks/scheduling.py [--jobs 400] [--workers 2] [--rounds 3]

"Start" is from nothing to the result of a first trivial job; "a job" is the time per further trivial job with
all workers busy. The job is the same function, through the same `snnbench.cluster` interface.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from snnbench.cluster import Cluster, Wire, open_cluster


def nothing(number: int, wire: Wire) -> int:
    """A job without work."""
    return number


@contextmanager
def local(workers: int) -> Iterator[Cluster[Any]]:
    """Our own pool."""
    with open_cluster("local", workers) as cluster:
        yield cluster


@contextmanager
def dask(workers: int) -> Iterator[Cluster[Any]]:
    """A Dask cluster on this machine, started for the purpose."""
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as started,
        open_cluster(started.scheduler_address) as cluster,
    ):
        yield cluster


def measure(kind: Any, workers: int, jobs: int) -> tuple[float, float, float]:
    """Seconds: start to first result, per job, end."""
    results: list[int] = []

    def done(job: int, outcome: int) -> None:
        assert outcome == job
        results.append(job)

    begun = time.perf_counter()
    with kind(workers) as cluster:
        cluster.run(nothing, [0], done=done)
        started = time.perf_counter()
        cluster.run(nothing, range(workers), done=done)  # every process is there
        warm = time.perf_counter()
        cluster.run(nothing, range(jobs), done=done)
        worked = time.perf_counter()
    ended = time.perf_counter()
    assert len(results) == 1 + workers + jobs
    return started - begun, (worked - warm) / jobs, ended - worked


def main() -> None:
    """Print medians over the rounds, local and Dask in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {"local": [], "dask": []}
    for _ in range(arguments.rounds):
        found["local"].append(measure(local, arguments.workers, arguments.jobs))
        found["dask"].append(measure(dask, arguments.workers, arguments.jobs))
    for name, rounds in found.items():
        start, job, end = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:6} start {start:6.2f} s   a job {1000 * job:7.3f} ms   end {end:5.2f} s")


if __name__ == "__main__":
    main()
