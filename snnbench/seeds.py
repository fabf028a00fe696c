"""Several seeds of one model: those that are finished are taken as they are, the others run side by side.

On a CPU every run computes in one thread (see `snnbench.seeding.deterministic`), so cores are put to use
by running seeds in processes of their own, here or on a Dask cluster (`snnbench.cluster`). On a GPU a process
trains a stack of them at once (`snnbench.stacks`). The result of a seed does not depend on its neighbours,
but for rounding in a stack on a GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.bench import RECORD_FILE, Seed, finished_record, run_fold, run_seed, run_stack
from snnbench.cluster import LOCAL, Cluster, Failure, Wire, local_slots, open_cluster, seldom
from snnbench.paths import read_folder, write_bytes, write_folder
from snnbench.protocol import FOLD_FILE, FOLDS, fold_file, speakers
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
    folds = _folds_of(missing) if workers != 1 else []
    if scheduler != LOCAL:
        if missing:
            _run_elsewhere(missing, folds, scheduler, on_epoch, on_batch, on_fetched)
    elif missing:
        slots = workers or local_slots(missing[0].device)
        stacks = stacks_of(missing, most=stack, processes=min(slots, len(missing)))
        with ExitStack() as opened:
            cluster = None
            if (processes := min(slots, max(len(stacks), len(folds)))) > 1:
                cluster = opened.enter_context(open_cluster(LOCAL, processes, missing[0].device))
            if cluster and folds:
                cluster.run(
                    _fold_in_worker, folds, heard=_heard_of_folds(on_batch), done=_fold_done
                )
            left = _run_here(stacks, cluster, False, on_epoch, on_batch, profile)
            # what other processes were training; they have finished it, or were stopped
            _run_here(left, cluster, True, on_epoch, on_batch, profile)
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
    cluster: Cluster[Any] | None,
    wait: bool,
    on_epoch: OnEpoch,
    on_batch: OnBatch,
    profile: NoProfile | None,
) -> list[tuple[Job, ...]]:
    """Run stacks, one after the other where there is no cluster; returns what other processes train, where
    these are not to wait.
    """
    left: list[tuple[Job, ...]] = []

    def done(jobs: tuple[Job, ...], outcome: Any) -> None:
        _raise_failure(jobs, outcome)
        if outcome:
            left.append(tuple(job for job in jobs if job.spec.run_id in outcome))

    if cluster is None:
        for jobs in stacks:
            done(jobs, _run(jobs, wait, on_epoch, on_batch, profile))
    else:
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
    folds: Sequence[FoldJob],
    scheduler: str,
    on_epoch: OnEpoch,
    on_batch: OnBatch,
    on_fetched: Callable[[Job], None],
) -> None:
    def fold_done(fold: FoldJob, outcome: Any) -> None:
        _fold_done(fold, outcome)
        if outcome is not None:
            write_bytes(fold.file, outcome)

    def done(seed: _SeedElsewhere, outcome: Any) -> None:
        job = seed.job
        _raise_failure((job,), outcome)
        with only_trainer(job.folder, wait=True):
            # another command may have had it trained as well
            if finished_record(job.folder) is None:
                write_folder(job.folder, outcome, last=RECORD_FILE)
        on_fetched(job)

    def heard(seed: _SeedElsewhere, report: _Report) -> None:
        _pass_on(on_epoch, on_batch, (seed.job,), report)

    with open_cluster(scheduler, device=jobs[0].device) as cluster:
        if folds:
            cluster.run(_fold_elsewhere, folds, heard=_heard_of_folds(on_batch), done=fold_done)
        seeds = [_SeedElsewhere.of(job) for job in jobs]
        cluster.run(_run_and_fetch, seeds, heard=heard, done=done)


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
    if isinstance(outcome, Failure):
        several = " or a smaller --stack" if len(jobs) > 1 else ""
        raise outcome.as_error(
            f"{jobs[0].spec.run_id}: a run's process was killed ({outcome.message}; out of memory?);"
            f" finished epochs are kept, run the same command again, perhaps with fewer --workers{several}"
        )


def _run_in_worker(jobs: Sequence[Job], wire: Wire, *, wait: bool = True) -> list[str]:
    numbers = {job.spec.run_id: number for number, job in enumerate(jobs)}
    tell_of = {run_id: seldom(wire.tell) for run_id in numbers}

    def on_batch(spec: RunSpec, report: BatchReport) -> None:
        tell_of[spec.run_id]((numbers[spec.run_id], report))

    def on_epoch(spec: RunSpec, report: EpochReport) -> None:
        wire.tell((numbers[spec.run_id], report))

    return _run(jobs, wait, on_epoch, on_batch)


@dataclass(frozen=True)
class _SeedElsewhere:
    """A seed for another machine, with the folds that are finished."""

    job: Job
    folds: dict[str, bytes]
    """Contents, by path in the run's folder."""

    @classmethod
    def of(cls, job: Job) -> _SeedElsewhere:
        files = sorted((job.folder / FOLDS).glob(f"*/{FOLD_FILE}"))
        return cls(job, {p.relative_to(job.folder).as_posix(): p.read_bytes() for p in files})


