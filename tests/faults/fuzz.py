"""Damaged and hostile files for every reader of others' files, in a process with little memory.

    python -m tests.faults.fuzz FOLDER EXAMPLES

For each reader, hypothesis draws EXAMPLES files: a valid one with bytes, values or (HDF5) objects changed,
or random bytes. A reader may take a file or refuse it with a SnnbenchError; anything else is a fault and is
told on stdout, a line of JSON per reader: {"reader", "taken": n, "refused": n, "faults": [text, ...]}. The
file that was read last lies in FOLDER/READER, so that a crash of the process can be looked into.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import h5py
import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, given, settings

from snnbench.checkpoint import load_network, save_network
from snnbench.data_prep.archives import unpack
from snnbench.data_prep.idx import read_idx
from snnbench.data_prep.nmnist import read_events
from snnbench.data_prep.published import import_published
from snnbench.data_prep.recipe import SensorSpec, load_recipe
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.interchange import graph_of, network_of, read_graph, write_graph
from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.entries import shipped_tasks
from snnbench.leaderboards.literature import literature_folder, read_literature
from snnbench.leaderboards.verify import verify_entry
from snnbench.record import read_entry, read_predictions, read_record
from snnbench.spec import load_task, make_run_spec
from tests.factories import make_run_folder
from tests.published_files import published
from tests.tiny_data import write_dataset
from tests.tiny_images import write_images
from tests.toy_spikes import toy_spec

MEMORY = 1 << 30
"""Bytes that reading may take beyond what the process has when it begins."""
LONGEST_S = 20
"""No reader takes so long for a small file."""

ROOT = Path(__file__).resolve().parents[2]


class Reader(NamedTuple):
    """A function that reads others' files, with a file that it takes."""

    valid: Callable[[Path], Path]
    """Makes that file in a folder."""
    read: Callable[[Path], Any]
    kind: str = "bytes"
    """`text` and `hdf5` have changes of their own besides those of bytes."""


# ---------------------------------------------------------------- the readers


def _copy_of(source: Path) -> Callable[[Path], Path]:
    def valid(folder: Path) -> Path:
        path = folder / source.name
        path.write_bytes(source.read_bytes())
        return path

    return valid


def _own_model(folder: Path) -> Path:
    text = (ROOT / "models/zoo/rec-lif.toml").read_text("utf-8")
    path = folder / "mine.toml"
    path.write_text(text.replace('name = "rec-lif"', 'name = "mine"'), "utf-8")
    return path


def _entry(folder: Path) -> Path:
    run = make_run_folder(folder / "runs", n_samples=60)
    return add_entry([run], folder / "board", shipped_tasks(), cover={}).verified.folder


def _read_data(path: Path) -> None:
    with SpikeDataset.open(path) as dataset:
        dataset.check()
        for split in dataset.splits:
            dataset.read(split)
        assert dataset.identity


def _data_unchecked(path: Path) -> None:
    """As commands do that do not prove the whole file first."""
    with SpikeDataset.open(path) as dataset:
        for split in dataset.splits:
            dataset.group_names(split)
            dataset.read(split, 0, 1)


def _shd(folder: Path) -> Path:
    train, _ = published(folder)
    return train


def _read_shd(path: Path) -> None:
    import_published(load_recipe("shd"), path.parent, path.parent / "out.h5", partial=True)


def _checkpoint(folder: Path) -> Path:
    from snnbench.checkpoint import build_for
    from snnbench.seeding import make_generator

    spec, path = toy_spec("rec-lif", model__hidden=[7]), folder / "model.safetensors"
    save_network(path, build_for(spec, make_generator(0, "init")), spec)
    return path


def _nir(folder: Path) -> Path:
    network, spec = load_network(_checkpoint(folder))
    write_graph(folder / "net.nir", graph_of(network, spec))
    return folder / "net.nir"


def _zip(folder: Path) -> Path:
    import zipfile

    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/one.txt", "one" * 50)
        archive.writestr("a/two.txt", "two")
    return folder / "a.zip"


