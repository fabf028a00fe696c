"""Work for other processes: on this machine, or on a running Dask cluster, behind one interface.

    with open_cluster("local", workers=2) as cluster:
        cluster.run(work, jobs, heard=..., done=...)

On a CPU every job computes in one thread (see `snnbench.seeding.deterministic`), so cores are put to use by
running several jobs. A process that dies takes only its own job with it, and that one is tried again.
Locally this is a small pool of our own, because a Dask cluster takes seconds to start; Dask itself is in
`snnbench.cluster_dask`.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from snnbench.errors import SnnbenchError, UsageError
from snnbench.preemption import on_sigterm
from snnbench.seeding import resolve_device

LOCAL = "local"
ATTEMPTS = 3
"""How often a job is begun before we believe that it is the job that kills its process."""

_TELL_EVERY_S = 0.2
"""How often a job tells how far it is."""

_PATIENCE_S = 30.0
"""A process that was told to end gets this long, so that it can tell MLflow."""

Job = TypeVar("Job")
Slot = TypeVar("Slot")


class Wire(Protocol):
    """What a job has of the process that coordinates."""

    def tell(self, report: Any) -> None:
        """Send anything that pickles to the coordinator's `heard`."""

    def stopped(self) -> bool:
        """True once the coordinator has asked this job to come to an end."""


@dataclass(frozen=True)
class Failure:
    """A job without a result."""

    kind: Literal["error", "killed"]
    """`error`: it raised; `killed`: its process died, in every attempt."""
    message: str
    error: Exception | None = field(default=None, compare=False)
    """Of kind `error`: what was raised, with the traceback of the other process as a note."""

    def as_error(self, killed: str) -> Exception:
        """What to raise for it: the job's own error, or one that says `killed` where its process was."""
        if self.kind == "killed":
            return SnnbenchError(killed)
        return self.error or SnnbenchError(self.message)


def seldom(tell: Callable[[Any], None]) -> Callable[[Any], None]:
    """The same, but for what comes within a moment of what was told last: that is left out."""
    told_at = 0.0

    def tell_seldom(report: Any) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _TELL_EVERY_S:
            told_at = time.monotonic()
            tell(report)

    return tell_seldom


Work = Callable[[Any, Wire], Any]
"""work(job, wire) -> result: a function of a module, which another process can import."""


class Event(NamedTuple):
    """Something that came of the job in a slot."""

    slot: Any
    kind: Literal["told", "done", "failed", "lost"]
    """`lost`: its process died; payload is how."""
    payload: Any


def check_scheduler(scheduler: str) -> None:
    """Refuse what is neither `local` nor the address of a Dask scheduler.

    Raises
    ------
    UsageError
    """
    host, _, port = scheduler.removeprefix("tcp://").rpartition(":")
    if scheduler != LOCAL and not (scheduler.startswith("tcp://") and host and port.isdecimal()):
        raise UsageError(
            f"scheduler {scheduler!r}: take local, or the address of a running Dask scheduler as"
            " tcp://HOST:PORT (docs/scale.md)"
        )


@contextmanager
def open_cluster(
    scheduler: str = LOCAL, workers: int | None = None, device: str = "cpu"
) -> Iterator[Cluster[Any]]:
    """Somewhere to run jobs.

    Parameters
    ----------
    scheduler : `local`, or the tcp://HOST:PORT of a running Dask scheduler.
    workers : local processes; None: as many as `local_slots`. A Dask cluster has the workers it has.
    device : auto, cpu or cuda. On a GPU every local process sees one of its own, in turn where there are
        more processes than GPUs; on Dask a job goes to workers with the resource GPU, and auto is cpu.

    Raises
    ------
    UsageError
        Another scheduler, or a device that is not there.
    SnnbenchError
        No Dask scheduler answers, it has no fitting workers, or one runs other versions.
    """
    check_scheduler(scheduler)
    cluster: Cluster[Any]
    if scheduler == LOCAL:
        slots = workers or local_slots(device)
        gpus = visible_gpus() if _on_gpu(device) else []
        cluster = _LocalCluster([_one_gpu(gpus, k) for k in range(slots)])
    else:
        from snnbench.cluster_dask import DaskCluster

        cluster = DaskCluster(scheduler, gpu=device == "cuda")
    try:
        yield cluster
    finally:
        cluster.close()


