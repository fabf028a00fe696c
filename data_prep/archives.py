"""Unpacks downloaded archives: .gz, .zip, .tar.gz, .tgz. Whole or not at all, and nowhere else.

An archive is input from outside. Nothing of it is believed: a member that is a link or a device, that
leaves the folder, that comes twice, or that makes the whole larger than a cap is an error that names it.
Members are written as plain new files with this process's own permissions, so modes and owners in the
archive have no effect. All is unpacked into a temporary folder beside the target; one rename at the
end makes it appear.
"""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from snnbench.errors import SnnbenchError

MAX_BYTES = 200 << 30
MAX_RATIO = 200
"""Unpacked bytes per packed byte. Spikes and sound reach 2 to 5; a bomb of zeros has 1,000."""
MAX_MEMBERS = 1_000_000
"""The largest of our archives, Speech Commands, has 105,836."""

_FREE_BYTES = 16 << 20  # too little to harm anybody, whatever its ratio
_BLOCK = 1 << 20
_SUFFIXES = (".tar.gz", ".tgz", ".zip", ".gz")


class ArchiveError(SnnbenchError):
    """The archive is damaged or not to be trusted; another copy of it may do."""


class _Member(NamedTuple):
    name: str
    is_folder: bool
    open: Callable[[], IO[bytes] | gzip.GzipFile]


class _Refused(Exception):
    """A member that must not be unpacked, and why."""


def is_packed(name: str) -> bool:
    """Whether `unpack` knows what to do with a file of this name."""
    return name.lower().endswith(_SUFFIXES)


def unpack(
    archive: Path,
    target: Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_ratio: float = MAX_RATIO,
    max_members: int = MAX_MEMBERS,
) -> None:
    """Unpack `archive` so that `target` is there, whole; what was at `target` is replaced.

    `target` becomes the member with its name where there is one at the top (a .gz always is one), else
    the folder that holds everything, be it in the archive or not.

    Parameters
    ----------
    max_bytes, max_ratio, max_members : the largest sum of sizes, sum of sizes per size of the archive,
        and number of members that are unpacked.

    Raises
    ------
    ArchiveError
        Naming the archive and the member: it is damaged or not to be trusted.
    SnnbenchError
        It cannot be written, for want of space for example.

    Nothing is left behind after an error, and `target` is as it was.
    """
    place = str(archive)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        if not (size := archive.stat().st_size):  # to gzip, nothing at all is a valid file
            raise _Refused("is empty")
        limit = min(max_bytes, int(size * max_ratio) + _FREE_BYTES)
        # mkdtemp's folder is private; one within it gets this process's usual permissions
        root = temporary.resolve() / "content"
        root.mkdir()
        written = 0
        for count, member in enumerate(_members(archive, root, target.name), 1):
            place = f"{archive}: member {member.name!r}"
            if count > max_members:
                raise _Refused(f"is one more than the {max_members} that are unpacked")
            path = _inside(root, member.name)
            if member.is_folder:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            written += _copy(member, path, limit - written)
            place = str(archive)
        _replace(_wanted(root, target.name), target)
    except _Refused as reason:
        raise ArchiveError(f"{place} {reason}; nothing was unpacked") from None
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError),
        *(NotImplementedError, RuntimeError, ValueError),  # what zipfile and tarfile do not know
    ) as error:
        raise ArchiveError(f"{place}: damaged or not readable: {error}") from None
    except OSError as error:
        raise SnnbenchError(f"{place}: cannot be unpacked: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _members(archive: Path, root: Path, only: str) -> Iterator[_Member]:
    name = archive.name.lower()
    if name.endswith((".tar.gz", ".tgz")):
        yield from _tar_members(archive, root)
    elif name.endswith(".zip"):
        yield from _zip_members(archive)
    elif name.endswith(".gz"):
        # the name within a .gz is anybody's: not read
        yield _Member(only, False, partial(gzip.open, archive))
    else:
        raise SnnbenchError(f"{archive}: is none of {', '.join(_SUFFIXES)}")


def _tar_members(archive: Path, root: Path) -> Iterator[_Member]:
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                kind = "a link" if member.issym() or member.islnk() else "a device or pipe"
                raise ArchiveError(
                    f"{archive}: member {member.name!r} is {kind}; nothing was unpacked"
                )
            try:
                tarfile.data_filter(member, str(root))
            except tarfile.FilterError as error:
                raise ArchiveError(f"{archive}: {error}; nothing was unpacked") from None
            yield _Member(member.name, member.isdir(), partial(_content, tar, member))
        # the checksum is behind the last member, where tarfile has no reason to look
        while stream.read(_BLOCK):
            pass


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None, "only links and folders have no content"
    return content


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            # the file's type in Unix, 0 where the archive was made elsewhere
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                what = "a link" if kind == stat.S_IFLNK else "a device or pipe"
                raise ArchiveError(
                    f"{archive}: member {info.filename!r} is {what}; nothing was unpacked"
                )
            yield _Member(info.filename, info.is_dir(), partial(packed.open, info))


def _inside(root: Path, name: str) -> Path:
    """Where member `name` goes; refused where that is not in `root` (which is resolved)."""
    path = (root / name).resolve()
    # not a comparison of text: root_evil begins like root
    if not path.is_relative_to(root):
        raise _Refused("does not stay in the folder")
    return path


def _copy(member: _Member, path: Path, limit: int) -> int:
    """Write the member's bytes, `limit` at most, to the new file `path`; returns their number."""
    size = 0
    try:
        target = open(path, "xb")  # noqa: SIM115
    except FileExistsError:
        raise _Refused("is there twice") from None
    with target, member.open() as source:
        while block := source.read(_BLOCK):
            size += len(block)
            # counted, because the size in the header is the archive's own word
            if size > limit:
                raise _Refused("makes the archive larger than any data set packs: a zip bomb?")
            target.write(block)
    return size


def _wanted(root: Path, name: str) -> Path:
    """What becomes the target: see `unpack`."""
    top = list(root.iterdir())
    if not top:
        raise _Refused("is empty")
    named = root / name
    if named.exists():
        return named
    return top[0] if len(top) == 1 and top[0].is_dir() else root


def _replace(unpacked: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    unpacked.replace(target)