def _tar(folder: Path) -> Path:
    import tarfile

    (folder / "one.txt").write_text("one" * 50)
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        archive.add(folder / "one.txt", "a/one.txt")
    return folder / "a.tar.gz"


def _events(folder: Path) -> Path:
    path = folder / "00001.bin"
    path.write_bytes(b"".join(bytes([i % 34, i % 33, 0, 0, i]) for i in range(100)))
    return path


READERS: dict[str, Reader] = {
    "recipe": Reader(
        _copy_of(ROOT / "data_prep/recipes/hd.toml"), lambda p: load_recipe(str(p)), "text"
    ),
    "task": Reader(
        _copy_of(ROOT / "leaderboards/tasks/hd.toml"), lambda p: load_task(str(p)), "text"
    ),
    "model": Reader(
        _own_model, lambda p: make_run_spec("hd", str(p), seed=0, data_fingerprint="f"), "text"
    ),
    "literature": Reader(_copy_of(literature_folder() / "shd.toml"), read_literature, "text"),
    "record": Reader(lambda f: make_run_folder(f) / "record.json", read_record, "text"),
    "predictions": Reader(lambda f: make_run_folder(f) / "predictions.npz", read_predictions),
    "entry": Reader(lambda f: _entry(f) / "entry.toml", read_entry, "text"),
    "manifest": Reader(
        lambda f: _entry(f) / "MANIFEST.sha256",
        lambda p: verify_entry(p.parent, shipped_tasks()),
        "text",
    ),
    "data": Reader(lambda f: write_dataset(f / "data.h5"), _read_data, "hdf5"),
    "data, unchecked": Reader(lambda f: write_dataset(f / "data.h5"), _data_unchecked, "hdf5"),
    "shd": Reader(_shd, _read_shd, "hdf5"),
    "idx": Reader(lambda f: write_images(f) / "train-images-idx3-ubyte", lambda p: read_idx(p, 3)),
    "idx, packed": Reader(
        lambda f: write_images(f, packed=True) / "train-labels-idx1-ubyte.gz",
        lambda p: read_idx(p, 1),
    ),
    "events": Reader(_events, lambda p: read_events(p, SensorSpec(width=34, height=34))),
    "checkpoint": Reader(_checkpoint, load_network, "text"),
    "nir": Reader(_nir, lambda p: network_of(read_graph(p), p), "hdf5"),
    "zip": Reader(_zip, lambda p: unpack(p, p.parent / "unpacked")),
    "tar": Reader(_tar, lambda p: unpack(p, p.parent / "unpacked")),
}

# ---------------------------------------------------------------- what is done to a file

NUMBERS = [b"0", b"-1", b"1e308", b"1e-320", b"nan", b"inf", b"1e400", b"9" * 30, b"9" * 5000]
WORDS = [
    *NUMBERS,
    b'""',
    b"[]",
    b"{}",
    b"null",
    b"true",
    b"[" * 5000,
    b'"\\ud800"',
    b"\x00",
    b"\xff",
]


@st.composite
def changed_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Some bits flipped, a part removed, doubled, overwritten or cut off."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        stop = min(len(content), start + draw(st.sampled_from([1, 2, 8, 64])))
        match draw(st.sampled_from(["flip", "remove", "double", "overwrite", "cut"])):
            case "flip" if content:
                content[start] ^= 1 << draw(st.integers(0, 7))
            case "remove":
                del content[start:stop]
            case "double":
                content[start:start] = content[start:stop]
            case "overwrite":
                content[start:stop] = draw(st.binary(min_size=stop - start, max_size=stop - start))
            case "cut":
                del content[start:]
    return bytes(content)


@st.composite
def changed_text(draw: st.DrawFn, valid: bytes) -> bytes:
    """A value between two marks of JSON or TOML becomes another one, often an absurd one."""
    content = valid
    for _ in range(draw(st.integers(1, 3))):
        marks = [i for i, c in enumerate(content) if c in b'=:,[{ \n"']
        at = draw(st.sampled_from(marks or [0])) + 1
        stop = at
        while stop < len(content) and content[stop] not in b',]}\n"':
            stop += 1
        content = content[:at] + draw(st.sampled_from(WORDS)) + content[stop:]
    return content


