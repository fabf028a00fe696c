"""Several seeds of one model: those that are finished are taken as they are, the others run side by side.

On a CPU every run computes in one thread (see `snnbench.seeding.deterministic`), so cores are put to use
by running seeds in processes of their own. The result of a seed does not depend on its neighbours.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.bench import finished_record, run_seed
from snnbench.errors import SnnbenchError
from snnbench.record import RunRecord
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
    from snnbench.tracking import NullTracker, Tracker, flat_params

    if not job.track:
        return NullTracker()
    return Tracker(
        experiment=job.spec.task.name,
        run_name=job.spec.run_id,
        params=flat_params(job.spec),
        tags={"synthetic": str(job.spec.task.synthetic)},
        run_dir=job.folder,
    )


def _run_side_by_side(
    jobs: Sequence[Job], workers: int, on_epoch: OnEpoch, on_batch: OnBatch
) -> None:
    # spawn: a forked child would inherit locks of torch's threads
    context = multiprocessing.get_context("spawn")
    reports: Any = context.Queue()
    by_id = {job.spec.run_id: job.spec for job in jobs}
    listeners: dict[str, Callable[[RunSpec, Any], None]] = {"epoch": on_epoch, "batch": on_batch}

    def pass_on() -> None:
        for kind, run_id, report in _drain(reports):
            listeners[kind](by_id[run_id], report)

    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_start_worker, initargs=(reports,)
    )
    try:
        with _children_stopped_on_error():
            waiting: set[Future[None]] = {pool.submit(_run_in_worker, job) for job in jobs}
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                pass_on()
                for future in done:
                    future.result()
            pass_on()
    except BrokenProcessPool:
        raise SnnbenchError(
            "a run's process was killed (out of memory?); finished epochs are kept, run the same"
            " command again, perhaps with fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_reports: Any = None  # a worker's end of the queue; set once in each worker process


def _start_worker(reports: Any) -> None:
    global _reports
    _reports = reports
    # Ctrl-C reaches the whole process group, but the parent decides; its SIGTERM ends a run as Ctrl-C
    # would, so that MLflow is told
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _run_in_worker(job: Job) -> None:
    run_id, told_at = job.spec.run_id, 0.0

    def on_batch(report: BatchReport) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _REPORT_EVERY_S:
            told_at = time.monotonic()
            _reports.put(("batch", run_id, report))

    _run(job, lambda report: _reports.put(("epoch", run_id, report)), on_batch)


@contextmanager
def _children_stopped_on_error() -> Iterator[None]:
    try:
        yield
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise


def _drain(reports: Any) -> Iterator[tuple[str, str, EpochReport | BatchReport]]:
    """Kind, run and content of every report that waits."""
    while True:
        try:
            yield reports.get_nowait()
        except queue.Empty:
            return
