"""A disk that is full, wherever something is written: told by name, and what was there stays as it was.

Two kinds of full: a file that may not grow (RLIMIT_FSIZE, which needs no rights), and a small tmpfs without a
byte left (which needs root). Conversions by several processes are in tests/test_cli.py.
"""

from __future__ import annotations

import errno
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import snnbench
from tests.published_files import published
from tests.tiny_data import write_dataset

QUICK = ("--set", "model.hidden=[16]", "--set", "train.epochs=2", "--set", "train.batch_size=32")


class World(NamedTuple):
    """What commands start from; nothing of it is written to."""

    data: Path
    run: Path
    shd: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    data = write_dataset(folder / "data.h5")
    train = ("train", "hd", "ff-lif", "--data", data, *QUICK, "--no-track")
    assert snnbench(*train, "--out", folder / "runs").code == 0
    [run] = (folder / "runs").iterdir()
    (folder / "shd").mkdir()
    published(folder / "shd")
    return World(data, run, folder / "shd")


Site = Callable[[World, Path], tuple[object, ...]]
"""Puts what the command needs into a folder, and tells the command that writes into it."""


def fresh_training(world: World, folder: Path) -> tuple[object, ...]:
    return ("train", "hd", "ff-lif", "--data", world.data, *QUICK, "--no-track", "--out", folder)


def training(world: World, folder: Path) -> tuple[object, ...]:
    """Both epochs are done, and not yet tested."""
    shutil.copytree(world.run, folder / world.run.name)
    (folder / world.run.name / "record.json").unlink()
    return fresh_training(world, folder)


def bench(world: World, folder: Path) -> tuple[object, ...]:
    """Seed 0 is there, seed 1 is not."""
    shutil.copytree(world.run, folder / world.run.name)
    command = ("bench", "hd", "ff-lif", "--data", world.data, "--seeds", 2, "--workers", 1)
    return (*command, *QUICK, "--no-track", "--out", folder)


def evaluation(world: World, folder: Path) -> tuple[object, ...]:
    run = shutil.copytree(world.run, folder / world.run.name)
    return ("eval", run, "--data", world.data, "--corrupt")


def conversion(world: World, folder: Path) -> tuple[object, ...]:
    write_dataset(folder / "shd.h5")
    out = ("--out", folder / "shd.h5", "--force", "--partial")
    return ("data", "convert", "shd", "--source", world.shd, *out)


def data_export(world: World, folder: Path) -> tuple[object, ...]:
    return ("data", "export", world.data, "--layout", "npz", "--out", folder / "arrays")


def board_add(world: World, folder: Path) -> tuple[object, ...]:
    return ("board", "add", world.run, "--board", folder, "--provisional", "--authors", "A. T.")


def board_build(world: World, folder: Path) -> tuple[object, ...]:
    (folder / "hd.md").write_text("the page that was there")
    return ("board", "build", "--out", folder)


def nir(world: World, folder: Path) -> tuple[object, ...]:
    (folder / "net.nir").write_text("the graph that was there")
    return ("export", "nir", world.run, "--no-readout", "--out", folder / "net.nir")


def card(world: World, folder: Path) -> tuple[object, ...]:
    (folder / "README.md").write_text("the card that was there")
    return ("export", "card", world.run, "--out", folder, "--force")


def pictures(world: World, folder: Path) -> tuple[object, ...]:
    run = shutil.copytree(world.run, folder / world.run.name)
    return ("models", "plot", run, "--data", world.data)


def tracking(world: World, folder: Path) -> tuple[object, ...]:
    run = shutil.copytree(world.run, folder / world.run.name)
    return ("track", "import", run, "--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}")


SITES = [
    *(fresh_training, training, bench, evaluation, conversion, data_export, board_add, board_build),
    *(nir, card, pictures, tracking),
]

# ---------------------------------------------------------------- full disks

Full = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def no_file_may_grow(folder: Path) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def no_byte_is_left(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_told_and_intact(world: World, site: Site, folder: Path, full: Full) -> None:
    arguments = site(world, folder)
    before = files(folder)
    with full(folder):
        done = snnbench(*arguments)
        after = files(folder)
    # SQLite's database without a page, and its lock: as good as none
    empty = {"mlflow.db": b"", "mlflow.db.lock": b""}
    after = {k: v for k, v in after.items() if k != "filler" and empty.get(k) != v}
    assert (done.code, done.out) == (1, ""), done.err
    told = done.err.strip().splitlines()[-1]
    assert str(folder) in told
    assert "No space left" in told or "File too large" in told or "disk" in told, told
    assert after == before
    # with room again, the same command ends well
    assert snnbench(*arguments).code == 0


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.__name__)
def test_no_file_may_grow(world: World, tmp_path: Path, site: Site):
    folder = tmp_path / "place"
    folder.mkdir()
    assert_told_and_intact(world, site, folder, no_file_may_grow)


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.__name__)
def test_no_byte_is_left(world: World, small_disk: Path, site: Site):
    assert_told_and_intact(world, site, small_disk, no_byte_is_left)
