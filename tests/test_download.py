"""Downloads from a server on this machine that behaves as servers do: whole and right, or an error."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from snnbench import __version__
from snnbench.data_prep import transfer
from snnbench.data_prep.download import fetch
from snnbench.data_prep.recipe import Recipe, load_recipe, recipe_names
from snnbench.data_prep.transfer import Progress, Timeouts
from snnbench.errors import SnnbenchError
from tests.loopback import Server, make_certificate, serving

CONTENT = os.urandom(3_000_000)
OTHER = b"other content " * 100
SHORT = Timeouts(connect_s=5, stall_s=0.5)


def md5(data: bytes) -> str:
    return f"md5:{hashlib.md5(data).hexdigest()}"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name, content)
    return file.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


FILES = {
    "a.h5.gz": gzip.compress(CONTENT, 1),
    "a.h5.zip": zipped("a.h5", CONTENT),
    "b.h5.gz": gzip.compress(OTHER),
    "folder.tar.gz": tarred({"audio/x.flac": b"x", "audio/y.flac": b"yy", "list.txt": b"x"}),
}
A = {
    "target": "a.h5",
    "hash": md5(CONTENT),
    "packed": [
        {"name": "a.h5.gz", "hash": sha256(FILES["a.h5.gz"])},
        {"name": "a.h5.zip", "hash": md5(FILES["a.h5.zip"])},
    ],
}
B = {"target": "b.h5", "packed": [{"name": "b.h5.gz", "hash": md5(FILES["b.h5.gz"])}]}
FOLDER = {"target": "sound", "packed": [{"name": "folder.tar.gz"}]}


def recipe(*files: dict[str, Any], mirrors: tuple[str, ...], hash_list: str = "") -> Recipe:
    shd = load_recipe("shd").model_dump(exclude={"download"})
    download = {"mirrors": mirrors, "files": files, "hash_list": hash_list}
    return Recipe(**{**shd, "name": "few", "download": download})


class World(NamedTuple):
    """Two mirrors with the same files, and the folder they are fetched into."""

    first: Server
    second: Server
    folder: Path

    def fetch(self, *files: dict[str, Any], hash_list: str = "", **options: Any) -> Path:
        mirrors = (self.first.url, self.second.url)
        return fetch(recipe(*files, mirrors=mirrors, hash_list=hash_list), self.folder, **options)

    def there(self) -> set[str]:
        """Names in the folder but the lock, partial downloads included."""
        names = {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}
        return names - {".lock"}

    def origins(self) -> Any:
        return json.loads((self.folder / "origin.json").read_text())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(dict(FILES)) as first, serving(dict(FILES)) as second:
        yield World(first, second, tmp_path / "sources" / "few")


# --- what arrives


def test_files_arrive_checked_and_unpacked(world: World) -> None:
    reports: list[Progress] = []
    assert world.fetch(A, B, progress=reports.append) == world.folder
    assert (world.folder / "a.h5").read_bytes() == CONTENT
    assert (world.folder / "b.h5").read_bytes() == OTHER
    assert world.there() == {"a.h5", "b.h5", "origin.json"}
    assert not (world.folder / ".incoming").exists()
    assert [name for name, _ in world.first.requests] == ["a.h5.gz", "b.h5.gz"]
    assert not world.second.requests
    # the size is known before the first byte
    size = len(FILES["a.h5.gz"])
    assert reports[0] == ("a.h5.gz", world.first.url + "a.h5.gz", 0, size)
    of_a = [r.done_bytes for r in reports if r.file == "a.h5.gz"]
    assert of_a == sorted(of_a)
    assert of_a[-1] == size
    assert len(of_a) > 5


def test_origins_are_noted(world: World) -> None:
    world.fetch(A, FOLDER)
    origins = world.origins()
    assert origins["a.h5"]["from"] == world.first.url + "a.h5.gz"
    assert origins["a.h5"]["archive_sha256"] == sha256(FILES["a.h5.gz"])[7:]
    assert origins["a.h5"]["sha256"] == sha256(CONTENT)[7:]
    assert origins["a.h5"]["date"].endswith("+00:00")
    assert (origins["sound"]["files"], origins["sound"]["bytes"]) == (3, 4)


def test_we_say_who_we_are(world: World) -> None:
    world.fetch(B)
    [(_, headers)] = world.first.requests
    assert headers["User-Agent"] == f"snnbench/{__version__}"


def test_what_is_there_is_not_fetched_again(world: World) -> None:
    world.fetch(A, B, FOLDER)
    asked = len(world.first.requests)
    before = (world.folder / "a.h5").stat().st_mtime_ns
    world.fetch(A, B, FOLDER)
    assert len(world.first.requests) == asked
    assert (world.folder / "a.h5").stat().st_mtime_ns == before


def test_the_only_folder_is_the_one_to_convert_from(world: World) -> None:
    assert world.fetch(FOLDER) == world.folder / "sound"
    assert (world.folder / "sound/audio/x.flac").read_bytes() == b"x"
    assert world.fetch(FOLDER) == world.folder / "sound"


def test_archives_stay_where_wanted(world: World) -> None:
    world.fetch(A, keep_archives=True)
    assert world.there() == {"a.h5", "a.h5.gz", "origin.json"}
    (world.folder / "a.h5").unlink()
    world.fetch(A)
    assert world.first.asked("a.h5.gz") == 1
    assert (world.folder / "a.h5").read_bytes() == CONTENT


def test_a_file_that_is_not_packed(world: World) -> None:
    world.first.files["plain.bin"] = OTHER
    plain = {"target": "plain.bin", "packed": [{"name": "plain.bin", "hash": md5(OTHER)}]}
    world.fetch(plain, keep_archives=True)
    assert (world.folder / "plain.bin").read_bytes() == OTHER


def test_a_server_that_calls_gz_files_packed_for_the_transfer(world: World) -> None:
    world.first.behaviour["b.h5.gz"] = "encoded"
    world.fetch(B)
    assert (world.folder / "b.h5").read_bytes() == OTHER
    assert not world.second.requests


# --- mirrors and alternatives


@pytest.mark.parametrize(
    "word", ["404", "500", "truncate", "corrupt", "stall", "silent", "no length"]
)
def test_the_next_alternative_and_mirror_are_tried(world: World, word: str) -> None:
    world.first.behaviour = {"a.h5.gz": word, "b.h5.gz": word}
    world.fetch(A, B, timeouts=SHORT)
    assert world.first.asked("a.h5.zip") == 1
    assert world.origins()["a.h5"]["from"] == world.first.url + "a.h5.zip"
    assert world.origins()["b.h5"]["from"] == world.second.url + "b.h5.gz"
    assert (world.folder / "a.h5").read_bytes() == CONTENT
    assert (world.folder / "b.h5").read_bytes() == OTHER


REASONS = {
    "404": "the server says 404",
    "500": "the server says 500",
    "truncate": "the connection was cut: IncompleteRead",
    "corrupt": "does not match the known hash: expected md5:",
    "stall": "stalled: no bytes for too long",
    "silent": "stalled",
    "no length": "does not match the known hash",
}


@pytest.mark.parametrize("word", REASONS)
def test_where_all_fail_every_address_and_reason_is_named(world: World, word: str) -> None:
    world.first.behaviour["b.h5.gz"] = word
    world.second.behaviour["b.h5.gz"] = "404"
    with pytest.raises(SnnbenchError) as caught:
        world.fetch(B, timeouts=SHORT)
    text = str(caught.value)
    assert f"{world.first.url}b.h5.gz: " in text
    assert f"{world.second.url}b.h5.gz: the server says 404" in text
    assert REASONS[word] in text
    assert "`snnbench data convert` likewise, with --source FOLDER" in text
    assert world.there() <= {".incoming/b.h5.gz.part", ".incoming/b.h5.gz.part.json"}


def test_a_wrong_checksum_shows_both(world: World) -> None:
    for server in (world.first, world.second):
        server.behaviour["b.h5.gz"] = "corrupt"
    with pytest.raises(SnnbenchError) as caught:
        world.fetch(B)
    data = FILES["b.h5.gz"]
    middle = len(data) // 2
    came = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    assert md5(data) in str(caught.value)
    assert md5(came)[4:] in str(caught.value)
    assert not world.there()


def test_a_wrong_checksum_of_the_unpacked_file(world: World) -> None:
    wrong = {**A, "hash": md5(b"something else")}
    with pytest.raises(SnnbenchError) as caught:
        world.fetch(wrong)
    assert f"a.h5 in it has checksum {md5(CONTENT)}, expected {wrong['hash']}" in str(caught.value)
    assert not world.there()


def test_an_archive_that_is_not_to_be_trusted(world: World) -> None:
    evil = tarred({"../evil": b"evil"})
    world.first.files["folder.tar.gz"] = world.second.files["folder.tar.gz"] = evil
    with pytest.raises(SnnbenchError, match="outside the destination"):
        world.fetch(FOLDER)
    assert not world.there()


def test_a_host_that_is_not_there_is_asked_once(world: World) -> None:
    with serving({}) as gone:
        url = gone.url
    found: Any = recipe(A, mirrors=(url, world.first.url))
    with pytest.raises(SnnbenchError) as caught:
        fetch(recipe(A, mirrors=(url,)), world.folder)
    assert str(caught.value).count(url) == 1
    assert "cannot be reached: Connection refused" in str(caught.value)
    fetch(found, world.folder)
    assert world.there() == {"a.h5", "origin.json"}


def test_a_mirror_of_the_user_replaces_the_recipe_s(world: World) -> None:
    world.fetch(B, mirrors=(world.second.url.rstrip("/"),))
    assert not world.first.requests
    assert world.origins()["b.h5"]["from"] == world.second.url + "b.h5.gz"


# --- encryption


def test_plain_http_is_no_mirror(world: World) -> None:
    """No socket is opened: names under .invalid never resolve, and the reason is another."""
    with pytest.raises(SnnbenchError, match=r"invalid/b.h5.gz: is plain http.*not used"):
        fetch(recipe(B, mirrors=("http://mirror.invalid",)), world.folder)
    with pytest.raises(SnnbenchError, match="is no https address"):
        fetch(recipe(B, mirrors=("ftp://mirror.invalid",)), world.folder)


def test_plain_http_from_the_user_is_said_loudly(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    options: Any = {"mirrors": ("http://mirror.invalid",)}
    with pytest.raises(SnnbenchError, match="cannot be reached"):
        fetch(recipe(B, mirrors=(world.first.url,)), world.folder, **options)
    assert "is plain http: anybody on the way" in caplog.text
    with pytest.raises(SnnbenchError, match="no checksum is known, and the connection is not"):
        fetch(recipe(FOLDER, mirrors=(world.first.url,)), world.folder, **options)


@pytest.fixture
def secure(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    certificate = make_certificate(tmp_path / "certificate.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serving(dict(FILES), certificate) as server:
        yield server


def test_https(world: World, secure: Server) -> None:
    fetch(recipe(A, mirrors=(secure.url,)), world.folder)
    assert (world.folder / "a.h5").read_bytes() == CONTENT


def test_a_redirect_within_https(world: World, secure: Server) -> None:
    secure.files["elsewhere"] = FILES["b.h5.gz"]
    secure.behaviour["b.h5.gz"] = secure.url + "elsewhere"
    fetch(recipe(B, mirrors=(secure.url,)), world.folder)
    assert (world.folder / "b.h5").read_bytes() == OTHER


def test_https_never_becomes_http(world: World, secure: Server) -> None:
    secure.behaviour["b.h5.gz"] = world.first.url + "b.h5.gz"
    with pytest.raises(SnnbenchError, match=r"leads from https to http://.* not encrypted"):
        fetch(recipe(B, mirrors=(secure.url,)), world.folder)
    assert not world.first.requests
    assert not world.there()


def test_a_certificate_that_nobody_vouches_for(
    world: World, secure: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(SnnbenchError, match="certificate is not to be trusted"):
        fetch(recipe(B, mirrors=(secure.url,)), world.folder)


def test_redirects(world: World) -> None:
    world.first.behaviour["b.h5.gz"] = world.second.url + "b.h5.gz"
    world.fetch(B)
    assert (world.folder / "b.h5").read_bytes() == OTHER


def test_redirects_in_a_circle(world: World) -> None:
    for server in (world.first, world.second):
        server.behaviour["b.h5.gz"] = server.url + "b.h5.gz"
    with pytest.raises(SnnbenchError, match="leads in circles"):
        world.fetch(B)


# --- lists of hashes


def test_hashes_come_from_the_mirror_s_list(world: World) -> None:
    good = hashlib.md5(FILES["folder.tar.gz"]).hexdigest()
    for server, digest in ((world.first, "0" * 32), (world.second, good)):
        server.files["md5sums.txt"] = f"{'1' * 32}  a.h5\n{digest}  ./folder.tar.gz\n".encode()
    world.fetch(FOLDER, hash_list="md5sums.txt")
    assert (
        world.first.asked("folder.tar.gz") == 1
    )  # and refused, for its hash is not the listed one
    assert world.origins()["sound"]["from"] == world.second.url + "folder.tar.gz"


def test_without_any_hash_it_is_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.fetch(FOLDER, hash_list="md5sums.txt")
    assert "md5sums.txt: the server says 404" in caplog.text
    assert "folder.tar.gz: no checksum is known" in caplog.text
    assert world.origins()["sound"]["archive_sha256"] == sha256(FILES["folder.tar.gz"])[7:]


# --- resuming


def test_a_cut_connection_is_taken_up(world: World) -> None:
    world.first.behaviour["a.h5.gz"] = "cut"
    world.fetch(A)
    assert (world.folder / "a.h5").read_bytes() == CONTENT
    (_, first), (_, second) = world.first.requests
    assert "Range" not in first
    assert second["Range"] == f"bytes={len(FILES['a.h5.gz']) // 2}-"
    assert second["If-Range"] == f'"{md5(FILES["a.h5.gz"])[4:]}"'


def cut_short(world: World) -> Path:
    """A partial a.h5.gz, as a server leaves it that cuts every connection."""
    only: Any = {**A, "packed": A["packed"][:1]}
    for server in (world.first, world.second):
        server.behaviour["a.h5.gz"] = "truncate"
    with pytest.raises(SnnbenchError, match=r"what has come is kept"):
        fetch(recipe(only, mirrors=(world.first.url,)), world.folder)
    for server in (world.first, world.second):
        server.behaviour.clear()
        server.requests.clear()
    part = world.folder / ".incoming/a.h5.gz.part"
    assert 0 < part.stat().st_size < len(FILES["a.h5.gz"])
    return part


def test_the_next_call_goes_on(world: World) -> None:
    size = cut_short(world).stat().st_size
    world.fetch(A)
    [(_, headers)] = world.first.requests
    assert headers["Range"] == f"bytes={size}-"
    assert (world.folder / "a.h5").read_bytes() == CONTENT


def test_a_server_that_sends_all_again(world: World) -> None:
    cut_short(world)
    world.first.behaviour["a.h5.gz"] = "no range"
    world.fetch(A)
    assert len(world.first.requests) == 1
    assert (world.folder / "a.h5").read_bytes() == CONTENT


def test_another_version_begins_anew(world: World) -> None:
    """The rest of another version would make a file that never was; If-Range prevents it."""
    cut_short(world)
    world.first.files["a.h5.gz"] = newer = gzip.compress(OTHER * 50_000, 1)
    packed = [{"name": "a.h5.gz", "hash": md5(newer)}]
    world.fetch({"target": "a.h5", "packed": packed})
    assert len(world.first.requests) == 1
    assert (world.folder / "a.h5").read_bytes() == OTHER * 50_000


def test_a_partial_file_of_another_mirror_is_not_used(world: World) -> None:
    cut_short(world)
    world.fetch(A, mirrors=(world.second.url,))
    [(_, headers)] = world.second.requests
    assert "Range" not in headers


@pytest.mark.parametrize("damage", ["note", "no note", "too long", "content"])
def test_a_damaged_partial_file(world: World, damage: str) -> None:
    """The worst that a partial file can do is that a download is tried again."""
    part = cut_short(world)
    if damage == "note":
        part.with_name(part.name + ".json").write_text("[")
    elif damage == "no note":
        part.with_name(part.name + ".json").unlink()
    elif damage == "too long":
        part.write_bytes(bytes(len(FILES["a.h5.gz"]) + 5))
    else:
        part.write_bytes(bytes(part.stat().st_size))
    world.fetch(A)
    assert (world.folder / "a.h5").read_bytes() == CONTENT
    assert world.there() == {"a.h5", "origin.json"}


def script(world: World, *files: dict[str, Any], offline: bool = False) -> list[str]:
    """A command that fetches in a process of its own."""
    text = recipe(*files, mirrors=(world.first.url,)).model_dump_json()
    program = f"""
