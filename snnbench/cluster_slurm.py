"""Workers from Slurm: a Dask scheduler in this process, whose workers are Slurm jobs (dask-jobqueue).

    with slurm_cluster(JobSpec(cores=8, memory="32GB", walltime="24:00:00")) as cluster:
        cluster.submit(jobs=4)
        cluster.address  # for --scheduler

A job holds one worker for each core, or one for its GPU, since a worker trains one seed at a time. What is
not said here is as the user's own dask-jobqueue configuration says (~/.config/dask/jobqueue.yaml).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from snnbench.errors import SnnbenchError, UsageError

# of sbatch --time: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]
_WALLTIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}")

_PASSED_ON = ("SNNBENCH_DATA", "SNNBENCH_HOME", "SNNBENCH_OFFLINE", "PYTHONPATH")
"""Of the environment, set in the job's script, because sites may start jobs with an empty one."""


@dataclass(frozen=True)
class JobSpec:
    """One Slurm job."""

    cores: int
    memory: str
    """Of the job, as 32GB."""
    walltime: str
    """As for sbatch: 90, 24:00:00, 2-12."""
    gpu: bool = False
    """One GPU, and one worker for it."""
    interface: str | None = None
    """Network that the nodes share, as ib0; None: the one that the name of this machine leads to."""
    partition: str | None = None
    account: str | None = None
    directives: tuple[str, ...] = ()
    """More for sbatch, as --constraint=a100."""
    prologue: tuple[str, ...] = ()
    """Lines of shell before the worker starts, as `module load cuda`."""

    @property
    def workers(self) -> int:
        """In one job."""
        return 1 if self.gpu else self.cores


class SlurmCluster:
    """A scheduler here; jobs in Slurm's queue."""

    def __init__(self, cluster: Any, spec: JobSpec) -> None:
        self._cluster = cluster
        self.spec = spec

    @property
    def address(self) -> str:
        """tcp://HOST:PORT"""
        return str(self._cluster.scheduler_address)

    @property
    def script(self) -> str:
        """What is given to sbatch for each job."""
        return str(self._cluster.job_script())

    @property
    def workers(self) -> int:
        """That are there now."""
        return len(self._cluster.scheduler_info["workers"])

    def submit(self, jobs: int) -> None:
        """Ask Slurm for so many jobs, once it has found one of them right.

        Raises
        ------
        SnnbenchError
            There is no sbatch, or it refuses such a job.
        """
        if shutil.which("sbatch") is None:
            raise SnnbenchError(
                "sbatch: no such program here; run this on a machine from which Slurm takes jobs, or"
                " look at the job's script with --script"
            )
        # dask-jobqueue tells a refusal to a log only
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
            file.write(self.script)
            file.flush()
            tried = subprocess.run(
                ["sbatch", "--test-only", file.name], capture_output=True, text=True
            )
        if tried.returncode:
            said = " ".join(f"{tried.stdout} {tried.stderr}".split())
            raise SnnbenchError(f"sbatch refuses such a job (see --script): {said}")
        self._cluster.scale(jobs=jobs)


@contextmanager
def slurm_cluster(spec: JobSpec) -> Iterator[SlurmCluster]:
    """A scheduler for jobs of this kind; at the end they are cancelled.

    Raises
    ------
    UsageError
        A walltime, amount of memory or network interface that is none.
    SnnbenchError
        dask-jobqueue is not installed.
    """
    from dask.utils import parse_bytes

    make = _dask_jobqueue().SLURMCluster
    if not _WALLTIME.fullmatch(spec.walltime):
        raise UsageError(f"--walltime {spec.walltime}: take hours:minutes:seconds, as 24:00:00")
    try:
        parse_bytes(spec.memory)
    except ValueError:
        raise UsageError(f"--memory {spec.memory}: take an amount as 32GB") from None
    _check_interface(spec.interface)
    exports = [f"export {k}={shlex.quote(os.environ[k])}" for k in _PASSED_ON if os.environ.get(k)]
    cluster = make(
        cores=spec.cores,
        processes=spec.workers,
        memory=spec.memory,
        walltime=spec.walltime,
        interface=spec.interface,
        queue=spec.partition,
        account=spec.account,
        job_name="snnbench",
        # of a job with a GPU, Slurm lets the worker see no other
        job_extra_directives=[*(["--gres=gpu:1"] if spec.gpu else []), *spec.directives],
        worker_extra_args=["--resources", "GPU=1"] if spec.gpu else [],
        job_script_prologue=[*exports, *spec.prologue],
        scheduler_options={"dashboard": False, "dashboard_address": None},
    )
    with cluster:
        yield SlurmCluster(cluster, spec)


def _dask_jobqueue() -> Any:
    """The module, without the handler of Ctrl-C that it installs when it is imported."""
    before = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    except ImportError:
        raise SnnbenchError(
            "dask-jobqueue is not installed; pip install 'snnbench[slurm]' brings it"
        ) from None
    finally:
        signal.signal(signal.SIGINT, before)
    return dask_jobqueue


def _check_interface(name: str | None) -> None:
    from distributed.utils import get_ip_interface

    if name is not None:
        try:
            get_ip_interface(name)
        except ValueError as error:
            raise UsageError(f"--interface: {error}") from None
