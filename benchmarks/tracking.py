"""What tracking costs: epochs with --no-track, with a SQLite store and with a server on this machine.

    python benchmarks/tracking.py --rounds 5

A small network on random spikes, whose epochs take tens of milliseconds, is trained in turn with each,
in one process. Told are the seconds from one epoch's end to the next, and what is paid once a run. The
last line is one sample of MLflow's own system metrics (where psutil is installed) beside ours.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from snnbench.bench import epoch_metrics, run_seed
from snnbench.data_prep.store import SpikeDataset
from snnbench.spec import make_run_spec
from snnbench.tracking import NullTracker, seed_tracker
from snnbench.tracking_store import make_client
from snnbench.train import EpochReport
from tests.mlflow_server import MlflowServer
from tests.tiny_data import make_samples, write_dataset


class Cost(NamedTuple):
    """Of one run, in seconds."""

    per_epoch: list[float]
    in_tracker: list[float]
    """Of every epoch, spent in the tracker alone."""
    begin: float
    finish: float


class _Timed:
    """A tracker whose calls are timed."""

    def __init__(self, tracker: NullTracker) -> None:
        self.tracker = tracker
        self.epochs: list[float] = []
        self.finished_s = 0.0

    def epoch(self, step: int, metrics: dict[str, float]) -> None:
        started = time.perf_counter()
        self.tracker.epoch(step, metrics)
        self.epochs.append(time.perf_counter() - started)

    def finish(self, record: object) -> None:
        started = time.perf_counter()
        self.tracker.finish(record)  # type: ignore[arg-type]
        self.finished_s = time.perf_counter() - started


def run(data: Path, runs: Path, uri: str | None, epochs: int) -> Cost:
    """Train once; uri None tracks nothing."""
    ends: list[float] = []

    def on_epoch(report: EpochReport) -> None:
        assert epoch_metrics(report)
        ends.append(time.perf_counter())

    with SpikeDataset.open(data) as dataset:
        spec = make_run_spec(
            "hd",
            "ff-lif",
            seed=0,
            data_fingerprint=dataset.fingerprint,
            overrides={"model.hidden": [64], "train.epochs": epochs, "train.batch_size": 64},
        )
        folder = Path(tempfile.mkdtemp(dir=runs))
        tracker = seed_tracker(spec, folder, uri) if uri else NullTracker()
        started = time.perf_counter()
        with tracker:
            begun = time.perf_counter()
            timed = _Timed(tracker)
            run_seed(
                spec,
                dataset,
                folder=folder,
                device=torch.device("cpu"),
                tracker=timed,  # type: ignore[arg-type]
                on_epoch=on_epoch,
            )
            ending = time.perf_counter()
        finish = timed.finished_s + time.perf_counter() - ending
    gaps = [b - a for a, b in itertools.pairwise(ends)]
    return Cost(gaps, timed.epochs, begun - started, finish)


def system_sample(uri: str) -> None:
    """One sample of MLflow's own system metrics, and of ours."""
    started = time.perf_counter()
    for _ in range(1000):
        resource.getrusage(resource.RUSAGE_SELF)
        time.process_time()
    print(f"ours, one epoch: {(time.perf_counter() - started) * 1e3:.2f} us")
    try:
        import psutil  # type: ignore[import-untyped]  # noqa: F401
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    except ImportError:
        print("psutil is not installed: MLflow's own system metrics are not measured")
        return
    from mlflow.entities import Metric

    client = make_client(uri)
    run_id = client.create_run("0").info.run_id
    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for step in range(20):
        started = time.perf_counter()
        for monitor in monitors:
            monitor.collect_metrics()
        collected = time.perf_counter()
        values = {k: v for m in monitors for k, v in m.aggregate_metrics().items()}
        metrics = [Metric(key, value, 0, step) for key, value in values.items()]
        client.log_batch(run_id, metrics=metrics)
        ended = time.perf_counter()
    print(
        f"MLflow's own, one sample of {len(values)} figures: {(collected - started) * 1e3:.2f} ms to"
        f" collect, {(ended - collected) * 1e3:.2f} ms to log, in a thread beside training"
    )


def main() -> None:
    """Run in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        splits = {
            "train": make_samples("train", 256, 0),
            "valid": make_samples("valid", 64, 2),
            "test": make_samples("test", 64, 3),
        }
        data = write_dataset(folder / "hd.h5", splits)
        sqlite = f"sqlite:///{folder}/mlflow.db"
        server = MlflowServer(folder / "server")
        server.start()
        ways = {"--no-track": None, "SQLite": sqlite, "server on loopback": server.url}
        costs: dict[str, list[Cost]] = {way: [] for way in ways}
        try:
            for uri in ways.values():
                run(data, folder, uri, 2)  # imports, tables, compiled kernels
            for n in range(arguments.rounds):
                order = list(ways) if n % 2 == 0 else list(ways)[::-1]
                for way in order:
                    costs[way].append(run(data, folder, ways[way], arguments.epochs))
        finally:
            server.kill()
        plain = statistics.fmean(s for cost in costs["--no-track"] for s in cost.per_epoch)
        for way, found in costs.items():
            mean = statistics.fmean(s for cost in found for s in cost.per_epoch)
            epochs = [s for cost in found for s in cost.per_epoch]
            inside = [s for cost in found for s in cost.in_tracker]
            print(
                f"{way}: epoch {statistics.median(epochs) * 1e3:.1f} ms (mean {mean / plain:.3f} of"
                f" --no-track); in the tracker mean {statistics.fmean(inside) * 1e3:.2f} ms, at most"
                f" {max(inside) * 1e3:.1f}; once a run: begin"
                f" {statistics.median(c.begin for c in found) * 1e3:.0f} ms, finish"
                f" {statistics.median(c.finish for c in found) * 1e3:.0f} ms"
            )
        system_sample(sqlite)


if __name__ == "__main__":
    main()
