"""A running Dask cluster as a `snnbench.cluster.Cluster`: one job at a time in every worker process.

A slot is a worker's address, and a job is bound to it: torch's switches belong to the whole process, so
two jobs must not share one, however many threads a worker has. What a job tells goes through the
scheduler's events. A worker that has left is missed in the scheduler's list, and its job begun elsewhere.
Workers that join later get jobs, too, if their versions are ours.
"""

from __future__ import annotations

import importlib.metadata
import logging
import pickle
import platform
import queue
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from snnbench.cluster import Cluster, Event, Work, done_or_failed, portable
from snnbench.errors import SnnbenchError

CONNECT_S = 10.0
WAIT_FOR_WORKERS_S = 60.0
"""How long a cluster may be without a worker, at the start and later."""

_LOOK_EVERY_S = 1.0
"""How often the scheduler's list of workers is read."""
_LATE_S = 5.0
"""How long a result waits for the reports that were sent before it, on another way."""

_log = logging.getLogger(__name__)


class Versions(NamedTuple):
    """What must be the same here and on a worker."""

    snnbench: str
    torch: str
    """Without its build (+cpu, +cu128)."""
    python: str
    """Without its patch."""


def versions() -> Versions:
    """Of this process."""
    import snnbench

    torch = importlib.metadata.version("torch").partition("+")[0]
    return Versions(snnbench.__version__, torch, ".".join(platform.python_version_tuple()[:2]))


@dataclass
class _Running:
    """A job in a slot."""

    key: str
    future: Any
    heard: int = 0
    """Reports so far."""
    outcome: tuple[Event, int] | None = None
    """What came of it, and how many reports were sent before."""
    wait_until: float = 0.0


