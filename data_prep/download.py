"""Brings a data set's source files onto this machine: mirrors in order, checked, whole or not at all.

For every file or folder that a recipe's `[download]` names, in this order: what is in the source folder
already and has the right hash is taken as it is; a packed file that somebody put there is unpacked; the
mirrors are asked, in order, for the packed alternatives, in order. A file is installed by one rename,
after its hash is checked, packed and unpacked. `origin.json` in the folder says what came from where.

mirrors.py tries addresses, transfer.py speaks to one server, archives.py unpacks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.data_prep.archives import ArchiveError, is_packed, unpack
from snnbench.data_prep.recipe import Download, DownloadSpec, Recipe
from snnbench.errors import SnnbenchError
from snnbench.paths import file_sha256, write_text

if TYPE_CHECKING:  # what speaks to the network is imported when there is something to fetch
    from snnbench.data_prep.transfer import Progress, Timeouts

_log = logging.getLogger(__name__)

ORIGIN = "origin.json"
_INCOMING = ".incoming"
"""Where everything is that is not finished."""
_MISSING = "missing"


def fetch(
    recipe: Recipe,
    folder: Path,
    *,
    mirrors: Sequence[str] = (),
    offline: bool = False,
    keep_archives: bool = False,
    timeouts: Timeouts | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Make sure that the recipe's source files are in `folder`; returns the folder to convert from.

    That is `folder`, or the one folder in it that the recipe's only archive unpacks to. What is there
    is not fetched again. May be stopped at any time: whole files are kept, a partial one is continued.

    Parameters
    ----------
    mirrors : addresses that replace the recipe's. Plain http is accepted from here only, with a
        warning, and never for a file whose hash is not known.
    offline : open no socket; what is missing is an error.
    keep_archives : leave the packed files in `folder`.
    progress : called before the first byte of every file, with its size, and after every block.

    Raises
    ------
    SnnbenchError
        Nothing gave a file: names every address that was tried and why it failed; or there is no
        space; or `offline`, and something is missing.
    """
    spec = recipe.download
    if spec is None:
        raise SnnbenchError(
            f"{recipe.name} has no download: get {recipe.source.about}, and call"
            " `snnbench data convert` likewise, with --source FOLDER"
        )
    # without the lock first: a folder that is complete may well be read-only
    if _lacking(folder, spec):
        with _writing(folder), _alone(folder), _incoming(folder, spec):
            for wanted, _ in _lacking(folder, spec):
                _from_local_file(folder, wanted)
            if offline:
                _require_all(recipe.name, folder, spec)
            elif lacking := _lacking(folder, spec):
                from snnbench.data_prep.mirrors import Mirrors

                source = Mirrors(
                    recipe.name, spec, folder / _INCOMING, tuple(mirrors), timeouts, progress
                )
                for wanted, reason in lacking:
                    if reason != _MISSING:
                        _log.warning("%s: %s; fetched again", folder / wanted.target, reason)
                    archive = source.bring(wanted, partial(_install, folder, wanted))
                    if keep_archives and archive.exists():
                        archive.replace(folder / archive.name)
                    archive.unlink(missing_ok=True)
    only = folder / spec.files[0].target
    return only if len(spec.files) == 1 and only.is_dir() else folder


