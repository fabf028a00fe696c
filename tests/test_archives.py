"""Archives unpack whole, into their folder only, or not at all."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from snnbench.data_prep.archives import is_packed, unpack
from snnbench.errors import SnnbenchError


def tar_of(path: Path, members: list[tuple[str, bytes | None]], *more: tarfile.TarInfo) -> Path:
    """A .tar.gz of files (name, content) and folders (name, None), and of `more` as they are."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b""))
        for info in more:
            tar.addfile(info)
    return path


def zip_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_untouched(folder: Path, archive: Path) -> None:
    assert [p.name for p in folder.iterdir()] == [archive.name]


# --- what unpacks


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a.h5.gz", True), ("a.ZIP", True), ("a.tar.gz", True), ("a.tgz", True), ("a.h5", False)],
)
def test_names_of_archives(name: str, is_one: bool) -> None:
    assert is_packed(name) == is_one


def test_gz_becomes_a_file(tmp_path: Path) -> None:
    archive = tmp_path / "shd_train.h5.gz"
    content = os.urandom(3 << 20)
    archive.write_bytes(gzip.compress(content, 1))
    unpack(archive, tmp_path / "shd_train.h5")
    assert (tmp_path / "shd_train.h5").read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 2


def test_zip_with_the_named_file_becomes_that_file(tmp_path: Path) -> None:
    # as the Mac packs it
    members = [("a.h5", b"data"), ("__MACOSX/._a.h5", b"rubbish")]
    unpack(zip_of(tmp_path / "a.h5.zip", members), tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == b"data"
    assert {p.name for p in tmp_path.iterdir()} == {"a.h5", "a.h5.zip"}


def test_tar_becomes_a_folder(tmp_path: Path) -> None:
    members = [("./", None), ("./audio", None), ("./audio/a.flac", b"a"), ("list.txt", b"a.flac")]
    unpack(tar_of(tmp_path / "hd.tar.gz", members), tmp_path / "hd_audio")
    assert tree(tmp_path / "hd_audio") == {"audio/a.flac": b"a", "list.txt": b"a.flac"}


@pytest.mark.parametrize("top", ["hd_audio", "other-1.0.10"])
def test_the_only_folder_at_the_top_becomes_the_target(tmp_path: Path, top: str) -> None:
    unpack(tar_of(tmp_path / "x.tgz", [(f"{top}/b/c", b"c")]), tmp_path / "hd_audio")
    assert tree(tmp_path / "hd_audio") == {"b/c": b"c"}


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/old").touch()
    unpack(tar_of(tmp_path / "x.tgz", [("a/new", b"n"), ("b", b"")]), tmp_path / "t")
    assert tree(tmp_path / "t") == {"a/new": b"n", "b": b""}


def test_permissions_are_ours(tmp_path: Path) -> None:
    info = special("a", tarfile.REGTYPE)
    info.mode, info.uid, info.uname = 0o6111, 12345, "somebody"
    folder = special("b", tarfile.DIRTYPE)
    folder.mode = 0o000
    unpack(tar_of(tmp_path / "x.tgz", [], info, folder), tmp_path / "t")
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "t/a").stat().st_mode == plain.stat().st_mode
    assert (tmp_path / "t/a").stat().st_uid == os.getuid()
    assert stat.S_IMODE((tmp_path / "t/b").stat().st_mode) & 0o700 == 0o700
    assert (tmp_path / "t").stat().st_mode == (tmp_path / "t/b").stat().st_mode


# --- what does not