def local_slots(device: str) -> int:
    """Jobs at a time on this machine: one per GPU, or one per processor this process may use."""
    return len(visible_gpus()) if _on_gpu(device) else len(os.sched_getaffinity(0))


def _on_gpu(device: str) -> bool:
    return device != "cpu" and resolve_device(device).type == "cuda"


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(k) for k in range(count)]


def _one_gpu(gpus: list[str], k: int) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} if gpus else {}


@dataclass
class _Task:
    job: Any
    attempts: int = 0


class Cluster(ABC, Generic[Slot]):
    """Slots that take a job each; what is lost with a slot is tried again in another."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Jobs at a time."""

    def run(
        self,
        work: Work,
        jobs: Iterable[Job],
        *,
        heard: Callable[[Job, Any], bool | None] = lambda job, report: None,
        done: Callable[[Job, Any], None],
    ) -> None:
        """Do all jobs.

        Parameters
        ----------
        work : a function of a module, which another process can import.
        jobs : asked for the next one when a slot is free, not before.
        heard : heard(job, report), here, for all that a job tells; True asks the job to stop. A job that
            is tried again tells from the beginning.
        done : done(job, outcome), here; the outcome is what `work` returned, or a Failure.

        Raises
        ------
        Exception
            Whatever `jobs`, `heard` or `done` raise; the jobs that go on are then stopped.
        """
        asked, again = iter(jobs), list[_Task]()
        busy: dict[Slot, _Task] = {}
        more = True
        try:
            while True:
                for slot in self._free(busy):
                    if again:
                        task = again.pop(0)
                    elif more:
                        try:
                            task = _Task(next(asked))
                        except StopIteration:
                            more = False
                            break
                    else:
                        break
                    busy[slot] = task
                    task.attempts += 1
                    self._begin(slot, work, task.job)
                if not (busy or again or more):
                    return
                for slot, kind, payload in self._events(busy):
                    if kind == "told":
                        if heard(busy[slot].job, payload):
                            self._stop(slot)
                        continue
                    task = busy.pop(slot)
                    if kind == "done":
                        done(task.job, payload)
                    elif kind == "failed":
                        done(task.job, Failure("error", _in_words(payload), payload))
                    elif task.attempts < ATTEMPTS:
                        again.append(task)
                    else:
                        message = f"its process died {ATTEMPTS} times, at last {payload}"
                        done(task.job, Failure("killed", message))
        except BaseException:
            self._abandon(busy)
            raise

    @abstractmethod
    def _free(self, busy: Mapping[Slot, Any]) -> list[Slot]:
        """Slots that are not busy."""

    @abstractmethod
    def _begin(self, slot: Slot, work: Work, job: Any) -> None: ...

    @abstractmethod
    def _events(self, busy: Mapping[Slot, Any]) -> Iterator[Event]:
        """What comes of the busy slots next; waits, if only for a while. `told` comes before `done`."""

    @abstractmethod
    def _stop(self, slot: Slot) -> None:
        """Make `wire.stopped()` of the slot's job true."""

    @abstractmethod
    def _abandon(self, busy: Mapping[Slot, Any]) -> None:
        """End the busy slots' jobs; nobody waits for them any more."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the cluster holds; no job goes on."""


