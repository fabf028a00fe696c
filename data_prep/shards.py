"""Shards of a conversion: recordings in worker processes, spikes in files that are whole or not there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from snnbench.data_prep.encoding import Encoder
from snnbench.data_prep.sources import Recording
from snnbench.errors import SnnbenchError
from snnbench.paths import whole_file


class Progress(NamedTuple):
    """Where a conversion stands."""

    done: int
    total: int
    audio_s: float
    """Seconds of audio converted so far, those of earlier attempts included."""
    spikes: int
    resumed: int
    """How many of `done` an earlier attempt had converted."""
    resumed_audio_s: float


class Summary(NamedTuple):
    """What a conversion did."""

    samples: int
    spikes: int
    audio_s: float
    cpu_s: float
    """CPU seconds of the workers, summed; shards of an earlier attempt count what they took then."""
    peak_worker_bytes: int


@dataclass(frozen=True)
class Job:
    """What a worker needs to make one shard."""

    path: Path
    recordings: tuple[Recording, ...]
    encode: Encoder


class Shard(NamedTuple):
    """Spikes of consecutive recordings, as stored in a part file."""

    times: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    audio_s: np.ndarray
    cpu_s: np.ndarray
    peak_bytes: np.ndarray


def make_shards(
    jobs: Sequence[Job], workers: int, progress: Callable[[Progress], None] | None
) -> Summary:
    """Make the shards that are not there yet and report on all of them."""
    done = spikes = peak = resumed = 0
    audio_s = cpu_s = resumed_audio_s = 0.0
    total = sum(len(job.recordings) for job in jobs)

    def report() -> None:
        if progress:
            progress(Progress(done, total, audio_s, spikes, resumed, resumed_audio_s))

    def count(job: Job, shard: Shard) -> None:
        nonlocal done, audio_s, cpu_s, spikes, peak
        done += len(job.recordings)
        audio_s += float(shard.audio_s)
        cpu_s += float(shard.cpu_s)
        spikes += len(shard.times)
        peak = max(peak, int(shard.peak_bytes))
        report()

    missing = []
    for job in jobs:
        shard = read_shard(job)
        if shard:
            resumed += len(job.recordings)
            resumed_audio_s += float(shard.audio_s)
            count(job, shard)
        else:
            missing.append(job)
    report()  # the work begins
    for job in _run(missing, min(workers, max(1, len(missing)))):
        shard = read_shard(job)
        if shard is None:
            raise SnnbenchError(f"{job.path}: vanished after it was written")
        count(job, shard)
    return Summary(total, spikes, audio_s, cpu_s, peak)


def _run(jobs: Sequence[Job], workers: int) -> Iterator[Job]:
    """Yield jobs as they are finished, in this process for one worker."""
    if workers == 1:
        for job in jobs:
            _make_shard(job)
            yield job
        return
    # spawn: a forked child would inherit locks of the parent's threads
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    waiting = iter(jobs)
    running: dict[Future[None], Job] = {}
    try:
        while True:
            # one shard per worker and none ahead, so that Ctrl-C waits for these and no others
            with _interrupts_held():
                for job in islice(waiting, workers - len(running)):
                    running[pool.submit(_make_shard, job)] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                yield running.pop(future)
    except BrokenProcessPool:
        raise SnnbenchError(
            "a conversion worker was killed (out of memory?); finished parts are kept, run again,"
            " perhaps with fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM waiting during the block, and away from the processes started in it.

    They reach the whole process group; the parent stops the pool, after whole shards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Let this worker end as soon as its parent has: killed, the parent can no longer tell it to."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make_shard(job: Job) -> None:
    import resource
    import time

    started = time.process_time()
    times, units, offsets, audio_s = [], [], [0], 0.0
    for recording in job.recordings:
        encoded = job.encode(recording)
        times.append(encoded.times)
        units.append(encoded.units)
        offsets.append(offsets[-1] + len(encoded.times))
        audio_s += encoded.audio_s
    shard = Shard(
        times=np.concatenate(times),
        units=np.concatenate(units),
        offsets=np.array(offsets),
        audio_s=np.array(audio_s),
        cpu_s=np.array(time.process_time() - started),
        peak_bytes=np.array(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
    )
    with whole_file(job.path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **shard._asdict())


def read_shard(job: Job) -> Shard | None:
    """The shard if it is there and whole (npz members carry checksums), else None."""
    try:
        # opened here, because np.load leaves the file open where the zip is damaged
        with open(job.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            shard = Shard(**{name: archive[name] for name in Shard._fields})
    except Exception:  # a damaged zip raises nearly anything
        return None
    return shard if len(shard.offsets) == len(job.recordings) + 1 else None


def default_workers() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))
