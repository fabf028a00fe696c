"""docs/add-a-dataset.md, followed to the letter on tiny sounds, so that the page cannot rot."""

from __future__ import annotations

import hashlib
import io
import re
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from snnbench.data_prep.readers import READERS
from snnbench.data_prep.store import SpikeDataset
from tests.commands import ROOT, snnbench
from tests.loopback import serving
from tests.tiny_data import RATE_HZ, vowel

PAGE = ROOT / "docs" / "add-a-dataset.md"
NO_HASH = "0" * 64


def blocks() -> Iterator[tuple[str, str, str]]:
    """Language, the file that the words before name last, and text of every code block."""
    parts = re.split(r"^```(\w*)\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.M | re.S)
    for before, language, text in zip(parts[0::3], parts[1::3], parts[2::3], strict=False):
        named = re.findall(r"`([\w/.-]+\.(?:toml|csv|py))`", before)
        yield language, named[-1] if named else "", text


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """The folders the page starts from."""
    for digit, word in enumerate(("yes", "no")):
        (tmp_path / "words" / word).mkdir(parents=True)
        for i in range(10):
            sound = vowel(i, digit, 0.05)
            soundfile.write(tmp_path / "words" / word / f"{i}.wav", sound, RATE_HZ)
    (tmp_path / "dashed").mkdir()
    for speaker, name in enumerate(("anna", "bo", "carl")):
        for digit, word in enumerate(("yes", "no")):
            sound = vowel(speaker, digit, 0.05)
            soundfile.write(tmp_path / "dashed" / f"{word}-{name}-0.wav", sound, RATE_HZ)
    return tmp_path


def packed(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(folder, folder.name)
    return content.getvalue()


@pytest.mark.usefixtures("cochlea_tables")
def test_the_page_works(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sounds)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files: dict[str, bytes] = {}
    code: dict[str, object] = {}
    ran = []
    with serving(files) as server:
        for language, name, text in blocks():
            if language in ("toml", "csv"):
                if NO_HASH in text:
                    files["words.tar.gz"] = packed(sounds / "words")
                    digest = hashlib.sha256(files["words.tar.gz"]).hexdigest()
                    text = text.replace(NO_HASH, digest)
                Path(name).write_text(text, "utf-8")
            elif language == "python" and not text.startswith(" "):
                exec(text, code)
            elif language == "python":
                for kind, reader in eval(f"{{{text}}}", code).items():
                    monkeypatch.setitem(READERS, kind, reader)
            else:
                assert language == "sh"
                for line in text.splitlines():
                    program, *words = shlex.split(line)
                    assert program == "snnbench"
                    done = snnbench(*words, *needed_here(words, server.url))
                    assert done.code == 0, f"{line}\n{done.err}"
                    ran.append(words[:2])
    assert len(ran) == 11

    with SpikeDataset.open("by-speaker.h5") as dataset:
        assert [dataset.group_names(s) for s in dataset.splits] == [["anna"], ["bo"], ["carl"]]
    with (
        SpikeDataset.open("yes-no.h5") as converted,
        SpikeDataset.open(sounds / "data" / "yes-no.h5") as downloaded,
    ):
        assert converted.fingerprint == downloaded.fingerprint
        assert '"tau_mem_s":0.001' in converted.header.recipe
    with SpikeDataset.open("dashed.h5") as dataset:
        assert dataset.header.classes == ("yes", "no")


def needed_here(words: list[str], url: str) -> list[object]:
    """What a test adds to a command of the page: one process, a server on this machine, no tracking."""
    if words[:2] == ["data", "get"]:
        return ["--workers", 1, "--mirror", url]
    if words[:2] == ["data", "convert"]:
        return ["--workers", 1]
    if words[0] in ("train", "bench"):
        return ["--no-track", "--set", "model.hidden=[8]"]
    return []
