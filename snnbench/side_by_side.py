"""Jobs in processes of their own, each telling this one how far it is.

On a CPU every job computes in one thread (see `snnbench.seeding.deterministic`), so cores are put to use by
running several. What a job has saved is kept whatever happens: an error of one, or Ctrl-C, stops the others.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from snnbench.errors import SnnbenchError
from snnbench.preemption import on_sigterm

Job = TypeVar("Job")
Tell = Callable[[Any], None]
"""tell(report): anything that pickles, to the process that waits."""


def run_side_by_side(
    work: Callable[[Job, Tell], None],
    jobs: Sequence[Job],
    *,
    workers: int,
    heard: Callable[[list[Any]], None],
    killed: str,
) -> None:
    """Run work(job, tell) for every job, at most `workers` at a time.

    Parameters
    ----------
    work : a function of a module, which another process can import.
    heard : called here several times a second with what was told since, and once at the end.
    killed : message of the error when a process ends without a word, as where memory is short.

    Raises
    ------
    SnnbenchError
        Of a job, or with the text `killed`.
    """
    # spawn: a forked child would inherit locks of torch's threads
    context = multiprocessing.get_context("spawn")
    reports: Any = context.Queue()
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_start_worker, initargs=(reports,)
    )
    try:
        with _children_stopped_on_error():
            waiting: set[Future[None]] = {pool.submit(_work, work, job) for job in jobs}
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                heard(list(_drain(reports)))
                for future in done:
                    future.result()
            heard(list(_drain(reports)))
    except BrokenProcessPool:
        raise SnnbenchError(killed) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_reports: Any = None  # a worker's end of the queue; set once in each worker process


def _start_worker(reports: Any) -> None:
    global _reports
    _reports = reports
    # Ctrl-C reaches the whole process group, but the parent decides; its SIGTERM ends a job after a
    # training step, whose state is saved, and so that MLflow is told
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_sigterm)


def _work(work: Callable[[Job, Tell], None], job: Job) -> None:
    work(job, _reports.put)


@contextmanager
def _children_stopped_on_error() -> Iterator[None]:
    try:
        yield
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise


def _drain(reports: Any) -> Iterator[Any]:
    """Every report that waits."""
    while True:
        try:
            yield reports.get_nowait()
        except queue.Empty:
            return