def _in_words(error: Exception) -> str:
    if isinstance(error, SnnbenchError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def portable(error: Exception) -> Exception:
    """The error as another process can have it, with its traceback as a note where it is a bug of ours."""
    if isinstance(error, SnnbenchError):
        return error
    told = "".join(traceback.format_exception(error))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # an exception's class may need arguments that it does not keep
        copy = RuntimeError(_in_words(error))
    copy.add_note(f"in the process of the job:\n{told}")
    return copy


def done_or_failed(work: Work, job: Any, wire: Wire) -> bytes:
    """Do a job; the event that comes of it, pickled: ("done", result) or ("failed", error)."""
    try:
        return pickle.dumps(("done", work(job, wire)))
    except Exception as error:
        return pickle.dumps(("failed", portable(error)))


# --- this machine: the coordinator's side


class _LocalCluster(Cluster[int]):
    """A process for every slot, begun with its first job, and again where it died."""

    def __init__(self, environments: list[dict[str, str]]) -> None:
        self._environments = environments
        self._workers: dict[int, _Worker] = {}

    @property
    def slots(self) -> int:
        return len(self._environments)

    def _free(self, busy: Mapping[int, Any]) -> list[int]:
        return [slot for slot in range(self.slots) if slot not in busy]

    def _begin(self, slot: int, work: Work, job: Any) -> None:
        worker = self._workers.get(slot)
        if worker is None or not worker.process.is_alive():
            self._workers[slot] = worker = _Worker(self._environments[slot])
        worker.send((work, job))

    def _events(self, busy: Mapping[int, Any]) -> Iterator[Event]:
        workers = {slot: self._workers[slot] for slot in busy}
        ready = wait([end for w in workers.values() for end in (w.pipe, w.process.sentinel)])
        for slot, worker in workers.items():
            if worker.pipe not in ready and worker.process.sentinel not in ready:
                continue
            try:
                # a dead process may have sent its result before; a pipe that is not at its end though
                # the process is dead is held open by a child of it
                if not worker.pipe.poll():
                    raise EOFError
                kind, payload = pickle.loads(worker.pipe.recv_bytes())
            except (EOFError, OSError):
                del self._workers[slot]
                yield Event(slot, "lost", worker.end())
            else:
                yield Event(slot, kind, payload)

    def _stop(self, slot: int) -> None:
        self._workers[slot].send(None)

    def _abandon(self, busy: Mapping[int, Any]) -> None:
        _end_all([self._workers.pop(slot) for slot in busy if slot in self._workers])

    def close(self) -> None:
        _end_all(list(self._workers.values()))
        self._workers.clear()


class _Worker:
    """A process and our end of its pipe."""

    def __init__(self, environment: dict[str, str]) -> None:
        # spawn: a forked child would inherit locks of torch's threads
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, environment))
        with _ctrl_c_held_back():
            self.process.start()
        theirs.close()

    def send(self, message: Any) -> None:
        data = pickle.dumps(message)
        try:
            self.pipe.send_bytes(data)
        except OSError:
            return  # it has just died, which its pipe will tell

    def end(self, deadline: float | None = None) -> str:
        """Wait until it has ended, kill it at the deadline; how it ended, in words."""
        left = _PATIENCE_S if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            self.process.join(left)
        finally:
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
        code = self.process.exitcode or 0
        self.pipe.close()
        self.process.close()
        return f"of signal {-code}" if code < 0 else f"with exit code {code}"


def _end_all(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while workers:
            workers.pop().end(deadline)
    finally:  # Ctrl-C once more
        for worker in workers:
            worker.process.kill()
            worker.end()


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """A process begun within the block is deaf to Ctrl-C until it says otherwise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- this machine: the worker's side


class _PipeWire:
    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._stopped = False

    def tell(self, report: Any) -> None:
        self._pipe.send_bytes(pickle.dumps(("told", report)))

    def stopped(self) -> bool:
        while not self._stopped and self._pipe.poll():
            # nothing but a request to stop comes while a job goes on
            self._pipe.recv_bytes()
            self._stopped = True
        return self._stopped


def _serve(pipe: Connection, environment: dict[str, str]) -> None:
    """A worker's life: job after job, until the pipe ends."""
    # Ctrl-C reaches the whole process group, but the coordinator decides; its SIGTERM ends a job after a
    # training step, whose state is saved, and so that MLflow is told
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        signal.signal(signal.SIGTERM, on_sigterm)
        os.environ.update(environment)
        threading.Thread(target=_end_with_coordinator, daemon=True).start()
        while True:
            message = pipe.recv_bytes()
            try:
                task = pickle.loads(message)
            except Exception as error:  # a module that cannot be imported here
                pipe.send_bytes(pickle.dumps(("failed", portable(error))))
                continue
            if task is not None:  # None: a request to stop that came when the job was done
                work, job = task
                pipe.send_bytes(done_or_failed(work, job, _PipeWire(pipe)))
    except (EOFError, OSError, KeyboardInterrupt):
        return
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_with_coordinator() -> None:
    """Where the coordinator was killed nobody wants the job's result, and a rerun wants its folder."""
    coordinator = multiprocessing.parent_process()
    if coordinator is not None:
        coordinator.join()
        os.kill(os.getpid(), signal.SIGTERM)
