"""Workers from the outside: started, asked one at a time, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from peers.contender import Case, Options

FOLDER = Path(__file__).resolve().parents[1]


class WorkerError(Exception):
    """A contender cannot be timed, and why."""


class Worker:
    """A process that trains one contender; use it in a `with` statement.

    Parameters
    ----------
    name
        In the roster.
    python
        Interpreter of the environment that has the library.
    threads
        How many threads it may use.
    """

    def __init__(self, name: str, python: str, threads: int) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, "-m", "peers.worker", name, "--threads", str(threads)],
            cwd=FOLDER,
            env=_environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_up(self, case: Case, options: Options) -> dict[str, Any]:
        """Build the contender; its rate, versions, and what it measured by the way."""
        return self._ask({"setup": {"case": list(case), "options": options._asdict()}})

    def take_turn(self) -> tuple[list[float], list[float]]:
        """Seconds of some training steps, on the clock and on processors."""
        answer = self._ask({"turn": True})
        return answer["seconds"], answer["cpu_seconds"]

    def rate(self) -> float:
        """Present rate of the hidden layer."""
        return float(self._ask({"rate": True})["rate"])

    def peak_mib(self) -> float:
        """Largest memory that the process has held so far."""
        return float(self._ask({"peak": True})["peak_mib"])

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):  # a request that a dead process did not take
            self._requests.close()
        self._answers.close()
        self._process.wait()
        self._errors.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        line = self._answers.readline()
        if not line:
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"the process ended with code {code}: {lines[-1] if lines else 'nothing said'}"


def _environment(threads: int) -> dict[str, str]:
    # threads that wait must sleep: spinning ones would take the processor from whoever is timed
    waiting = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(threads)}
    return {**os.environ, **waiting, "MKL_NUM_THREADS": str(threads)}
