"""`snnbench data get`, the real command, against a server on this machine with published-like files."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest

from snnbench.data_prep.store import SpikeDataset
from tests.commands import snnbench, start, strict_json, wait_for
from tests.loopback import Server, serving
from tests.published_files import CLASSES, published, samples_of

WORDS = 20
"""Samples per speaker: one of every class."""


class World(NamedTuple):
    """A server, a recipe file with the hashes of its files, the data folder, and the originals."""

    server: Server
    recipe: Path
    data: Path
    originals: Path

    def get(self, *options: object) -> list[object]:
        return ["data", "get", self.recipe, "--mirror", self.server.url, *options]


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files, tables = {}, []

    def enlarge(file: h5py.File) -> None:
        file["extra/more"] = np.frombuffer(os.urandom(1 << 20), np.uint8)  # not to be packed

    for path in published(tmp_path / "originals", enlarge, words=WORDS):
        content, archive = path.read_bytes(), io.BytesIO()
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(path.name, content)
        files[f"{path.name}.gz"] = gzip.compress(content)
        files[f"{path.name}.zip"] = archive.getvalue()
        alternatives = ", ".join(
            f'{{ name = "{path.name}{suffix}", hash = "{digest(files[path.name + suffix])}" }}'
            for suffix in (".gz", ".zip")
        )
        tables.append(
            f'[[download.files]]\ntarget = "{path.name}"\nhash = "{digest(content)}"\n'
            f"packed = [{alternatives}]\n"
        )
    recipe = tmp_path / "published.toml"
    recipe.write_text(
        f"""
name = "shd"
title = "Spiking Heidelberg Digits, a few"
summary = "made for a test"
licence = "CC0-1.0"
citation = "none"
classes = {list(CLASSES)}
n_units = 700
duration_s = 1.4
expected_samples = {{ train = {5 * WORDS}, test = {4 * WORDS} }}
[source]
kind = "published-spikes"
about = "shd_train.h5 and shd_test.h5"
files = ["shd_train.h5", "shd_test.h5"]
[split]
valid_groups = ["08", "09"]
[download]
mirrors = ["https://mirror.invalid/"]
{"".join(tables)}""",
        "utf-8",
    )
    with serving(files) as server:
        yield World(server, recipe, tmp_path / "data", tmp_path / "originals")


def assert_as_published(world: World) -> None:
    """Every sample of the converted file is one of the originals, to the last bit of its times."""
    wanted = {
        f"shd_{split}/{i}": sample
        for split in ("train", "test")
        for i, sample in enumerate(samples_of(world.originals / f"shd_{split}.h5"))
    }
    with SpikeDataset.open(world.data / "shd.h5") as dataset:
        dataset.check()
        for split in dataset.splits:
            part = dataset.read(split)
            for i, source_id in enumerate(part.source_ids):
                times, units = part.sample(i)
                original = wanted.pop(source_id)
                np.testing.assert_array_equal(times, original[0])
                np.testing.assert_array_equal(units, original[1])
                assert part.labels[i] == original[2]
                assert int(dataset.header.groups[part.groups[i]]) == original[3]
    assert not wanted


def test_from_the_server_to_a_data_set(world: World) -> None:
    answer = snnbench(*world.get("--json"))
    assert answer.code == 0, answer.err
    facts = strict_json(answer.out)
    assert {s: f["samples"] for s, f in facts["splits"].items()} == {
        "train": 60,
        "valid": 40,
        "test": 80,
    }
    assert facts["file"] == str(world.data / "shd.h5")
    # size and address before it starts
    assert f"{world.server.url}shd_train.h5.gz: 1.1 MB" in answer.err
    assert_as_published(world)
    assert snnbench("data", "check", world.data / "shd.h5").code == 0
    # again: nothing is asked for, nothing is made
    asked = len(world.server.requests)
    assert "is there already" in snnbench(*world.get()).err
    assert snnbench(*world.get("--force", "--offline")).code == 0
    assert len(world.server.requests) == asked


def test_offline_without_the_files(world: World) -> None:
    answer = snnbench(*world.get("--offline"))
    assert answer.code == 1
    assert "shd_test.h5 (shd_test.h5.gz or shd_test.h5.zip): missing" in answer.err
    assert not world.server.requests
    assert not (world.data / "shd.h5").exists()


def test_zip_where_gz_fails_and_what_went_wrong_where_all_do(world: World) -> None:
    world.server.behaviour = {"shd_train.h5.gz": "404", "shd_test.h5.gz": "corrupt"}
    assert snnbench(*world.get("--keep-archives")).code == 0
    assert_as_published(world)
    assert (world.data / "sources/shd/shd_test.h5.zip").is_file()
    for path in (world.data / "sources/shd").glob("shd_test*"):
        path.unlink()
    world.server.behaviour["shd_test.h5.zip"] = "500"
    answer = snnbench(*world.get("--force"))
    assert answer.code == 1
    assert "shd_test.h5.gz: SHA256 hash of downloaded file" in answer.err
    assert "shd_test.h5.zip: the server says 500" in answer.err
    assert_as_published(world)  # what was there before


def test_without_a_mirror_the_recipe_s_are_asked(world: World) -> None:
    answer = snnbench("data", "get", world.recipe)
    assert answer.code == 1
    assert "https://mirror.invalid/shd_train.h5.gz: cannot be reached" in answer.err
    assert not world.server.requests


def test_stopped_in_the_middle_and_called_again(world: World) -> None:
    name = "shd_train.h5.gz"
    world.server.behaviour[name] = "stall"
    process = start(*world.get())
    part = world.data / f"sources/shd/.incoming/{name}.part"
    wait_for(lambda: part.exists() and part.stat().st_size, process)
    process.kill()
    process.communicate()
    world.server.behaviour.clear()
    assert snnbench(*world.get()).code == 0
    assert "Range" in [h for asked, h in world.server.requests if asked == name][-1]
    assert_as_published(world)
    assert not (world.data / "sources/shd/.incoming").exists()


def test_the_shipped_recipe_refuses_files_that_are_not_the_published(world: World) -> None:
    answer = snnbench("data", "get", "shd", "--mirror", world.server.url)
    assert answer.code == 1
    expected = "e95bdc00c03c36537ff587d85d14efeee14a01b3846e14a70defc7e8a14e387c"
    found = hashlib.sha256(world.server.files["shd_train.h5.gz"]).hexdigest()
    assert expected in answer.err
    assert found in answer.err
    assert not (world.data / "shd.h5").exists()
    local = snnbench("data", "convert", "shd", "--source", world.originals)
    assert local.code == 1
    assert "the published files hold train 8156 / test 2264" in local.err
    assert snnbench("data", "convert", "shd", "--source", world.originals, "--partial").code == 0
    assert_as_published(world)


def test_help_imports_nothing_of_the_network() -> None:
    program = (
        "import sys, snnbench.cli.convert, snnbench.data_prep.download;"
        "print([m for m in ('requests', 'pooch', 'urllib3', 'torch') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ)
    )
    assert found.stdout == "[]\n", found.stderr