def hash_like(path: Path, known: str) -> str:
    """Hash of a file, of the kind of `known` (`md5:...` or `sha256:...`)."""
    kind = known.partition(":")[0]
    with open(path, "rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def _lacking(folder: Path, spec: DownloadSpec) -> list[tuple[Download, str]]:
    """What is not there, or not as it should be, and why."""
    origins = _read_origins(folder)
    reasons = [
        (wanted, _fault(folder, wanted, origins.get(wanted.target))) for wanted in spec.files
    ]
    return [(wanted, reason) for wanted, reason in reasons if reason]


def _fault(folder: Path, wanted: Download, origin: dict[str, Any] | None) -> str:
    """What is wrong with a target, "" where it is right or nothing is known against it."""
    path = folder / wanted.target
    if not path.exists():
        return _MISSING
    if path.is_dir():
        expected = {k: origin[k] for k in ("files", "bytes")} if origin else None
        if expected and (found := _tally(path)) != expected:
            # somebody's work may be in it: not ours to replace
            raise SnnbenchError(
                f"{path}: has been changed since it was unpacked: {found['files']} files,"
                f" {found['bytes']:,} bytes, not {expected['files']} and {expected['bytes']:,};"
                " remove it and run again"
            )
        return ""
    known = wanted.hash or (f"sha256:{origin['sha256']}" if origin else "")
    if known and (found_hash := hash_like(path, known)) != known:
        return f"its checksum is {found_hash}, expected {known}"
    return ""


def _require_all(name: str, folder: Path, spec: DownloadSpec) -> None:
    lines = "".join(
        f"\n  {wanted.target} ({' or '.join(p.name for p in wanted.packed)}): {reason}"
        for wanted, reason in _lacking(folder, spec)
    )
    if lines:
        raise SnnbenchError(
            f"{name}: not all is in {folder}, and nothing is fetched offline:{lines}\n"
            "Put the files there and run again, or run without --offline."
        )


def _from_local_file(folder: Path, wanted: Download) -> None:
    """Unpack a packed file that is in the source folder, if one is and it is the right one."""
    for packed in wanted.packed:
        path = folder / Path(packed.name).name
        if not is_packed(path.name) or path.name == wanted.target or not path.is_file():
            continue
        try:
            if packed.hash and (found := hash_like(path, packed.hash)) != packed.hash:
                raise ArchiveError(f"its checksum is {found}, expected {packed.hash}")
            _install(folder, wanted, path, "a file in this folder")
            return
        except ArchiveError as error:
            _log.warning("%s: %s; not used", path, error)


def _install(folder: Path, wanted: Download, archive: Path, origin: str) -> None:
    """Unpack, check, and move into place; nothing changes in the folder where that fails.

    Raises
    ------
    ArchiveError
        What is in the archive is not what is wanted.
    """
    note: dict[str, Any] = {"from": origin, "archive": archive.name}
    note["archive_sha256"] = file_sha256(archive)
    unpacked = folder / _INCOMING / "unpacked" / wanted.target
    unpacked.parent.mkdir(exist_ok=True)
    if is_packed(archive.name) and archive.name != wanted.target:
        unpack(archive, unpacked)
    else:
        archive.replace(unpacked)
    if unpacked.is_dir():
        note |= _tally(unpacked)
    else:
        if wanted.hash and (found := hash_like(unpacked, wanted.hash)) != wanted.hash:
            unpacked.unlink()
            raise ArchiveError(
                f"{wanted.target} in it has checksum {found}, expected {wanted.hash}"
            )
        note |= {"sha256": file_sha256(unpacked), "bytes": unpacked.stat().st_size}
    note["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    unpacked.replace(folder / wanted.target)
    origins = _read_origins(folder) | {wanted.target: note}
    write_text(folder / ORIGIN, json.dumps(origins, indent=1) + "\n")


def _read_origins(folder: Path) -> dict[str, dict[str, Any]]:
    """What was noted about the targets; nothing where the note is damaged or not there."""
    try:
        origins = json.loads((folder / ORIGIN).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return origins if isinstance(origins, dict) else {}


def _tally(folder: Path) -> dict[str, int]:
    """Number and size of the files in a folder, to see later whether all are still there."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {"files": len(sizes), "bytes": sum(sizes)}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process fetches into the folder; the lock ends with the process."""
    import filelock

    lock = filelock.FileLock(folder / ".lock")
    try:
        held = lock.acquire(blocking=False)
    except filelock.Timeout:
        _log.warning("%s: another process is fetching these files; waiting for it", folder)
        held = lock.acquire()
    with held:
        yield


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make the folder, and turn what the disk says against us into an error that names it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise SnnbenchError(f"{folder}: cannot write: {error.strerror or error}") from error


@contextmanager
def _incoming(folder: Path, spec: DownloadSpec) -> Iterator[None]:
    """The folder for what is not finished; only whole packed files and partial downloads stay in it."""
    incoming = folder / _INCOMING
    incoming.mkdir(exist_ok=True)
    packed = {Path(p.name).name for wanted in spec.files for p in wanted.packed}
    kept = {name + end for name in packed for end in ("", ".part", ".part.json")}
    for path in incoming.iterdir():  # left by an attempt that was killed
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in kept:
            path.unlink()
    try:
        yield
    finally:
        for empty in (incoming / "unpacked", incoming):
            with suppress(OSError):
                empty.rmdir()
