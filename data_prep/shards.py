"""Shards of a conversion: recordings in worker processes, spikes in files that are whole or not there."""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snnbench.cluster import Failure, Wire, open_cluster
from snnbench.data_prep.encoding import Encoder
from snnbench.data_prep.sources import Recording
from snnbench.errors import SnnbenchError
from snnbench.paths import file_sha256, whole_file, write_bytes


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
    """Make the shards that are not there yet, in so many processes, and report on all of them."""

    def make(missing: Sequence[Job], finished: Callable[[Job], None]) -> None:
        if min(workers, len(missing)) <= 1:
            for job in missing:
                _make_shard(job)
                finished(job)
            return
        with open_cluster(workers=min(workers, len(missing))) as cluster:
            cluster.run(_make_shard_in_worker, missing, done=partial(_done, finished))

    return _make_missing(jobs, make, progress)


def make_shards_elsewhere(
    jobs: Sequence[Job], scheduler: str, progress: Callable[[Progress], None] | None
) -> Summary:
    """The same by the workers of a Dask cluster, which send what this process writes.

    Raises
    ------
    SnnbenchError
        As `make_shards`; or a worker has no such source file, or another one, under the same path.
    """

    def make(missing: Sequence[Job], finished: Callable[[Job], None]) -> None:
        if not missing:
            return
        paths = {r.path for job in missing for r in job.recordings if r.path}
        digests = {path: file_sha256(path) for path in paths}
        packets = (_Packet.of(job, digests) for job in missing)

        def done(packet: _Packet, outcome: Any) -> None:
            if isinstance(outcome, bytes):
                write_bytes(packet.job.path, outcome)
            _done(finished, packet.job, outcome)

        with open_cluster(scheduler) as cluster:
            cluster.run(_send_shard, packets, done=done)

    return _make_missing(jobs, make, progress)


def _make_missing(
    jobs: Sequence[Job],
    make: Callable[[Sequence[Job], Callable[[Job], None]], None],
    progress: Callable[[Progress], None] | None,
) -> Summary:
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

    make(missing, finished)
    return Summary(total, spikes, audio_s, cpu_s, peak)


def _done(finished: Callable[[Job], None], job: Job, outcome: Any) -> None:
    if isinstance(outcome, Failure):
        raise outcome.as_error(
            "a conversion worker was killed (out of memory?) while it read"
            f" {job.recordings[0].source_id} and what follows: {outcome.message}; finished parts are"
            " kept, run again, perhaps with fewer --workers"
        )
    finished(job)


def _make_shard_in_worker(job: Job, wire: Wire) -> None:
    _make_shard(job)


def _make_shard(job: Job) -> None:
    shard = _encoded(job)
    with whole_file(job.path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **shard._asdict())


def _encoded(job: Job) -> Shard:
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
    return Shard(
        times=np.concatenate(times),
        units=np.concatenate(units),
        offsets=np.array(offsets),
        audio_s=np.array(audio_s),
        cpu_s=np.array(time.process_time() - started),
        peak_bytes=np.array(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
    )


@dataclass(frozen=True)
class _Packet:
    """A shard to make on another machine, and what its source files must hold there."""

    job: Job
    digests: dict[Path, str]
    """sha256 of each."""

    @classmethod
    def of(cls, job: Job, digests: Mapping[Path, str]) -> _Packet:
        # absolute, because a worker has another working directory
        recordings = tuple(r._replace(path=r.path and r.path.absolute()) for r in job.recordings)
        needed = {r.path for r in job.recordings if r.path}
        return cls(
            replace(job, recordings=recordings),
            {path.absolute(): digests[path] for path in needed},
        )


def _send_shard(packet: _Packet, wire: Wire) -> bytes:
    """What another machine does: the shard as the bytes of its file."""
    for path, digest in packet.digests.items():
        _require_source(path, digest)
    packet.job.encode.prepare()
    content = io.BytesIO()
    np.savez(content, **_encoded(packet.job)._asdict())
    return content.getvalue()


@lru_cache(maxsize=8)  # a file of many samples is read by many shards
def _require_source(path: Path, digest: str) -> None:
    host = platform.node()
    if not path.is_file():
        raise SnnbenchError(
            f"host {host}: {path} is not there; the source folder must be on every worker, under the"
            " same path"
        )
    if (found := file_sha256(path)) != digest:
        raise SnnbenchError(
            f"host {host}: {path} is another file than on the machine that asks: sha256"
            f" {found[:12]}, wanted {digest[:12]}"
        )


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
