"""Jobs that worker processes import: they count, tell, wait, fail and die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from snnbench.cluster import Wire, open_cluster
from snnbench.data_prep.encoding import Encoded, Encoder
from snnbench.data_prep.sources import Recording
from snnbench.errors import SnnbenchError


class Marked(NamedTuple):
    """A job that leaves a line in a file for every attempt."""

    number: int
    folder: Path

    def attempts(self) -> int:
        path = self.folder / str(self.number)
        return len(path.read_text().splitlines()) if path.exists() else 0


def square(number: int, wire: Wire) -> int:
    wire.tell(number)
    return number * number


def own_pid(number: int, wire: Wire) -> int:
    wire.tell(number)
    return os.getpid()


@dataclass(frozen=True)
class DiesOnce:
    """An encoder that kills its process the first time it is used anywhere."""

    encoder: Encoder
    mark: Path
    per_shard: ClassVar[int] = 500

    @property
    def constants(self) -> dict[str, Any]:
        return self.encoder.constants

    def prepare(self) -> None:
        self.encoder.prepare()

    def __call__(self, recording: Recording) -> Encoded:
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return self.encoder(recording)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def needs_file(arguments: Mapping[str, Any], report: object, scratch: Path) -> dict[str, Any]:
    """The work of a study's job."""
    if not Path(arguments["path"]).exists():
        raise SnnbenchError(f"{arguments['path']}: not there")
    return {}


def fails_at_two(number: int, wire: Wire) -> int:
    if number == 2:
        raise SnnbenchError("two is too many")
    if number == 3:
        raise ZeroDivisionError("three")
    return number


def dies_once(job: Marked, wire: Wire) -> int:
    """Job 1 kills its process in the first attempt."""
    _mark(job)
    if job.number == 1 and job.attempts() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return job.number


def always_dies(job: Marked, wire: Wire) -> int:
    """Job 1 kills its process every time."""
    _mark(job)
    if job.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return job.number


def until_stopped(number: int, wire: Wire) -> int:
    """Tells 0, 1, 2 … until it is stopped; job 0 only once."""
    told = 0
    while not wire.stopped():
        wire.tell(told)
        told += 1
        if number == 0:
            break
        time.sleep(0.01)
    return told


def ticks(path: Path, wire: Wire) -> None:
    """A file that grows as long as the job goes on, which is for ever."""
    while True:
        with open(path, "a") as file:
            file.write(".")
        wire.tell(0)
        time.sleep(0.01)


def until_ended(path: Path, wire: Wire) -> None:
    """Tells for ever; leaves a file when it is ended by what it tells, but not when its process ends."""
    try:
        while True:
            wire.tell(0)
            time.sleep(0.01)
    except BaseException:
        path.touch()
        raise


async def leave(dask_worker: Any) -> None:
    """Makes a worker of Dask leave, as the end of its lifetime would; does not wait for it."""
    dask_worker.loop.add_callback(dask_worker.close_gracefully)


def gpu_seen(number: int, wire: Wire) -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def waits(folder: Path, wire: Wire) -> None:
    """Writes its process's number, then computes for ever."""
    (folder / f"pid-{os.getpid()}").touch()
    while True:
        time.sleep(0.01)


def _mark(job: Marked) -> None:
    with open(job.folder / str(job.number), "a") as file:
        file.write(f"{os.getpid()}\n")


def coordinate(folder: Path) -> None:
    """Two jobs without an end, in a process of their own: what Ctrl-C has to stop."""
    with open_cluster("local", 2) as cluster:
        cluster.run(waits, [folder, folder], done=lambda job, outcome: None)


if __name__ == "__main__":
    import sys

    from tests import cluster_jobs  # under its own name, as the workers know it

    try:
        cluster_jobs.coordinate(Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
