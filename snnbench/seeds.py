"""Several seeds of one model: those that are finished are taken as they are, the others run side by side.

On a CPU every run computes in one thread (see `snnbench.seeding.deterministic`), so cores are put to use
by running seeds in processes of their own, here or on a Dask cluster (`snnbench.cluster`). On a GPU a process
trains a stack of them at once (`snnbench.stacks`). The result of a seed does not depend on its neighbours,
but for rounding in a stack on a GPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.bench import RECORD_FILE, Seed, finished_record, run_seed, run_stack
from snnbench.cluster import LOCAL, Failure, Wire, local_slots, open_cluster
from snnbench.errors import SnnbenchError
from snnbench.paths import read_folder, write_folder
from snnbench.record import RunRecord
from snnbench.run_lock import only_trainer
from snnbench.seeding import resolve_device
from snnbench.spec import RunSpec
from snnbench.stacks import split_evenly

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
    stack: int = 1,
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
    stack : the most seeds that a local process trains at once; with more than 1 all jobs are of one model,
        and `profile` is not asked.

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
        stacks = stacks_of(missing, most=stack, processes=workers)
        left = _run_here(stacks, workers, False, on_epoch, on_batch, profile)
        # what other processes were training; they have finished it, or were stopped
        _run_here(left, workers, True, on_epoch, on_batch, profile)
    records = [finished_record(job.folder) for job in jobs]
    return [record for record in records if record is not None]


def stacks_of(jobs: Sequence[Job], *, most: int, processes: int) -> list[tuple[Job, ...]]:
    """Jobs that a process does at once; those that were begun by several engines stay apart."""
    by_engine: dict[str, list[Job]] = {}
    for job in jobs:
        by_engine.setdefault(job.engine, []).append(job)
    return [
        stack
        for alike in by_engine.values()
        for stack in split_evenly(alike, most=most, processes=processes)
    ]


def _run_here(
    stacks: Sequence[tuple[Job, ...]],
    workers: int,
    wait: bool,
    on_epoch: OnEpoch,
    on_batch: OnBatch,
    profile: NoProfile | None,
) -> list[tuple[Job, ...]]:
    """Run stacks, so many at a time; returns what other processes train, where this one is not to wait."""
    left: list[tuple[Job, ...]] = []

    def done(jobs: tuple[Job, ...], outcome: Any) -> None:
        _raise_failure(jobs, outcome)
        if outcome:
            left.append(tuple(job for job in jobs if job.spec.run_id in outcome))

    if not stacks:
        return left
    if workers == 1:
        for jobs in stacks:
            done(jobs, _run(jobs, wait, on_epoch, on_batch, profile))
        return left
    with open_cluster(LOCAL, workers, stacks[0][0].device) as cluster:
        heard = partial(_pass_on, on_epoch, on_batch)
        cluster.run(partial(_run_in_worker, wait=wait), stacks, heard=heard, done=done)
    return left


def _run(
    jobs: Sequence[Job],
    wait: bool,
    on_epoch: OnEpoch,
    on_batch: OnBatch,
    profile: NoProfile | None = None,
) -> list[str]:
    """Finish runs, or see them finished; returns the ids of those that another process trains."""
    left, to_do = [], []
    with ExitStack() as locks:
        # in the order of their seeds, so that two processes never wait for each other
        for job in jobs:
            if not locks.enter_context(only_trainer(job.folder, wait=wait)):
                left.append(job.spec.run_id)
            elif finished_record(job.folder) is None:
                to_do.append(job)
        if to_do:
            _train(to_do, on_epoch, on_batch, profile)
    return left


def _train(
    jobs: Sequence[Job], on_epoch: OnEpoch, on_batch: OnBatch, profile: NoProfile | None
) -> None:
    """Train one seed, or several at once."""
    from snnbench.data_prep.store import SpikeDataset

    first = jobs[0]
    options: dict[str, Any] = {
        "device": resolve_device(first.device),
        "resume": True,
        "tuning_trials": first.tuning_trials,
        "engine": first.engine,
    }
    with SpikeDataset.open(first.data) as dataset, ExitStack() as trackers:
        seeds = [Seed(job.spec, job.folder, trackers.enter_context(_tracker(job))) for job in jobs]
        if len(seeds) > 1:
            run_stack(seeds, dataset, on_epoch=on_epoch, on_batch=on_batch, **options)
            return
        [(spec, folder, tracker)] = seeds
        run_seed(
            spec,
            dataset,
            folder=folder,
            tracker=tracker,
            on_epoch=partial(on_epoch, spec),
            on_batch=partial(on_batch, spec),
            profile=profile,
            **options,
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
        _raise_failure((job,), outcome)
        with only_trainer(job.folder, wait=True):
            # another command may have had it trained as well
            if finished_record(job.folder) is None:
                write_folder(job.folder, outcome, last=RECORD_FILE)
        on_fetched(job)

    with open_cluster(scheduler, device=jobs[0].device) as cluster:

        def heard(job: Job, report: _Report) -> None:
            _pass_on(on_epoch, on_batch, (job,), report)

        cluster.run(_run_and_fetch, jobs, heard=heard, done=done)


_Report = tuple[int, "EpochReport | BatchReport"]
"""Which of a process's jobs it is about, and what there is to tell."""


def _pass_on(on_epoch: OnEpoch, on_batch: OnBatch, jobs: Sequence[Job], report: _Report) -> None:
    from snnbench.train import EpochReport

    number, figures = report
    if isinstance(figures, EpochReport):
        on_epoch(jobs[number].spec, figures)
    else:
        on_batch(jobs[number].spec, figures)


def _raise_failure(jobs: Sequence[Job], outcome: Any) -> None:
    if not isinstance(outcome, Failure):
        return
    if outcome.kind == "killed":
        several = " or a smaller --stack" if len(jobs) > 1 else ""
        raise SnnbenchError(
            f"{jobs[0].spec.run_id}: a run's process was killed ({outcome.message}; out of memory?);"
            f" finished epochs are kept, run the same command again, perhaps with fewer --workers{several}"
        )
    raise outcome.error or SnnbenchError(outcome.message)


def _run_in_worker(jobs: Sequence[Job], wire: Wire, *, wait: bool = True) -> list[str]:
    numbers = {job.spec.run_id: number for number, job in enumerate(jobs)}
    told_at = [0.0] * len(jobs)

    def on_batch(spec: RunSpec, report: BatchReport) -> None:
        number = numbers[spec.run_id]
        if time.monotonic() - told_at[number] >= _REPORT_EVERY_S:
            told_at[number] = time.monotonic()
            wire.tell((number, report))

    def on_epoch(spec: RunSpec, report: EpochReport) -> None:
        wire.tell((numbers[spec.run_id], report))

    return _run(jobs, wait, on_epoch, on_batch)


def _run_and_fetch(job: Job, wire: Wire) -> dict[str, bytes]:
    """Train on another machine: with its own copy of the data, and without a trace there."""
    from snnbench.data_prep.locate import locate_data
    from snnbench.data_prep.store import SpikeDataset

    data = locate_data(job.data, job.spec.data_fingerprint)
    with SpikeDataset.open(data) as dataset:
        dataset.check()
    with tempfile.TemporaryDirectory(prefix="snnbench-") as folder:
        there = replace(job, folder=Path(folder) / job.folder.name, data=data, track=False)
        _run_in_worker((there,), wire)
        return read_folder(there.folder)
