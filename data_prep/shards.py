"""Shards of a conversion: recordings in worker processes, spikes in files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snnbench.cluster import Failure, Wire, open_cluster
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

    def finished(job: Job) -> None:
        shard = read_shard(job)
        if shard is None:
            raise SnnbenchError(f"{job.path}: vanished after it was written")
        count(job, shard)

    _run(missing, min(workers, max(1, len(missing))), finished)
    return Summary(total, spikes, audio_s, cpu_s, peak)


def _run(jobs: Sequence[Job], workers: int, finished: Callable[[Job], None]) -> None:
    """Make all shards, in this process for one worker."""
    if workers == 1:
        for job in jobs:
            _make_shard(job)
            finished(job)
        return

    def done(job: Job, outcome: Any) -> None:
        if not isinstance(outcome, Failure):
            finished(job)
        elif outcome.kind == "killed":
            raise SnnbenchError(
                "a conversion worker was killed (out of memory?) while it read"
                f" {job.recordings[0].source_id} and what follows: {outcome.message}; finished parts are"
                " kept, run again, perhaps with fewer --workers"
            )
        else:
            raise outcome.error or SnnbenchError(outcome.message)

    with open_cluster(workers=workers) as cluster:
        cluster.run(_make_shard_in_worker, jobs, done=done)


def _make_shard_in_worker(job: Job, wire: Wire) -> None:
    _make_shard(job)


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
