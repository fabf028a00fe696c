"""Several seeds of one model: those that are finished are taken as they are, the others run side by side.

On a CPU every run computes in one thread (see `snnbench.seeding.deterministic`), so cores are put to use
by running seeds in processes of their own. The result of a seed does not depend on its neighbours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.bench import finished_record, run_seed
from snnbench.record import RunRecord
from snnbench.seeding import resolve_device
from snnbench.side_by_side import Tell, run_side_by_side
from snnbench.spec import RunSpec

if TYPE_CHECKING:
    from snnbench.models.engines import Engine
    from snnbench.profiling import NoProfile
    from snnbench.tracking import NullTracker
    from snnbench.train import BatchReport, EpochReport

OnEpoch = Callable[[RunSpec, "EpochReport"], None]
OnBatch = Callable[[RunSpec, "BatchReport"], None]

_REPORT_EVERY_S = 0.2
"""How often a run in a process of its own tells how far it is within an epoch."""


@dataclass(frozen=True)
class Job:
    """A seed to run, in words that another process understands."""

    spec: RunSpec
    folder: Path
    data: Path
    device: str
    track: bool
    tuning_trials: int
    engine: Engine = "auto"
    tracking_uri: str | None = None
    """Where MLflow keeps runs; None: its usual place, see `snnbench.tracking.default_uri`."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    on_epoch: OnEpoch,
    on_batch: OnBatch,
    profile: NoProfile | None = None,
) -> list[RunRecord]:
    """Records of all jobs, in their order; only those without a record run, `workers` at a time.

    Parameters
    ----------
    jobs : runs, each with a folder of its own.
    workers : processes; 1 runs in this one.
    on_epoch : called in this process after each epoch of any run.
    on_batch : called in this process after batches: all, or of a run in another process some.
    profile : learns where the time of training goes, where the runs are in this process.

    Raises
    ------
    SnnbenchError
        As `run_seed`, or a process that was killed. What the runs have saved is kept, and the same
        call goes on with it.
    """
    missing = [job for job in jobs if finished_record(job.folder) is None]
    if min(workers, len(missing)) <= 1:
        for job in missing:
            _run(job, partial(on_epoch, job.spec), partial(on_batch, job.spec), profile)
    else:
        _run_side_by_side(missing, workers, on_epoch, on_batch)
    records = [finished_record(job.folder) for job in jobs]
    return [record for record in records if record is not None]


def default_workers(device: str) -> int:
    """Processors this process may use, or 1 where the runs share a GPU."""
    return 1 if resolve_device(device).type == "cuda" else len(os.sched_getaffinity(0))


def _run(
    job: Job,
    on_epoch: Callable[[EpochReport], None],
    on_batch: Callable[[BatchReport], None],
    profile: NoProfile | None = None,
) -> None:
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(job.data) as dataset, _tracker(job) as tracker:
        run_seed(
            job.spec,
            dataset,
            folder=job.folder,
            device=resolve_device(job.device),
            tracker=tracker,
            on_epoch=on_epoch,
            on_batch=on_batch,
            resume=True,
            tuning_trials=job.tuning_trials,
            engine=job.engine,
            profile=profile,
        )


def _tracker(job: Job) -> NullTracker:
    from snnbench.tracking import NullTracker, seed_tracker

    return seed_tracker(job.spec, job.folder, job.tracking_uri) if job.track else NullTracker()


def _run_side_by_side(
    jobs: Sequence[Job], workers: int, on_epoch: OnEpoch, on_batch: OnBatch
) -> None:
    by_id = {job.spec.run_id: job.spec for job in jobs}
    listeners: dict[str, Callable[[RunSpec, Any], None]] = {"epoch": on_epoch, "batch": on_batch}

    def pass_on(told: Sequence[tuple[str, str, EpochReport | BatchReport]]) -> None:
        for kind, run_id, report in told:
            listeners[kind](by_id[run_id], report)

    run_side_by_side(
        _run_in_worker,
        jobs,
        workers=workers,
        heard=pass_on,
        killed="a run's process was killed (out of memory?); finished epochs are kept, run the same"
        " command again, perhaps with fewer --workers",
    )


def _run_in_worker(job: Job, tell: Tell) -> None:
    run_id, told_at = job.spec.run_id, 0.0

    def on_batch(report: BatchReport) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _REPORT_EVERY_S:
            told_at = time.monotonic()
            tell(("batch", run_id, report))

    _run(job, lambda report: tell(("epoch", run_id, report)), on_batch)
