"""Folders, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from snnbench.errors import SnnbenchError
from snnbench.paths import (
    data_dir,
    dataset_path,
    file_sha256,
    home_dir,
    whole_file,
    write_bytes,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNNBENCH_HOME", "~/results")
    monkeypatch.setenv("SNNBENCH_DATA", "/big/data")
    assert home_dir() == Path.home() / "results"
    assert data_dir() == Path("/big/data")
    assert dataset_path("hd") == Path("/big/data/hd.h5")


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_environment_the_platforms_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    for name in ("SNNBENCH_HOME", "SNNBENCH_DATA"):
        monkeypatch.delenv(name)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert home_dir() == tmp_path / "share/snnbench"
    assert data_dir() == tmp_path / "cache/snnbench"
    assert names(tmp_path) == []


def test_a_file_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/data.npz"
    with whole_file(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".npz"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["data.npz"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_and_fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_and_fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        assert os.umask(before) == 0o027
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_text_is_utf_8_and_bytes_are_bytes(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "fünf\n")
    write_bytes(tmp_path / "b", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == b"f\xc3\xbcnf\n"
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file/a.txt", Path("/proc/a.txt")):
        with pytest.raises(SnnbenchError) as caught:
            write_text(path, "x")
        assert str(caught.value).startswith(f"{path}: cannot write: ")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SnnbenchError, match="folder: cannot write: Is a directory"):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder"]


FULL_DISK = """
import resource, signal, sys
from snnbench.errors import SnnbenchError
from snnbench.paths import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(sys.argv[1], bytes(5000))
except SnnbenchError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert done.stdout == f"{path}: cannot write: File too large\n"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_files_digest(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    write_bytes(tmp_path / "a", content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    for path, reason in ((tmp_path / "b", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SnnbenchError, match=f"{path}: cannot read: {reason}"):
            file_sha256(path)