class DaskCluster(Cluster[str]):
    """The workers of a scheduler that somebody else started and will stop.

    Parameters
    ----------
    address : tcp://HOST:PORT
    gpu : use workers with the resource GPU only, and take one for each job.

    Raises
    ------
    SnnbenchError
        As `snnbench.cluster.open_cluster`.
    """

    def __init__(self, address: str, *, gpu: bool) -> None:
        from distributed import Client

        self._address, self._gpu = address, gpu
        try:
            self._client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except OSError as error:
            raise SnnbenchError(
                f"{address}: no Dask scheduler answers ({error}); start one with `dask scheduler`"
            ) from None
        self._mail: queue.SimpleQueue[tuple[str, bytes | None]] = queue.SimpleQueue()
        self._topic = f"snnbench-{uuid.uuid4().hex}"
        self._running: dict[str, _Running] = {}
        self._slots: list[str] = []
        self._refused: set[str] = set()
        self._looked = 0.0
        self._alive = time.monotonic()
        try:
            self._client.subscribe_topic(self._topic, lambda event: self._mail.put(event[1]))
            self._look(refuse=True)
            while not self._slots:
                time.sleep(0.1)
                self._look(refuse=True)
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        return len(self._slots)

    def _free(self, busy: Mapping[str, Any]) -> list[str]:
        return [slot for slot in self._slots if slot not in busy]

    def _begin(self, slot: str, work: Work, job: Any) -> None:
        key = f"snnbench-{uuid.uuid4().hex}"
        future = self._client.submit(
            _do,
            pickle.dumps((work, job)),  # as bytes, because Dask looks for its own keys in tuples
            self._topic,
            key,
            key=key,
            pure=False,
            workers=[slot],
            allow_other_workers=False,
            resources={"GPU": 1} if self._gpu else None,
        )
        self._running[slot] = _Running(key, future)
        future.add_done_callback(lambda future: self._mail.put((key, None)))

    def _events(self, busy: Mapping[str, Any]) -> Iterator[Event]:
        slot_of = {running.key: slot for slot, running in self._running.items()}
        for key, report in self._received():
            if (slot := slot_of.get(key)) is None:
                continue  # of a job that was begun anew, or of another run
            running = self._running[slot]
            if report is None:
                running.outcome = self._outcome(slot, running.future)
                running.wait_until = time.monotonic() + _LATE_S
            else:
                running.heard += 1
                yield Event(slot, "told", pickle.loads(report))
        self._look()
        for slot, running in list(self._running.items()):
            if running.outcome is not None:
                event, told = running.outcome
                if running.heard >= told or time.monotonic() > running.wait_until:
                    del self._running[slot]
                    yield event
            elif slot not in self._slots:
                running.future.cancel()
                del self._running[slot]
                yield Event(slot, "lost", f"with its worker {slot}")

    def _received(self) -> Iterator[tuple[str, bytes | None]]:
        """What has come, after at most a short while."""
        late = any(running.outcome for running in self._running.values())
        try:
            yield self._mail.get(timeout=0.05 if late else _LOOK_EVERY_S)
            while True:
                yield self._mail.get_nowait()
        except queue.Empty:
            return

    def _outcome(self, slot: str, future: Any) -> tuple[Event, int]:
        from distributed import KilledWorker

        if future.status == "finished":
            try:
                told, event = future.result(timeout=60)
                return Event(slot, *pickle.loads(event)), told
            except Exception as error:  # the worker died with the result in its memory
                return Event(slot, "lost", f"with its worker {slot} ({error})"), 0
        raised = future.exception() if future.status == "error" else None
        if raised is None or isinstance(raised, KilledWorker):
            return Event(slot, "lost", f"with its worker {slot}"), 0
        return Event(slot, "failed", portable(raised)), 0

    def _look(self, *, refuse: bool = False) -> None:
        """Read the scheduler's list of workers, if that was not done just now.

        `refuse`: one of another version is an error; later, when work goes on, it is only left out.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S and self._slots:
            return
        self._looked = now
        known: dict[str, Any] = {}
        if self._client.status == "running":
            known = self._client.scheduler_info()["workers"]
        fitting = [
            address
            for address, worker in known.items()
            if address not in self._refused and (not self._gpu or worker["resources"].get("GPU"))
        ]
        if new := [address for address in fitting if address not in self._slots]:
            problems = self._check_versions(new)
            if refuse and problems:
                raise SnnbenchError("\n".join(problems.values()))
            for address, problem in problems.items():
                _log.warning("%s; it gets no jobs", problem)
                self._refused.add(address)
        self._slots = [address for address in fitting if address not in self._refused]
        if self._slots:
            self._alive = now
        elif now - self._alive > WAIT_FOR_WORKERS_S:
            lacking = "a worker with a GPU" if self._gpu else "a worker"
            start = f"`dask worker {self._address}{' --resources GPU=1' if self._gpu else ''}`"
            raise SnnbenchError(
                f"{self._address}: without {lacking} for {WAIT_FOR_WORKERS_S:.0f} s; start one with {start}"
            )

    def _check_versions(self, addresses: list[str]) -> dict[str, str]:
        """What is wrong with workers, by address; empty where all is well."""
        wanted = versions()
        answers = self._client.run(_host_and_versions, workers=addresses, on_error="return")
        problems = {}
        for address, answer in answers.items():
            if isinstance(answer, BaseException):
                problems[address] = (
                    f"worker {address}: cannot import snnbench {wanted.snnbench} ({answer}); install it there"
                )
                continue
            host, *found = answer
            if different := [
                f"{name} {theirs} (wanted {ours})"
                for name, ours, theirs in zip(Versions._fields, wanted, found, strict=True)
                if ours != theirs
            ]:
                problems[address] = (
                    f"worker {address} on host {host}: runs {', '.join(different)}; install the same there"
                )
        return problems

    def _stop(self, slot: str) -> None:
        # a worker that has left cannot be told, and need not
        self._client.run(_ask_to_stop, self._running[slot].key, workers=[slot], on_error="return")

    def _abandon(self, busy: Mapping[str, Any]) -> None:
        if self._client.status == "running":
            self._client.cancel([running.future for running in self._running.values()])
        self._running.clear()

    def close(self) -> None:
        self._client.close()


# --- the worker's side

_asked_to_stop: set[str] = set()


def _host_and_versions() -> tuple[str, ...]:
    return (platform.node(), *versions())


def _ask_to_stop(key: str) -> None:
    _asked_to_stop.add(key)


class _Abandoned(BaseException):
    """The coordinator has left or given up, or this worker leaves: ends the job wherever it speaks next."""


class _EventWire:
    def __init__(self, topic: str, key: str) -> None:
        from distributed import Status, get_worker

        self._worker = get_worker()
        self._leaving = {Status.closing, Status.closed}
        self._topic, self._key = topic, key
        self.told = 0

    def tell(self, report: Any) -> None:
        self._end_if_abandoned()
        self.told += 1
        self._worker.log_event(self._topic, (self._key, pickle.dumps(report)))

    def stopped(self) -> bool:
        self._end_if_abandoned()
        return self._key in _asked_to_stop

    def _end_if_abandoned(self) -> None:
        # the scheduler releases what a client cancelled, or had when it left
        task = self._worker.state.tasks.get(self._key)
        if task is None or task.state == "cancelled" or self._worker.status in self._leaving:
            raise _Abandoned


def _do(payload: bytes, topic: str, key: str) -> tuple[int, bytes]:
    """Number of reports, and the event that comes of the job, pickled."""
    wire = _EventWire(topic, key)
    try:
        work, job = pickle.loads(payload)
        event = done_or_failed(work, job, wire)
        return wire.told, event
    except _Abandoned:
        return 0, b""
    finally:
        _asked_to_stop.discard(key)
