"""Recipe and recordings -> SpikeDataset: parallel over files, resumable, the same for any worker count.

Recordings are converted in shards of consecutive names. A finished shard lies whole in
`<out>.parts/<plan>/`, where the plan is the hash of recipe and source files; a rerun with the same plan
takes finished shards as they are. When all are there, they are written into one file in order and the
parts are removed.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from snnbench.data_prep.encoders import Encoder, encoder_of
from snnbench.data_prep.readers import READERS
from snnbench.data_prep.recipe import Recipe, sha256_text
from snnbench.data_prep.sources import Recording
from snnbench.data_prep.split import assign_splits, resolved_rule
from snnbench.data_prep.store import SPLITS, Header, Sample, create
from snnbench.errors import SnnbenchError
from snnbench.paths import file_sha256, whole_file


class Progress(NamedTuple):
    """Where a conversion stands."""

    done: int
    total: int
    audio_s: float
    """Seconds of audio converted so far, those of earlier attempts included."""
    spikes: int


class Summary(NamedTuple):
    """What a conversion did."""

    samples: int
    spikes: int
    audio_s: float
    cpu_s: float
    """CPU seconds of the workers, summed; shards of an earlier attempt count what they took then."""
    peak_worker_bytes: int


@dataclass(frozen=True)
class _Job:
    """What a worker needs to make one shard."""

    path: Path
    recordings: tuple[Recording, ...]
    encode: Encoder


class _Shard(NamedTuple):
    """Spikes of consecutive recordings, as stored in a part file."""

    times: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    audio_s: np.ndarray
    cpu_s: np.ndarray
    peak_bytes: np.ndarray


def convert(
    recipe: Recipe,
    source: Path,
    out: Path,
    *,
    workers: int,
    test_groups: Sequence[str] = (),
    valid_groups: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Convert a folder of recordings into one SpikeDataset file.

    Parameters
    ----------
    source : folder with the recordings.
    out : file to write; appears whole at the end.
    workers : processes, at least 1. The result does not depend on it.
    test_groups, valid_groups : replace the recipe's choice of held-out groups.
    progress : called after every shard.

    Raises
    ------
    SnnbenchError
        Naming the file: a recording that cannot be used, a split that does not work out, no space
        to write, or a worker that died. Finished shards are kept for the next attempt.
    """
    encoder = encoder_of(recipe)
    recordings, classes = READERS[recipe.source.kind](source, recipe)
    splits = assign_splits(
        recordings, recipe.split, folder=source, test_groups=test_groups, valid_groups=valid_groups
    )
    resolved = recipe.model_copy(
        update={
            "classes": classes,
            "split": resolved_rule(recipe.split, test_groups, valid_groups),
        }
    )
    processing = resolved.processing_json(encoder.constants)
    hashes = _source_hashes(recordings)

    plan = sha256_text(processing + "".join(f"{k} {v}\n" for k, v in sorted(hashes.items())))
    parts = out.with_name(out.name + ".parts")
    jobs = [
        _Job(
            path=parts / plan[:16] / f"shard-{start // encoder.per_shard:05d}.npz",
            recordings=tuple(recordings[start : start + encoder.per_shard]),
            encode=encoder,
        )
        for start in range(0, len(recordings), encoder.per_shard)
    ]
    encoder.prepare()
    summary = _make_shards(jobs, workers, progress)
    header = Header.of(resolved, processing, {r.group for r in recordings})
    with create(out, header) as writer:
        for split in SPLITS:
            for samples in _samples(jobs, splits, hashes, header, split):
                writer.append(split, samples)
    shutil.rmtree(parts, ignore_errors=True)
    return summary


def _source_hashes(recordings: Sequence[Recording]) -> dict[str, str]:
    """Source id to the sha256 of its content: of the file, or of its place in a file of many; empty
    for a computed sample."""
    n_in_file = Counter(r.path for r in recordings)
    of_file = {path: file_sha256(path) if path else "" for path in n_in_file}
    return {
        r.source_id: sha256_text(f"{of_file[r.path]} {r.position}")
        if r.path and n_in_file[r.path] > 1
        else of_file[r.path]
        for r in recordings
    }


def _make_shards(
    jobs: Sequence[_Job], workers: int, progress: Callable[[Progress], None] | None
) -> Summary:
    """Make the shards that are not there yet and report on all of them."""
    done = spikes = peak = 0
    audio_s = cpu_s = 0.0
    total = sum(len(job.recordings) for job in jobs)

    def count(job: _Job, shard: _Shard) -> None:
        nonlocal done, audio_s, cpu_s, spikes, peak
        done += len(job.recordings)
        audio_s += float(shard.audio_s)
        cpu_s += float(shard.cpu_s)
        spikes += len(shard.times)
        peak = max(peak, int(shard.peak_bytes))
        if progress:
            progress(Progress(done, total, audio_s, spikes))

    missing = []
    for job in jobs:
        shard = _read_shard(job)
        if shard:
            count(job, shard)
        else:
            missing.append(job)
    for job in _run(missing, min(workers, max(1, len(missing)))):
        shard = _read_shard(job)
        if shard is None:
            raise SnnbenchError(f"{job.path}: vanished after it was written")
        count(job, shard)
    return Summary(total, spikes, audio_s, cpu_s, peak)


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[_Job]:
    """Yield jobs as they are finished, in this process for one worker."""
    if workers == 1:
        for job in jobs:
            _make_shard(job)
            yield job
        return
    # spawn: a forked child would inherit locks of the parent's threads
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    waiting = iter(jobs)
    running: dict[Future[None], _Job] = {}
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
    """Keep Ctrl-C waiting during the block, and away from the processes that are started in it.

    Ctrl-C reaches the whole process group; the parent stops the pool, after whole shards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _make_shard(job: _Job) -> None:
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
    shard = _Shard(
        times=np.concatenate(times),
        units=np.concatenate(units),
        offsets=np.array(offsets),
        audio_s=np.array(audio_s),
        cpu_s=np.array(time.process_time() - started),
        peak_bytes=np.array(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
    )
    with whole_file(job.path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **shard._asdict())


def _read_shard(job: _Job) -> _Shard | None:
    """The shard if it is there and whole (npz members carry checksums), else None."""
    try:
        # opened here, because np.load leaves the file open where the zip is damaged
        with open(job.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            shard = _Shard(**{name: archive[name] for name in _Shard._fields})
    except Exception:  # a damaged zip raises nearly anything
        return None
    return shard if len(shard.offsets) == len(job.recordings) + 1 else None


def _samples(
    jobs: Sequence[_Job],
    splits: dict[str, str],
    hashes: dict[str, str],
    header: Header,
    split: str,
) -> Iterator[list[Sample]]:
    """The samples of one split, shard by shard."""
    group_index = {name: i for i, name in enumerate(header.groups)}
    for job in jobs:
        wanted = [i for i, r in enumerate(job.recordings) if splits[r.source_id] == split]
        if not wanted:
            continue
        shard = _read_shard(job)
        if shard is None:
            raise SnnbenchError(f"{job.path}: became unreadable; run again")
        yield [
            Sample(
                times=shard.times[shard.offsets[i] : shard.offsets[i + 1]],
                units=shard.units[shard.offsets[i] : shard.offsets[i + 1]],
                label=job.recordings[i].label,
                group=group_index[job.recordings[i].group],
                source_id=job.recordings[i].source_id,
                source_sha256=hashes[job.recordings[i].source_id],
            )
            for i in wanted
        ]


def default_workers() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))
