"""A file or folder is one process's at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from snnbench.errors import SnnbenchError

if TYPE_CHECKING:
    from filelock import FileLock

_log = logging.getLogger(__name__)


@contextmanager
def one_process(path: Path, *, waiting: str | None = None) -> Iterator[bool]:
    """Hold a file or folder for this process during the block; yields whether it could be had.

    The lock is the operating system's (`.<name>.lock` beside it), which ends with the process that holds it,
    however that ends. So whoever holds it may remove all temporary files that belong to it: their writers are
    gone.

    Parameters
    ----------
    waiting : what is told while another process holds it, and this one waits; None does not wait.

    Raises
    ------
    SnnbenchError
        The folder it is in cannot be written.
    """
    import filelock

    place = path.with_name(f".{path.name}.lock")
    lock = filelock.FileLock(place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = _acquired(lock, timeout=0)
        if waiting is not None and not mine:
            _log.warning("%s", waiting)
            mine = _acquired(lock, timeout=-1)
    except OSError as error:
        raise SnnbenchError(f"{path}: cannot write: {error.strerror or error}") from error
    if not mine:
        yield False
        return
    try:
        yield True
    finally:
        # while it is held: a process that has opened the removed file sees that, and opens it anew
        place.unlink(missing_ok=True)
        lock.release()


def _acquired(lock: FileLock, timeout: float) -> bool:
    import filelock

    try:
        lock.acquire(timeout=timeout)
    except filelock.Timeout:  # an OSError
        return False
    return True
