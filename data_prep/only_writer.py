"""One process makes a file at a time, and what a killed one left half written is cleared away."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snnbench.errors import SnnbenchError


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold `out` for this process during the block, and start without leftovers.

    The lock is the operating system's (`.<name>.lock` beside `out`), which ends with the process that
    holds it, however that ends. So whoever holds it may remove all temporary files of `out` and of
    its parts: their writers are gone.

    Raises
    ------
    SnnbenchError
        Another process holds `out`, or its folder cannot be written.
    """
    import filelock

    path = out.with_name(f".{out.name}.lock")
    lock = filelock.FileLock(path, timeout=0)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise SnnbenchError(
            f"{out}: another process is making it at this moment; wait for it, or write to another place"
        ) from None
    except OSError as error:
        raise SnnbenchError(f"{out}: cannot write: {error.strerror or error}") from error
    try:
        for leftover in _leftovers(out):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        # while it is held: a process that has opened the removed file sees that, and opens it anew
        path.unlink(missing_ok=True)
        lock.release()


def parts_folder(out: Path) -> Path:
    """Folder beside `out` for what is finished before all of it is."""
    return out.with_name(f"{out.name}.parts")


def clear_finished_parts(out: Path) -> None:
    """Remove the parts of a finished `out`, which a writer that was killed just then left there.

    Parts that are newer than `out` belong to a conversion that is to replace it, and stay.
    """
    shards = [p for p in parts_folder(out).rglob("*") if p.is_file()]
    if not parts_folder(out).is_dir() or not out.is_file():
        return
    if all(p.stat().st_mtime_ns <= out.stat().st_mtime_ns for p in shards):
        with suppress(SnnbenchError), only_writer(out):
            shutil.rmtree(parts_folder(out), ignore_errors=True)


def _leftovers(out: Path) -> Iterator[Path]:
    """Temporary files of `paths.whole_file` for `out` and in its folder of parts."""
    own = re.compile(rf"\.{re.escape(out.stem)}\.\w{{8}}\.tmp{re.escape(out.suffix)}")
    yield from [p for p in out.parent.iterdir() if own.fullmatch(p.name)]
    yield from list(parts_folder(out).rglob(".*.tmp*"))
