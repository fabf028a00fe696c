"""Several seeds of one model: those that are finished are taken as they are, the others run side by side.

On a CPU every run computes in one thread (see `snnbench.seeding.deterministic`), so cores are put to use
by running seeds in processes of their own, here or on a Dask cluster (`snnbench.cluster`). The result of
a seed does not depend on its neighbours.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.bench import RECORD_FILE, finished_record, run_seed
from snnbench.cluster import LOCAL, Failure, Wire, local_slots, open_cluster
from snnbench.errors import SnnbenchError
from snnbench.paths import read_folder, write_folder
from snnbench.record import RunRecord
from snnbench.run_lock import only_trainer
from snnbench.seeding import resolve_device
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
    workers: int | None,
    on_epoch: OnEpoch,
    on_batch: OnBatch,
    profile: NoProfile | None = None,
    scheduler: str = LOCAL,
    on_fetched: Callable[[Job], None] = lambda job: None,
) -> list[RunRecord]:
    """Records of all jobs, in their order; only those without a record run, several at a time.

    Parameters
    ----------
    jobs : runs, each with a folder of its own.
    workers : local processes; 1 runs in this one, None is as many as `snnbench.cluster.local_slots`.
    on_epoch : called in this process after each epoch of any run.
    on_batch : called in this process after batches: all, or of a run in another process some.
    profile : learns where the time of training goes, where the runs are in this process.
    scheduler : `local` or a Dask scheduler's address. Its workers train in temporary folders and track
        nothing.
    on_fetched : called after a run folder of a Dask worker was written here.

    Raises
    ------
    SnnbenchError
        As `run_seed`, or a process that was killed again and again. What the runs have saved is kept, and
        the same call goes on with it.
    """
    missing = [job for job in jobs if finished_record(job.folder) is None]
    if scheduler != LOCAL:
        if missing:
            _run_elsewhere(missing, scheduler, on_epoch, on_batch, on_fetched)
    elif missing:
        workers = min(workers or local_slots(missing[0].device), len(missing))
        left = _run_here(missing, workers, False, on_epoch, on_batch, profile)
        # what other processes were training; they have finished it, or were stopped
        _run_here(left, workers, True, on_epoch, on_batch, profile)
    records = [finished_record(job.folder) for job in jobs]
    return [record for record in records if record is not None]


def _run_here(
    jobs: Sequence[Job],
    workers: int,
    wait: bool,
    on_epoch: OnEpoch,
    on_batch: OnBatch,
    profile: NoProfile | None,
) -> list[Job]:
    """Run jobs, so many at a time; returns those that another process trains, where it is not to wait."""
    left: list[Job] = []

    def done(job: Job, outcome: Any) -> None:
        _raise_failure(job, outcome)
        if not outcome:
            left.append(job)

    if not jobs:
        return left
    if workers == 1:
        for job in jobs:
            ran = _run(job, wait, partial(on_epoch, job.spec), partial(on_batch, job.spec), profile)
            done(job, ran)
        return left
    with open_cluster(LOCAL, workers, jobs[0].device) as cluster:
        heard = partial(_pass_on, on_epoch, on_batch)
        cluster.run(partial(_run_in_worker, wait=wait), jobs, heard=heard, done=done)
    return left


def _run(
    job: Job,
    wait: bool,
    on_epoch: Callable[[EpochReport], None],
    on_batch: Callable[[BatchReport], None],
    profile: NoProfile | None = None,
) -> bool:
    """Finish a run, or see it finished; False where another process trains it and this one is not to wait."""
    with only_trainer(job.folder, wait=wait) as mine:
        if mine and finished_record(job.folder) is None:
            _train(job, on_epoch, on_batch, profile)
        return mine


def _train(
    job: Job,
    on_epoch: Callable[[EpochReport], None],
    on_batch: Callable[[BatchReport], None],
    profile: NoProfile | None,
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


def _run_elsewhere(
    jobs: Sequence[Job],
    scheduler: str,
    on_epoch: OnEpoch,
    on_batch: OnBatch,
    on_fetched: Callable[[Job], None],
) -> None:
    def done(job: Job, outcome: Any) -> None:
        _raise_failure(job, outcome)
        with only_trainer(job.folder, wait=True):
            if (
                finished_record(job.folder) is None
            ):  # another command may have had it trained as well
                write_folder(job.folder, outcome, last=RECORD_FILE)
        on_fetched(job)

    with open_cluster(scheduler, device=jobs[0].device) as cluster:
        heard = partial(_pass_on, on_epoch, on_batch)
        cluster.run(_run_and_fetch, jobs, heard=heard, done=done)


def _pass_on(
    on_epoch: OnEpoch, on_batch: OnBatch, job: Job, report: tuple[str, EpochReport | BatchReport]
) -> None:
    listeners: dict[str, Callable[[RunSpec, Any], None]] = {"epoch": on_epoch, "batch": on_batch}
    kind, figures = report
    listeners[kind](job.spec, figures)


def _raise_failure(job: Job, outcome: Any) -> None:
    if not isinstance(outcome, Failure):
        return
    if outcome.kind == "killed":
        raise SnnbenchError(
            f"{job.spec.run_id}: a run's process was killed ({outcome.message}; out of memory?);"
            " finished epochs are kept, run the same command again, perhaps with fewer --workers"
        )
    raise outcome.error or SnnbenchError(outcome.message)


def _run_in_worker(job: Job, wire: Wire, *, wait: bool = True) -> bool:
    told_at = 0.0

    def on_batch(report: BatchReport) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _REPORT_EVERY_S:
            told_at = time.monotonic()
            wire.tell(("batch", report))

    return _run(job, wait, lambda report: wire.tell(("epoch", report)), on_batch)


def _run_and_fetch(job: Job, wire: Wire) -> dict[str, bytes]:
    """Train on another machine: with its own copy of the data, and without a trace there."""
    from snnbench.data_prep.locate import locate_data
    from snnbench.data_prep.store import SpikeDataset

    data = locate_data(job.data, job.spec.data_fingerprint)
    with SpikeDataset.open(data) as dataset:
        dataset.check()
    with tempfile.TemporaryDirectory(prefix="snnbench-") as folder:
        there = replace(job, folder=Path(folder) / job.folder.name, data=data, track=False)
        _run_in_worker(there, wire)
        return read_folder(there.folder)
