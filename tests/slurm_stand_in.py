"""Stand-ins for Slurm's commands, which start a job's script on this machine at once, as a process group.

They know no queue, no walltime and no resources. What they share with Slurm is what dask-jobqueue uses:
`sbatch FILE` copies the script, starts it with the caller's environment and prints a number; `scancel`
sends SIGTERM to the job; output goes where the script's `-o` says.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

SBATCH = """#!/bin/bash
set -e
jobs="$(dirname "$0")/jobs"
if [ -e "$jobs/refuse" ]; then cat "$jobs/refuse" >&2; exit 1; fi
for ((id = 1; ; id++)); do mkdir "$jobs/$id" 2>/dev/null && break; done
cp "$1" "$jobs/$id/script"
log=$(sed -n "s/^#SBATCH -o //p" "$1" | sed "s/%x/snnbench/; s/%j/$id/")
SLURM_JOB_ID=$id setsid bash "$jobs/$id/script" >"$log" 2>&1 </dev/null &
echo $! >"$jobs/$id/pid"
echo "Submitted batch job $id"
"""
SCANCEL = """#!/bin/bash
jobs="$(dirname "$0")/jobs"
touch "$jobs/$1/cancelled"
kill -TERM -- "-$(cat "$jobs/$1/pid")"
"""


class Job(NamedTuple):
    """A job that was submitted."""

    folder: Path

    @property
    def script(self) -> str:
        return (self.folder / "script").read_text()

    @property
    def cancelled(self) -> bool:
        return (self.folder / "cancelled").exists()

    def processes(self) -> list[int]:
        """Of its session, which a process of its keeps unless it asks for another."""
        leader = int((self.folder / "pid").read_text())
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue  # it has just ended
            if int(session) == leader and state != "Z":
                found.append(int(path.parent.name))
        return found

    def kill(self) -> None:
        """As a walltime does, in the end."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)


class SlurmStandIn:
    """The commands in a folder of their own, which belongs in front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "jobs").mkdir(parents=True)
        for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    @property
    def path(self) -> str:
        """A value for PATH."""
        return os.pathsep.join([str(self.folder), os.environ["PATH"]])

    def refuse(self, why: str) -> None:
        """Take no jobs from now on."""
        (self.folder / "jobs" / "refuse").write_text(why)

    def jobs(self) -> list[Job]:
        """In the order in which they were submitted."""
        folders = (self.folder / "jobs").glob("[0-9]*/pid")
        return [Job(path.parent) for path in sorted(folders, key=lambda p: int(p.parent.name))]

    def processes(self) -> list[int]:
        """Of all jobs."""
        return [pid for job in self.jobs() for pid in job.processes()]
