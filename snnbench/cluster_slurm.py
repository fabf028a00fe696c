"""Workers from Slurm, through dask-jobqueue: a Dask scheduler here, jobs of `dask worker` on the nodes.

Every job is as many workers as it has cores, or as it has GPUs; each trains one seed at a time, in one
thread. What `snnbench.cluster_dask` sees is a running Dask cluster like any other.

A worker leaves some minutes before its job's walltime (`--lifetime`), the workers of one job one after
another. Its seed is begun anew elsewhere, as it would be if Slurm killed the worker; but so the folder that
it trained in is removed, and a cluster whose jobs began together does not lose all workers in one moment.
A job that was here and has left is asked for again, so that a cluster outlives its jobs' walltime; one that
never came is not, because the next one would not come either.

This module is also the preload of workers that share a job with several GPUs (`dask_setup`).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snnbench.errors import SnnbenchError, UsageError
from snnbench.paths import data_dir

NAME = "snnbench"
"""Of the jobs, and what workers' names begin with."""
UNKNOWN_ADDRESS = "tcp://SCHEDULER:PORT"
"""Stands in a job script for the scheduler's address, which is known when there is one."""

GONE_S = 30.0
"""A job without workers for so long has ended. A worker that died is replaced within its job in seconds."""
ASK_AGAIN_S = 60.0
"""How long we wait after Slurm has refused to replace a job."""

_MEMORY = re.compile(r"\d+(\.\d+)? ?[kKMGT](i?B)?")
_WALLTIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")


@dataclass(frozen=True)
class SlurmRequest:
    """What is asked of Slurm.

    Raises
    ------
    UsageError
        A string that is not what Slurm or Dask take.
    """

    jobs: int
    cores: int
    """Of one job."""
    memory: str
    """Of one job, as Dask writes it: 32GB are 32 * 10^9 bytes, 32GiB are 32 * 2^30."""
    walltime: str
    """Of one job, as [DAYS-]HH:MM:SS."""
    log_folder: Path
    """Where the nodes write what the workers say."""
    gpus: int = 0
    """Of one job."""
    interface: str | None = None
    """Network that login node and nodes share; None: the one that the default route takes."""
    partition: str | None = None
    account: str | None = None
    directives: tuple[str, ...] = ()
    """Further options of sbatch, such as `--constraint=icelake`."""

    def __post_init__(self) -> None:
        if not _MEMORY.fullmatch(self.memory):
            raise UsageError(f"--memory {self.memory!r}: take a number and its unit, such as 32GB")
        if not _WALLTIME.fullmatch(self.walltime) or not self.walltime_s:
            raise UsageError(
                f"--walltime {self.walltime!r}: take HH:MM:SS or DAYS-HH:MM:SS, such as 24:00:00"
            )
        if self.cores < self.gpus:
            raise UsageError(
                f"--cores {self.cores}: every one of the {self.gpus} GPUs of a job needs a core"
            )
        for option in ("interface", "partition", "account"):
            value = getattr(self, option)
            if value is not None and not re.fullmatch(r"[^\s-]\S*", value):
                raise UsageError(f"--{option} {value!r}: is not a name")
        for directive in self.directives:
            if not directive.startswith("-") or "\n" in directive:
                raise UsageError(
                    f"--directive {directive!r}: take one option of sbatch, such as --constraint=icelake"
                )

    @property
    def workers_per_job(self) -> int:
        return self.gpus or self.cores

    @property
    def workers(self) -> int:
        """Of all jobs."""
        return self.jobs * self.workers_per_job

    @property
    def walltime_s(self) -> int:
        found = _WALLTIME.fullmatch(self.walltime)
        assert found
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((24 * days + hours) * 60 + minutes) * 60 + seconds


def job_script(request: SlurmRequest, address: str = UNKNOWN_ADDRESS) -> str:
    """What sbatch is given for one job.

    Raises
    ------
    SnnbenchError
        dask-jobqueue is not installed.
    """
    script: str = _job_class()(address, name=f"{NAME}-0", **_job_options(request)).job_script()
    return script


@contextmanager
def open_slurm(request: SlurmRequest) -> Iterator[SlurmCluster]:
    """A scheduler in this process, and jobs that are cancelled when the block is left.

    Raises
    ------
    UsageError
        An interface that is not here.
    SnnbenchError
        dask-jobqueue or sbatch is not there, no scheduler can start, or Slurm refuses a job.
    """
    job_class = _job_class()
    if missing := [command for command in ("sbatch", "scancel") if not shutil.which(command)]:
        raise SnnbenchError(
            f"{missing[0]}: not on PATH; call this where jobs are submitted to Slurm. --script prints the"
            " job script without Slurm"
        )
    known = [name for _, name in socket.if_nameindex()]
    if request.interface is not None and request.interface not in known:
        raise UsageError(
            f"--interface {request.interface!r}: is not here; there are {', '.join(known)}"
        )
    from dask_jobqueue import SLURMCluster

    request.log_folder.mkdir(parents=True, exist_ok=True)
    try:
        dask = SLURMCluster(
            job_cls=job_class,
            name=NAME,
            # a free port for the pages that every scheduler serves, as 8787 may be another user's
            scheduler_options={
                "interface": request.interface,
                "dashboard": False,
                "dashboard_address": ":0",
            },
            **_job_options(request),
        )
    except RuntimeError as error:
        raise SnnbenchError(f"no Dask scheduler can start here: {error}") from None
    try:
        cluster = SlurmCluster(request, dask)
        if problem := cluster.ask():
            raise SnnbenchError(problem)
        yield cluster
    finally:
        dask.close()


