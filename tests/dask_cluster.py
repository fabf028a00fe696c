"""A real `dask scheduler` and `dask worker`s on loopback, as a person would start them by hand."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tests.commands import ROOT


class DaskProcesses:
    """A scheduler, and the workers that were started; all killed at the end of the block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self.data = folder / "data"
        """The workers' data folder."""
        self.data.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> DaskProcesses:
        port = self.address.rpartition(":")[2]
        self._start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start_worker(self, *options: str) -> None:
        """One worker process with a nanny, which replaces it when it dies."""
        self._start(
            "worker", self.address, "--nthreads", "2", "--no-dashboard", "--nworkers", "1", *options
        )

    def wait_for_workers(self, n: int) -> None:
        """Return when so many are there."""
        from distributed import Client

        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                with Client(self.address, timeout=5, set_as_default=False) as client:
                    client.wait_for_workers(n, timeout=max(1, deadline - time.monotonic()))
                    return
            except OSError:
                continue
        raise AssertionError((self._folder / "log").read_text()[-3000:])

    def _start(self, *arguments: str) -> None:
        quiet = {"SNNBENCH_DATA": str(self.data), "SNNBENCH_HOME": str(self._folder / "home")}
        with open(self._folder / "log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                cwd=self._folder,
                env={**os.environ, **quiet, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
