"""Trials of a sweep per hour, and what a trial costs beside its training.

    python benchmarks/sweeping.py [--trials N]

The task is synthetic digits in size (700 units as 140 channels, 1 s in bins of 10 ms, 20 classes), with
random spikes: 256 samples to learn from, 128 to score on, `ff-lif` for 5 epochs, one core. Compared are the
sweep as it is called, without and with MLflow (a SQLite file), and the trials' own training in a row, without
a sweep; what is more is the overhead. Processor seconds say what it costs, wall seconds also what waits for
the disk and for others on the machine. Then the wall time of the parts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snnbench.data_prep.store import SpikeSplit
from snnbench.study_store import RunningStudy, read_study
from snnbench.sweep import Sweep, make_sweep, run_sweep, trial_seed
from snnbench.sweep_tracking import ShownTrials
from snnbench.trial import TrialJob, run_trial

SEARCH: dict[str, dict[str, Any]] = {
    "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.dropout": {"low": 0.0, "high": 0.5},
    "model.input_gain": {"low": 0.3, "high": 5.0, "log": True},
}


def random_split(n: int, seed: int, n_spikes: int = 1500) -> SpikeSplit:
    """Spikes at random in 700 units, about as many in a sample as synthetic digits have."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, 1, (n, n_spikes)), axis=1).ravel()
    return SpikeSplit(
        times=times.astype(np.float32),
        units=rng.integers(0, 700, n * n_spikes).astype(np.uint16),
        offsets=np.arange(0, (n + 1) * n_spikes, n_spikes),
        labels=rng.integers(0, 20, n).astype(np.uint16),
        groups=np.zeros(n, dtype=np.uint16),
        source_ids=[str(i) for i in range(n)],
    )


def the_sweep() -> Sweep:
    overrides = {"train.epochs": 5, "train.units_per_channel": 5, "train.patience": None}
    return make_sweep(
        "digits-synthetic", "ff-lif", SEARCH, data_fingerprint="random", overrides=overrides
    )


@contextmanager
def timed(kind: type, names: tuple[str, ...], times: dict[str, float]) -> Iterator[None]:
    """Add up the time that calls of these methods take."""
    before = {name: getattr(kind, name) for name in names}

    def measured(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                times[name] += time.perf_counter() - began

        return call

    for name, method in before.items():
        setattr(kind, name, measured(name, method))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(kind, name, method)


class Watch:
    """Seconds of one trial."""

    wall_s = cpu_s = 0.0


@contextmanager
def stopwatch(n: int) -> Iterator[Watch]:
    """Time of a block with n trials."""
    watch, wall_s, cpu_s = Watch(), time.perf_counter(), time.process_time()
    yield watch
    watch.wall_s = (time.perf_counter() - wall_s) / n
    watch.cpu_s = (time.process_time() - cpu_s) / n


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=20)
    n = parser.parse_args().trials
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    train, valid = random_split(256, 1), random_split(128, 2)
    sweep, device = the_sweep(), torch.device("cpu")
    options: dict[str, Any] = {"device": device, "sampler": "tpe", "pruner": "none"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SNNBENCH_HOME"] = name
        run_sweep(sweep, train, valid, folder=folder / "warm", trials=1, **options)
        with stopwatch(n) as plain:
            run_sweep(sweep, train, valid, folder=folder / "plain", trials=n, **options)

        trials = sorted(read_study(folder / "plain", sweep.name).trials, key=lambda t: t.number)
        with stopwatch(n) as alone:
            for trial in trials:
                spec = sweep.trial_spec(trial.params, trial_seed(0, trial.number))
                job = TrialJob(0, (spec,), "cpu")
                outcome = run_trial(job, train, valid, lambda _: None, lambda: False)
                assert outcome.accuracy == trial.accuracy

        shown = {**options, "track": True, "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
        run_sweep(sweep, train, valid, folder=folder / "shown", trials=1, **shown)
        times: dict[str, float] = defaultdict(float)
        with (
            timed(RunningStudy, ("ask", "report", "tell", "read"), times),
            timed(ShownTrials, ("begin", "epoch", "end"), times),
            stopwatch(n) as tracked,
        ):
            run_sweep(sweep, train, valid, folder=folder / "shown", trials=1 + n, **shown)

    print(
        f"{n} trials, one core; training alone {alone.wall_s:.2f} s a trial, {alone.cpu_s:.2f} CPU s"
    )
    for words, watch in (("without MLflow", plain), ("with MLflow", tracked)):
        over = watch.cpu_s - alone.cpu_s
        print(
            f"sweep {words}: {watch.wall_s:.2f} s a trial, {3600 / watch.wall_s:,.0f} trials an hour,"
            f" {watch.cpu_s:.2f} CPU s; overhead {over:.2f} CPU s, {watch.wall_s - alone.wall_s:.2f} s"
        )
    parts = {
        "ask": "values from Optuna",
        "report": "epochs kept",
        "tell": "end kept",
        "read": "study read",
        "begin": "MLflow: begin",
        "epoch": "MLflow: epochs",
        "end": "MLflow: end, files and pictures",
    }
    for name, what in parts.items():
        print(f"  {what}: {times[name] / n * 1e3:.0f} ms a trial")


if __name__ == "__main__":
    main()