class SlurmCluster:
    """A scheduler with jobs in Slurm, as `open_slurm` yields it."""

    def __init__(self, request: SlurmRequest, dask: Any) -> None:
        self._request, self._dask = request, dask
        self._last_seen: dict[str, float] = {}
        self._not_before = 0.0

    @property
    def address(self) -> str:
        """For `--scheduler`."""
        address: str = self._dask.scheduler_address
        return address

    @property
    def workers(self) -> int:
        """That are here now."""
        return len(self._dask.scheduler_info["workers"])

    def ask(self, ended: frozenset[str] = frozenset()) -> str | None:
        """Submit as many jobs as are lacking, without those that have ended; what went wrong, in words."""

        async def submit() -> None:
            await self._dask.scale_down(ended)
            while len(self._dask.worker_spec) < self._request.jobs:
                self._dask.worker_spec.update(self._dask.new_worker_spec())
            await self._dask

        try:
            self._dask.sync(submit)
        except (RuntimeError, ValueError) as error:
            # dask-jobqueue's message ends with what sbatch wrote to stderr
            told = str(error).partition("stderr:\n")[2].strip() or str(error)
            return f"Slurm takes no job: {told}"
        return None

    def renew(self) -> tuple[int, str | None]:
        """Replace jobs that were here and have ended; how many, and what went wrong, in words."""
        now = time.monotonic()
        here = {self._job_of(w["name"]) for w in self._dask.scheduler_info["workers"].values()}
        self._last_seen |= dict.fromkeys(here, now)
        if now < self._not_before:
            return 0, None
        ended = frozenset(
            name
            for name in self._dask.worker_spec
            if now - self._last_seen.get(name, now) > GONE_S or not self._submitted(name)
        )
        if not ended:
            return 0, None
        for name in ended:
            self._last_seen.pop(name, None)
        problem = self.ask(ended)
        if problem:
            self._not_before = now + ASK_AGAIN_S
        return len(ended), problem

    def _job_of(self, worker: str) -> str:
        return worker.rpartition("-")[0] if self._request.workers_per_job > 1 else worker

    def _submitted(self, name: str) -> bool:
        job = self._dask.workers.get(name)
        return job is not None and job.job_id is not None


def _job_class() -> Any:
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue.slurm import SLURMJob
        from distributed.core import Status
    except ImportError as error:
        raise SnnbenchError(
            f"needs dask-jobqueue ({error}): pip install 'snnbench[slurm]'"
        ) from None
    finally:
        signal.signal(signal.SIGINT, on_ctrl_c)  # dask-jobqueue 0.9 takes it when it is imported

    class Job(SLURMJob):  # type: ignore[misc, unused-ignore]
        async def close(self) -> None:
            await super().close()
            self.status = Status.closed  # dask-jobqueue 0.9 forgets it, and Dask asks when it ends

    return Job


def _job_options(request: SlurmRequest) -> dict[str, Any]:
    import dask

    workers = request.workers_per_job
    leave_s, stagger_s = _before_walltime(request.walltime_s)
    arguments = [
        "--no-dashboard",
        "--lifetime",
        f"{leave_s}s",
        "--lifetime-stagger",
        f"{stagger_s}s",
    ]
    directives = [f"-o {shlex.quote(f'{request.log_folder.resolve()}/%x-%j.log')}"]
    if request.gpus:
        arguments += ["--resources", "GPU=1"]
        if not any(d.startswith(("--gres", "--gpus", "-G")) for d in request.directives):
            directives.append(f"--gres=gpu:{request.gpus}")
    if request.gpus > 1:
        arguments += ["--preload", __name__]
    configured = {
        key: dask.config.get(f"jobqueue.slurm.{key}", None) or []
        for key in ("job-extra-directives", "job-script-prologue")
    }
    return {
        "job_name": NAME,
        "python": shlex.quote(sys.executable),
        "cores": workers,  # of Dask: one thread each
        "processes": workers,
        "job_cpu": request.cores,  # of Slurm
        "memory": request.memory,
        "walltime": request.walltime,
        "interface": request.interface,
        "queue": request.partition,
        "account": request.account,
        "worker_extra_args": arguments,
        "job_extra_directives": [
            *configured["job-extra-directives"],
            *directives,
            *request.directives,
        ],
        # sbatch passes the environment on unless a site says otherwise; data must be found in any case
        "job_script_prologue": [
            *configured["job-script-prologue"],
            f"export SNNBENCH_DATA={shlex.quote(str(data_dir().resolve()))}",
        ],
    }


def _before_walltime(walltime_s: int) -> tuple[int, int]:
    """When workers leave, and by how much one may differ, in seconds.

    Five minutes before, give or take four, as dask-jobqueue advises for an hour or more.
    """
    before_s = min(300, walltime_s // 12)
    return walltime_s - before_s, before_s * 4 // 5


def dask_setup(worker: Any) -> None:
    """Leave a worker one of its job's GPUs: the first worker the first one, and so on.

    Dask calls it in the worker's process, before torch is there. A worker whose GPU Slurm did not give sees
    none, which its first seed tells.
    """
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    k = int(str(worker.name).rpartition("-")[2])
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[k] if k < len(gpus) else ""