OUTSIDE = ["../evil", "a/../../evil", "/tmp/evil", "../t_evil", "..", "a/.."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    for archive in (
        tar_of(tmp_path / "x.tar.gz", [("ok", b""), (name, b"evil")]),
        zip_of(tmp_path / "x.zip", [("ok", b""), (name, b"evil")]),
    ):
        with pytest.raises(SnnbenchError, match=r"x\.(zip|tar\.gz): .*evil|x\..*\.\.") as caught:
            unpack(archive, tmp_path / "t")
        assert "nothing was unpacked" in str(caught.value)
        archive.unlink()
    assert not list(tmp_path.iterdir())
    assert not Path("/tmp/evil").exists()


def test_a_folder_that_begins_like_the_target_is_outside(tmp_path: Path) -> None:
    """The check that compares texts takes content_evil for a part of content."""
    from snnbench.data_prep.archives import _inside, _Refused

    root = (tmp_path / "name").resolve()
    with pytest.raises(_Refused):
        _inside(root, f"{tmp_path.resolve()}/name_evil")
    with pytest.raises(_Refused):
        _inside(root, "../name_evil")
    assert _inside(root, "name_evil") == root / "name_evil"


@pytest.mark.parametrize(
    ("info", "word"),
    [
        (special("l", tarfile.SYMTYPE, "/etc/passwd"), "link"),
        (special("l", tarfile.SYMTYPE, "ok"), "link"),
        (special("l", tarfile.LNKTYPE, "ok"), "link"),
        (special("l", tarfile.FIFOTYPE), "device or pipe"),
        (special("l", tarfile.CHRTYPE), "device or pipe"),
        (special("l", tarfile.BLKTYPE), "device or pipe"),
    ],
)
def test_links_and_devices_in_a_tar(tmp_path: Path, info: tarfile.TarInfo, word: str) -> None:
    archive = tar_of(tmp_path / "x.tgz", [("ok", b"")], info)
    with pytest.raises(SnnbenchError, match=rf"x.tgz: member 'l' is a {word}"):
        unpack(archive, tmp_path / "t")
    assert_untouched(tmp_path, archive)


@pytest.mark.parametrize(("kind", "word"), [(stat.S_IFLNK, "link"), (stat.S_IFIFO, "device")])
def test_links_and_devices_in_a_zip(tmp_path: Path, kind: int, word: str) -> None:
    info = zipfile.ZipInfo("l")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(SnnbenchError, match=f"x.zip: member 'l' is a {word}"):
        unpack(tmp_path / "x.zip", tmp_path / "t")
    assert_untouched(tmp_path, tmp_path / "x.zip")


@pytest.mark.parametrize("again", ["a", "./a", ".//a"])
def test_a_name_that_comes_twice(tmp_path: Path, again: str) -> None:
    archive = tar_of(tmp_path / "x.tgz", [("a", b"1"), (again, b"2")])
    with pytest.raises(SnnbenchError, match=r"x.tgz: member .*a' is there twice"):
        unpack(archive, tmp_path / "t")
    assert_untouched(tmp_path, archive)


def test_a_file_where_a_folder_must_be(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "x.tgz", [("a", b"1"), ("a/b", b"2")])
    with pytest.raises(SnnbenchError, match=r"x.tgz: member 'a/b': cannot be unpacked"):
        unpack(archive, tmp_path / "t")
    assert_untouched(tmp_path, archive)


def test_a_bomb(tmp_path: Path) -> None:
    for archive in (
        zip_of(tmp_path / "x.zip", [("a", bytes(30 << 20))]),
        tar_of(tmp_path / "x.tgz", [("a", bytes(30 << 20))]),
    ):
        with pytest.raises(SnnbenchError, match="member 'a' makes the archive larger than"):
            unpack(archive, tmp_path / "t")
        archive.unlink()
    archive = tmp_path / "x.gz"
    archive.write_bytes(gzip.compress(bytes(30 << 20)))
    with pytest.raises(SnnbenchError, match="bomb"):
        unpack(archive, tmp_path / "t")
    assert_untouched(tmp_path, archive)


def test_caps_count_all_members_together(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | None]] = [(f"{i}", bytes(100)) for i in range(10)]
    archive = tar_of(tmp_path / "x.tgz", members)
    with pytest.raises(SnnbenchError, match="member '9' makes the archive larger"):
        unpack(archive, tmp_path / "t", max_bytes=999)
    with pytest.raises(SnnbenchError, match="member '9' is one more than the 9"):
        unpack(archive, tmp_path / "t", max_members=9)
    assert_untouched(tmp_path, archive)
    unpack(archive, tmp_path / "t", max_bytes=1000, max_members=10)
    assert len(tree(tmp_path / "t")) == 10


@pytest.mark.parametrize("suffix", [".gz", ".zip", ".tgz", ".tar.gz"])
def test_damage(tmp_path: Path, suffix: str) -> None:
    """Cut short anywhere, or with one byte changed in the content: an error, and nothing is left."""
    archive = tmp_path / f"x{suffix}"
    content = os.urandom(5000)
    if suffix == ".gz":
        archive.write_bytes(gzip.compress(content))
    elif suffix == ".zip":
        zip_of(archive, [("a", content)])
    else:
        tar_of(archive, [("a", content)])
    whole = archive.read_bytes()
    flipped = whole[:2500] + bytes([whole[2500] ^ 1]) + whole[2501:]
    cuts = [whole[:n] for n in (0, 1, 100, 4000, len(whole) - 6, len(whole) - 1)]
    for damaged in [flipped, *cuts, b"<html>not found</html>"]:
        archive.write_bytes(damaged)
        with pytest.raises(SnnbenchError, match=f"x{suffix}"):
            unpack(archive, tmp_path / "t")
        assert_untouched(tmp_path, archive)


def test_an_encrypted_zip(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", [("a", b"data")])
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    archive.write_bytes(bytes(data))
    with pytest.raises(SnnbenchError, match=r"x.zip: member 'a': .*encrypted"):
        unpack(archive, tmp_path / "t")
    assert_untouched(tmp_path, archive)


def test_an_empty_archive(tmp_path: Path) -> None:
    with pytest.raises(SnnbenchError, match="is empty"):
        unpack(zip_of(tmp_path / "x.zip", []), tmp_path / "t")


def test_not_an_archive_we_know(tmp_path: Path) -> None:
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    with pytest.raises(SnnbenchError, match=r"x.rar: is none of .tar.gz"):
        unpack(tmp_path / "x.rar", tmp_path / "t")


def test_an_older_target_survives_a_failure(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("older")
    (tmp_path / "x.gz").write_bytes(b"nothing")
    with pytest.raises(SnnbenchError):
        unpack(tmp_path / "x.gz", tmp_path / "t")
    assert (tmp_path / "t").read_text() == "older"
