"""One process makes a file at a time, and what a killed one left half written is cleared away."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snnbench.errors import SnnbenchError
from snnbench.locks import one_process


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold `out` for this process during the block, and start without leftovers of it and its parts.

    Raises
    ------
    SnnbenchError
        Another process holds `out`, or its folder cannot be written.
    """
    with one_process(out) as mine:
        if not mine:
            raise SnnbenchError(
                f"{out}: another process is making it at this moment; wait for it, or write to another place"
            )
        for leftover in _leftovers(out):
            leftover.unlink(missing_ok=True)
        yield


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
