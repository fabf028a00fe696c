"""One process trains a run at a time, and what a killed one left half written is cleared away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snnbench.locks import one_process


@contextmanager
def only_trainer(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a run folder for this process during the block; yields whether it could be had.

    Temporary files of the folder and its pictures are removed. (Folders further below, of folds, have locks
    of their own.)

    Parameters
    ----------
    wait : until another process that holds it has ended; otherwise the block runs without it, and is told.

    Raises
    ------
    SnnbenchError
        The folder's own folder cannot be written.
    """
    waiting = f"{folder.name}: another process is training it; waiting for it" if wait else None
    with one_process(folder, waiting=waiting) as mine:
        if mine:
            for leftover in [*folder.glob(".*.tmp*"), *folder.glob("*/.*.tmp*")]:
                leftover.unlink(missing_ok=True)
        yield mine
