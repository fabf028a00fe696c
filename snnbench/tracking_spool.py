"""What a run tells MLflow, as events, and the file in the run folder where those wait that were not sent.

    unsent.jsonl    a line of JSON per event: Begin first, then what happened, End when the run ended

A line is written at once, so a killed run leaves whole lines; a last line without its end is dropped.
Whoever uses the file holds its lock: a run that goes on, or the one process that sends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from snnbench.errors import SnnbenchError

SPOOL_FILE = "unsent.jsonl"


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Parent(_Event):
    """The MLflow run above a run: all seeds of one model on one task, or all trials of a sweep."""

    kind: Literal["bench", "sweep"]
    key: str
    """The same for all its children, and for nothing else in the store."""
    name: str
    params: Mapping[str, str]


class Begin(_Event):
    """The run as such. Sent again, it takes up the MLflow run that is there."""

    kind: Literal["begin"] = "begin"
    version: Literal[1] = 1
    tracking_uri: str
    """Without a password."""
    experiment: str
    run_name: str
    token: str
    """Tag by which the MLflow run is found again; unlike its id it is known before there is one."""
    begun: bool = False
    """Whether the store had the run already when this was written."""
    params: Mapping[str, str]
    tags: Mapping[str, str]
    time_ms: int
    parent: Parent | None = None
    temporary: bool = False
    """Whether the folder has no purpose but to wait: of a trial, it goes when all is sent."""


class Metrics(_Event):
    """Figures of one step; a key has one value at a step."""

    kind: Literal["metrics"] = "metrics"
    step: int
    time_ms: int
    values: Mapping[str, float]


class Tags(_Event):
    """Tags of the run."""

    kind: Literal["tags"] = "tags"
    values: Mapping[str, str]


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not in the run folder")
    return name


class Files(_Event):
    """Files of the run folder, by their path in it, which is the artifact's path, too."""

    kind: Literal["files"] = "files"
    names: tuple[Annotated[str, AfterValidator(_inside)], ...]


class End(_Event):
    """The run ended so."""

    kind: Literal["end"] = "end"
    status: Literal["FINISHED", "FAILED", "KILLED"]
    time_ms: int


Event = Begin | Metrics | Tags | Files | End
_ANY: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


class Spool:
    """An open, locked spool file; `open_spool` opens one."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been written yet."""
        return os.fstat(self._file.fileno()).st_size == 0

    def append(self, event: Event) -> None:
        """Write an event behind the others."""
        self._file.write(event.model_dump_json().encode() + b"\n")
        self._file.flush()

    def read(self) -> list[Event]:
        """All events in order.

        Raises
        ------
        SnnbenchError
            A line is not an event, or the first one is not Begin; names the file and the line.
        """
        self._file.seek(0)
        events: list[Event] = []
        for number, line in enumerate(self._file.read().splitlines(), 1):
            try:
                event = _ANY.validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                key = "".join(f", {name}" for name in first["loc"][1:])
                raise self._damaged(f"line {number}{key}: {first['msg']}") from None
            if isinstance(event, Begin) != (number == 1):
                raise self._damaged(f"line {number}: a run begins in line 1, and there only")
            events.append(event)
        return events

    def remove(self) -> None:
        """Everything is sent."""
        self.path.unlink()

    def close(self) -> None:
        """Let others use the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _damaged(self, problem: str) -> SnnbenchError:
        return SnnbenchError(
            f"{self.path}: not what snnbench wrote: {problem}; remove the file, and"
            f" `snnbench track import {self.path.parent}` makes the view of a finished run anew"
        )


def open_spool(folder: Path, *, create: bool = False) -> Spool | None:
    """The spool of a run folder, locked; None where there is none.

    Raises
    ------
    BlockingIOError
        Another process uses it: the run goes on, or is being sent.
    SnnbenchError
        The file cannot be opened.
    """
    path = folder / SPOOL_FILE
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        try:
            file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SnnbenchError(f"{path}: cannot open: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        if _is_still(path, file):
            _drop_torn_line(file)
            return Spool(path, file)
        file.close()  # sent and removed between opening and locking


def folders_with_spool(root: Path) -> list[Path]:
    """All folders below `root` that have something unsent, in order."""
    return sorted(path.parent for path in root.rglob(SPOOL_FILE))


def _is_still(path: Path, file: IO[bytes]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    return False


def _drop_torn_line(file: IO[bytes]) -> None:
    content = file.read()
    file.truncate(content.rfind(b"\n") + 1)
