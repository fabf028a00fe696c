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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from snnbench.data_prep.basilar_membrane import membrane_filter
from snnbench.data_prep.cochlea import PRESETS, CochleaParameters, cochlea_spikes
from snnbench.data_prep.recipe import AudioSpec, CochleaSpec, Recipe, sha256_text
from snnbench.data_prep.sources import READERS, Recording
from snnbench.data_prep.split import assign_splits, resolved_rule
from snnbench.data_prep.store import SPLITS, Header, Sample, create
from snnbench.errors import SnnbenchError, unknown_name
from snnbench.paths import file_sha256, whole_file
from snnbench.spec import validated, with_overrides

SHARD_SIZE = 32
ALGORITHM = "fast/1"
"""Version of the cochlea's arithmetic; part of the recipe's digest, raised when spikes change."""


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
    audio: AudioSpec
    parameters: CochleaParameters
    seed: int


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
    if recipe.audio is None or recipe.cochlea is None:
        raise SnnbenchError(f"{recipe.name} is not made from audio")
    recordings = READERS[recipe.source.kind](source)
    splits = assign_splits(
        recordings, recipe.split, folder=source, test_groups=test_groups, valid_groups=valid_groups
    )
    parameters = cochlea_parameters(recipe.cochlea, recipe.n_units)
    rule = resolved_rule(recipe.split, test_groups, valid_groups)
    processing = recipe.model_copy(update={"split": rule}).processing_json(
        {"algorithm": ALGORITHM, **parameters.model_dump(mode="json")}
    )
    hashes = {r.source_id: file_sha256(r.path) for r in recordings}

    plan = sha256_text(processing + "".join(f"{k} {v}\n" for k, v in sorted(hashes.items())))
    parts = out.with_name(out.name + ".parts")
    jobs = [
        _Job(
            path=parts / plan[:16] / f"shard-{start // SHARD_SIZE:05d}.npz",
            recordings=tuple(recordings[start : start + SHARD_SIZE]),
            audio=recipe.audio,
            parameters=parameters,
            seed=recipe.cochlea.seed,
        )
        for start in range(0, len(recordings), SHARD_SIZE)
    ]
    membrane_filter(parameters.n_channels, parameters.membrane)  # once here, not once per worker
    summary = _make_shards(jobs, workers, progress)
    header = Header.of(recipe, processing, {r.group for r in recordings})
    with create(out, header) as writer:
        for split in SPLITS:
            for samples in _samples(jobs, splits, hashes, header, split):
                writer.append(split, samples)
    shutil.rmtree(parts, ignore_errors=True)
    return summary


def cochlea_parameters(spec: CochleaSpec, n_channels: int) -> CochleaParameters:
    """The preset's constants with the recipe's own ones (dotted keys) and number of channels."""
    if spec.preset not in PRESETS:
        raise unknown_name("cochlea preset", spec.preset, PRESETS)
    constants = PRESETS[spec.preset].model_dump() | {"n_channels": n_channels}
    return validated(CochleaParameters, with_overrides(constants, spec.constants), "cochlea")


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

    from snnbench.data_prep.audio import load_audio

    started = time.process_time()
    times, units, offsets, audio_s = [], [], [0], 0.0
    for recording in job.recordings:
        waveform, rate = load_audio(
            recording.path,
            sample_rate_hz=job.audio.sample_rate_hz,
            resample=job.audio.resample,
            downmix=job.audio.downmix,
        )
        spikes = cochlea_spikes(
            waveform, rate, parameters=job.parameters, seed=job.seed, key=recording.source_id
        )
        times.append(spikes.times)
        units.append(spikes.units)
        offsets.append(offsets[-1] + len(spikes.times))
        audio_s += len(waveform) / rate
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
