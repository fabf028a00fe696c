"""One process trains a run at a time, and what a killed one left half written is cleared away."""

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
def only_trainer(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a run folder for this process during the block; yields whether it could be had.

    The lock is the operating system's (`.<name>.lock` beside the folder), which ends with the process that
    holds it, however that ends. So whoever holds it may remove the temporary files of the folder and its
    pictures: their writers are gone. (Folders further below, of folds, have locks of their own.)

    Parameters
    ----------
    wait : until another process that holds it has ended; otherwise the block runs without it, and is told.

    Raises
    ------
    SnnbenchError
        The folder's own folder cannot be written.
    """
    import filelock

    path = folder.with_name(f".{folder.name}.lock")
    lock = filelock.FileLock(path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        mine = _acquired(lock, timeout=0)
        if wait and not mine:
            _log.warning("%s: another process is training it; waiting for it", folder.name)
            mine = _acquired(lock, timeout=-1)
    except OSError as error:
        raise SnnbenchError(f"{folder}: cannot write: {error.strerror or error}") from error
    if not mine:
        yield False
        return
    try:
        for leftover in [*folder.glob(".*.tmp*"), *folder.glob("*/.*.tmp*")]:
            leftover.unlink(missing_ok=True)
        yield True
    finally:
        # while it is held: a process that has opened the removed file sees that, and opens it anew
        path.unlink(missing_ok=True)
        lock.release()


def _acquired(lock: FileLock, timeout: float) -> bool:
    import filelock

    try:
        lock.acquire(timeout=timeout)
    except filelock.Timeout:  # an OSError
        return False
    return True