def _run_and_fetch(seed: _SeedElsewhere, wire: Wire) -> dict[str, bytes]:
    """Train on another machine: with its own copy of the data, and without a trace there."""
    with _on_another_machine(seed.job) as there:
        for name, content in seed.folds.items():
            write_bytes(there.folder / name, content)
        _run_in_worker((there,), wire)
        return read_folder(there.folder)


@contextmanager
def _on_another_machine(job: Job) -> Iterator[Job]:
    """The job with data that were found here and proved, and a temporary folder."""
    from snnbench.data_prep.locate import locate_data
    from snnbench.data_prep.store import SpikeDataset

    data = locate_data(job.data, job.spec.data_fingerprint)
    with SpikeDataset.open(data) as dataset:
        dataset.check()
    with tempfile.TemporaryDirectory(prefix="snnbench-") as folder:
        yield replace(job, folder=Path(folder) / job.folder.name, data=data, track=False)


# --- folds of class B, which are done beforehand where there are several processes


@dataclass(frozen=True)
class FoldJob:
    """A fold of a seed of class B."""

    job: Job
    speaker: str

    @property
    def file(self) -> Path:
        """There when the fold is finished."""
        return fold_file(self.job.folder, self.speaker)


def _folds_of(jobs: Sequence[Job]) -> list[FoldJob]:
    """Those that are not finished yet."""
    from snnbench.data_prep.store import SpikeDataset

    jobs = [job for job in jobs if job.spec.task.protocol == "B"]
    if not jobs:
        return []
    with SpikeDataset.open(jobs[0].data) as dataset:
        names = speakers(dataset)
    folds = [FoldJob(job, name) for job in jobs for name in names]
    return [fold for fold in folds if not fold.file.is_file()]


def _heard_of_folds(on_batch: OnBatch) -> Callable[[FoldJob, BatchReport], None]:
    return lambda fold, report: on_batch(fold.job.spec, report)


def _fold_done(fold: FoldJob, outcome: Any) -> None:
    _raise_failure((fold.job,), outcome)


def _fold_in_worker(fold: FoldJob, wire: Wire) -> None:
    """Do a fold, if no other process is at it; that one's is then found, or waited for, by the seed."""
    from snnbench.data_prep.store import SpikeDataset

    job = fold.job
    with only_trainer(fold.file.parent, wait=False) as mine:
        if mine:
            with SpikeDataset.open(job.data) as dataset:
                run_fold(
                    job.spec,
                    fold.speaker,
                    dataset,
                    folder=job.folder,
                    device=resolve_device(job.device),
                    on_batch=seldom(wire.tell),
                    engine=job.engine,
                )


def _fold_elsewhere(fold: FoldJob, wire: Wire) -> bytes | None:
    """What another machine sends of a fold; nothing where it diverged."""
    with _on_another_machine(fold.job) as job:
        there = replace(fold, job=job)
        _fold_in_worker(there, wire)
        return there.file.read_bytes() if there.file.is_file() else None
