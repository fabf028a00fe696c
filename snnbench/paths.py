"""Where things live on disk, and how files appear: whole or not at all.

`SNNBENCH_HOME` moves runs, the MLflow store and the local board; `SNNBENCH_DATA` moves data sets and
cached tables. Without them the platform's user folders are used. Compiled kernels always go to the
platform's user cache (`XDG_CACHE_HOME` moves it).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from snnbench.errors import SnnbenchError


def home_dir() -> Path:
    """Folder for results (runs, MLflow store, local board); not created here."""
    if value := os.environ.get("SNNBENCH_HOME"):
        return Path(value).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("snnbench"))


def data_dir() -> Path:
    """Folder for converted data sets and cached tables; not created here."""
    if value := os.environ.get("SNNBENCH_DATA"):
        return Path(value).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("snnbench"))


def offline() -> bool:
    """Whether no connection may be opened: `snnbench --offline`, or SNNBENCH_OFFLINE=1."""
    return os.environ.get("SNNBENCH_OFFLINE", "0") not in ("", "0")


def kernel_dir() -> Path:
    """Folder for compiled kernels; not created here."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("snnbench")) / "kernels"


def dataset_path(name: str) -> Path:
    """Where the converted data set `name` is kept unless the user says otherwise."""
    return data_dir() / f"{name}.h5"


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is renamed to `path`.

    On any exception, Ctrl-C included, the temporary is removed and `path` is left as it was.
    A full disk or a missing permission becomes a SnnbenchError that names `path`.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp makes a private 0600 file; keep the suffix so that writers which add one are content
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}.", suffix=f".tmp{path.suffix}", dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _flush_to_disk(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise SnnbenchError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Contents of all files of a folder, by path relative to it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write_folder(folder: Path, files: Mapping[str, bytes], *, last: str) -> None:
    """Write what `read_folder` has read on another machine; the file `last` tells that all are there.

    Raises
    ------
    SnnbenchError
        A name that leads out of the folder.
    """
    for name in sorted(files, key=lambda name: name == last):
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise SnnbenchError(f"{folder}: a worker sent the file {name!r}, which lies outside")
        write_bytes(path, files[name])


def file_sha256(path: Path | str) -> str:
    """Hex sha256 of a file's bytes, read in blocks."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SnnbenchError(f"{path}: cannot read: {error.strerror or error}") from error


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