ABSURD: list[Any] = [
    np.zeros(0),
    np.zeros((2, 2)),
    np.array(-1),
    np.array([2**62, -(2**62)]),
    np.array([np.nan, np.inf], np.float32),
    np.zeros(1, "V7"),
    np.array([b"\xff\xfe"]),
    np.full(40, 65535, np.uint16),
    "text",
    "[" * 20_000,
    h5py.Empty("f4"),
]


def change_hdf5(file: h5py.File, draw: Callable[[Any], Any]) -> None:
    """An object or an attribute of the file becomes another one."""
    names: list[str] = []
    file.visit(names.append)
    name = draw(st.sampled_from(sorted(names)))
    kind = draw(
        st.sampled_from(
            ["absurd", "vast", "delete", "loop", "elsewhere", "virtual", "group", "attribute"]
        )
    )
    if kind == "attribute":
        keys = sorted(file.attrs) or ["version"]
        file.attrs[draw(st.sampled_from(keys))] = draw(
            st.sampled_from([*ABSURD[:-4], "text", "[" * 20000])
        )
        return
    old = file[name]
    dtype = old.dtype if isinstance(old, h5py.Dataset) else np.dtype("u2")
    del file[name]
    match kind:
        case "absurd":
            file[name] = draw(st.sampled_from(ABSURD))
        case "vast":  # 2 TB that take no space in the file
            file.create_dataset(name, (10**12 // 2,), dtype, chunks=(1 << 16,))
        case "loop":
            file[name] = h5py.SoftLink(f"/{name}")
        case "elsewhere":
            file[name] = h5py.ExternalLink("/etc/passwd", "/")
        case "virtual":
            layout = h5py.VirtualLayout((10,), "u2")
            layout[:] = h5py.VirtualSource("other.h5", "x", (10,))
            file.create_virtual_dataset(name, layout)
        case "group":
            file.create_group(name)


# ---------------------------------------------------------------- the run


def fuzz(name: str, folder: Path, examples: int) -> dict[str, Any]:
    """What became of `examples` files for one reader."""
    reader = READERS[name]
    folder.mkdir()
    path = reader.valid(folder)
    reader.read(path)
    whole = path.read_bytes()
    ends: Counter[str] = Counter()
    faults: dict[str, str] = {}

    strategies = [changed_bytes(whole), st.binary(max_size=2000)]
    if reader.kind == "text":
        strategies += [changed_text(whole)] * 4

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        if reader.kind == "hdf5" and data.draw(st.integers(0, 3)):
            path.write_bytes(whole)
            with h5py.File(path, "r+") as file:
                change_hdf5(file, data.draw)
        else:
            path.write_bytes(data.draw(st.one_of(strategies)))
        signal.alarm(LONGEST_S)
        try:
            reader.read(path)
            ends["taken"] += 1
        except SnnbenchError:
            ends["refused"] += 1
        except BaseException as error:
            # told, not raised: hypothesis would stop at the first
            where = traceback.extract_tb(error.__traceback__)[-1]
            key = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
            kept = path.with_name(f"fault-{len(faults)}{path.suffix}")
            if key not in faults:
                kept.write_bytes(path.read_bytes())
                faults[key] = f"{key}: {error} ({kept})"[:500]
        finally:
            signal.alarm(0)

    random.seed(0)
    run()
    return {"taken": ends["taken"], "refused": ends["refused"], "faults": sorted(faults.values())}


def _hangs(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"not done in {LONGEST_S} s")


def main(folder: Path, examples: int, names: list[str]) -> None:
    signal.signal(signal.SIGALRM, _hangs)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name in names or READERS:
        told = {"reader": name, **fuzz(name, folder / name, examples)}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