import sys
if {offline}:
    def refuse(event, arguments):
        if event in ("socket.connect", "socket.getaddrinfo", "socket.__new__"):
            print("OPENED A SOCKET", event, arguments)
    sys.addaudithook(refuse)
from pathlib import Path
from snnbench.data_prep.download import fetch
from snnbench.data_prep.recipe import Recipe
from snnbench.errors import SnnbenchError
try:
    print(fetch(Recipe.model_validate_json({text!r}), Path({str(world.folder)!r}), offline={offline}))
except SnnbenchError as error:
    print(error)
"""
    return [sys.executable, "-c", program]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_goes_on(world: World, how: signal.Signals) -> None:
    world.first.behaviour["a.h5.gz"] = "stall"
    process = subprocess.Popen(script(world, A), stderr=subprocess.DEVNULL)
    part = world.folder / ".incoming/a.h5.gz.part"
    while not (part.exists() and part.stat().st_size > 1_000_000):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    assert process.wait() != 0
    world.first.behaviour.clear()
    world.fetch(A)
    assert "Range" in world.first.requests[-1][1]
    assert (world.folder / "a.h5").read_bytes() == CONTENT
    assert world.there() == {"a.h5", "origin.json"}


def test_two_at_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.first.behaviour["b.h5.gz"] = "stall"
    reports = threading.Event()
    options = {"progress": lambda _: reports.set(), "timeouts": SHORT}
    slow = threading.Thread(target=world.fetch, args=(B,), kwargs=options)
    slow.start()
    reports.wait()
    world.fetch(B)
    slow.join()
    assert "another process is fetching" in caplog.text
    assert world.first.asked("b.h5.gz") == 1
    assert world.second.asked("b.h5.gz") == 1


# --- offline


def test_offline_opens_no_socket(world: World) -> None:
    world.fetch(A, B)
    world.first.requests.clear()
    there = subprocess.run(script(world, A, B, offline=True), capture_output=True, text=True)
    assert there.stdout == f"{world.folder}\n", there.stderr
    (world.folder / "b.h5").unlink()
    missing = subprocess.run(script(world, A, B, offline=True), capture_output=True, text=True)
    assert "b.h5 (b.h5.gz): missing" in missing.stdout
    assert "a.h5 (" not in missing.stdout
    assert "SOCKET" not in missing.stdout
    online = script(world, A, B)
    online[2] = online[2].replace("if False:", "if True:")
    assert "OPENED A SOCKET" in subprocess.run(online, capture_output=True, text=True).stdout
    assert world.first.asked("b.h5.gz") == 1


def test_offline_names_what_is_wrong(world: World) -> None:
    world.fetch(A)
    (world.folder / "a.h5").write_bytes(OTHER)
    with pytest.raises(SnnbenchError) as caught:
        world.fetch(A, B, offline=True)
    assert f"its checksum is {md5(OTHER)}, expected {md5(CONTENT)}" in str(caught.value)
    assert "b.h5 (b.h5.gz): missing" in str(caught.value)


def test_a_packed_file_put_there_by_hand(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.folder.mkdir(parents=True)
    (world.folder / "a.h5.gz").write_bytes(b"damaged")
    (world.folder / "a.h5.zip").write_bytes(FILES["a.h5.zip"])
    world.fetch(A, offline=True)
    assert not world.first.requests
    assert (world.folder / "a.h5").read_bytes() == CONTENT
    assert "a.h5.gz: its checksum is" in caplog.text
    assert world.origins()["a.h5"]["from"] == "a file in this folder"
    # somebody's files stay where they are
    assert world.there() == {"a.h5", "a.h5.gz", "a.h5.zip", "origin.json"}


# --- what is there changes


def test_a_changed_file_is_fetched_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.fetch(A, B)
    for name in ("a.h5", "b.h5"):  # one hash is in the recipe, the other in our note
        (world.folder / name).write_bytes(b"changed")
    world.fetch(A, B)
    assert (world.folder / "a.h5").read_bytes() == CONTENT
    assert (world.folder / "b.h5").read_bytes() == OTHER
    assert caplog.text.count("fetched again") == 2


def test_a_changed_folder_is_not_touched(world: World) -> None:
    world.fetch(FOLDER)
    (world.folder / "sound/mine.flac").touch()
    with pytest.raises(SnnbenchError, match="has been changed since it was unpacked: 4 files"):
        world.fetch(FOLDER)
    assert (world.folder / "sound/mine.flac").exists()


def test_leftovers_of_a_killed_attempt_go(world: World) -> None:
    (world.folder / ".incoming/unpacked").mkdir(parents=True)
    (world.folder / ".incoming/unpacked/.x").touch()
    (world.folder / ".incoming/tmpabc").touch()
    (world.folder / ".incoming/b.h5.gz").write_bytes(FILES["b.h5.gz"])
    world.fetch(B)
    assert not world.first.requests  # it was whole
    assert world.there() == {"b.h5", "origin.json"}
    assert not (world.folder / ".incoming").exists()


# --- the disk


def test_no_space(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    free = len(FILES["a.h5.gz"]) * 5 - 1  # the file, and four times as much to unpack it
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SnnbenchError, match=r"GB are free, downloading and unpacking a.h5.gz"):
        world.fetch(A)
    assert len(world.first.requests) == 1  # the next mirror's file would be as large
    assert not world.second.requests
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: usage._replace(free=free + 1))
    world.fetch(A)


def test_a_size_that_cannot_be_right(world: World) -> None:
    sized = {"name": "b.h5.gz", "hash": md5(FILES["b.h5.gz"]), "size_bytes": 5}
    with pytest.raises(SnnbenchError, match="bytes large, expected 5"):
        world.fetch({"target": "b.h5", "packed": [sized]})


def test_a_folder_that_cannot_be_written(world: World) -> None:
    world.folder.parent.mkdir(parents=True)
    world.folder.write_text("a file")
    with pytest.raises(SnnbenchError, match="cannot write"):
        world.fetch(B)


def test_a_complete_folder_may_be_read_only(world: World) -> None:
    world.fetch(A)
    (world.folder / ".lock").unlink()
    world.folder.chmod(0o555)
    try:
        world.fetch(A)
        assert not (world.folder / ".lock").exists()
    finally:
        world.folder.chmod(0o755)


# --- recipes


def test_a_recipe_without_download(tmp_path: Path) -> None:
    with pytest.raises(SnnbenchError, match="digits-synthetic has no download"):
        fetch(load_recipe("digits-synthetic"), tmp_path)


def test_shipped_recipes_name_encrypted_mirrors() -> None:
    for name in recipe_names():
        download = load_recipe(name).download
        if download is None:
            continue
        assert all(url.startswith("https://") and url.endswith("/") for url in download.mirrors)
        for wanted in download.files:
            for packed in wanted.packed:
                kind, _, digest = packed.hash.partition(":")
                assert len(digest) == {"md5": 32, "sha256": 64, "": 0}[kind]


@pytest.fixture(autouse=True)
def _all_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
