"""Others' files are never code: no pickle, eval or shell in the source, and traps that stay untouched."""

from __future__ import annotations

import ast
import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save

from snnbench.checkpoint import load_network, load_tensors, save_tensors
from snnbench.cli.export import opened_network
from snnbench.data_prep.recipe import load_recipe
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.record import read_entry, read_predictions, read_record
from snnbench.spec import load_model, load_task
from tests.faults.fuzz import ROOT
from tests.tiny_data import write_dataset
from tests.toy_spikes import toy_spec

# ---------------------------------------------------------------- the source

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "cloudpickle",
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "os.system", "os.popen", "torch.load", "pickle.load", "pickle.loads"),
    *("torch.hub.load", "sympy.sympify", "sympy.parse_expr", "pd.read_pickle", "yaml.load"),
}
ALLOWED = {
    # numbers and expressions of our own, never text
    ("models/derivation.py", "sympy.sympify"),
    ("models/scan_triton.py", "sympy.sympify"),
    # code that snnbench itself writes for numba, and the error of numba's own cache of it
    ("models/scan_numba.py", "exec"),
    ("models/scan_numba.py", "pickle"),
    # jobs and their results between our own processes, never out of a file
    ("snnbench/cluster.py", "pickle"),
    ("snnbench/cluster.py", "pickle.loads"),
    ("snnbench/cluster_dask.py", "pickle"),
    ("snnbench/cluster_dask.py", "pickle.loads"),
}


def dangers(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of what could run a file's content as code."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for name in [module] if module else [alias.name for alias in node.names]:
                if name.split(".")[0] in FORBIDDEN_MODULES:
                    yield node.lineno, name
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in FORBIDDEN_CALLS:
                yield node.lineno, called
            if keywords.get("shell", "False") != "False":
                yield node.lineno, "shell=True"
            if keywords.get("allow_pickle", "False") != "False":
                yield node.lineno, "allow_pickle=True"


def test_the_source_runs_nothing_out_of_files():
    found = {}
    for top in ("snnbench", "data_prep", "models", "leaderboards", "benchmarks"):
        for path in sorted((ROOT / top).rglob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            if path.resolve() != path:  # snnbench/models is models
                continue
            for line, name in dangers(path.read_text("utf-8")):
                found[file, name] = line
    assert set(found) == ALLOWED, found


@pytest.mark.parametrize(
    "text",
    [
        *("import pickle", "from yaml import load", "import joblib.numpy_pickle", "eval('1')"),
        *("exec(x)", "os.system('ls')", "torch.load(p, weights_only=False)"),
        *("np.load(p, allow_pickle=True)", "subprocess.run(c, shell=True)", "sympy.sympify(t)"),
    ],
)
def test_the_search_finds_what_it_looks_for(text: str):
    assert len(list(dangers(text))) >= 1


# ---------------------------------------------------------------- traps


class Trap:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A path at which nothing may be when the test is over."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "the file was executed"


def test_the_trap_works(tmp_path: Path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


READERS: list[tuple[str, Callable[[Path], Any]]] = [
    ("resume.safetensors", load_tensors),
    ("model.safetensors", load_network),
    ("model.safetensors", opened_network),
    ("record.json", read_record),
    ("predictions.npz", read_predictions),
    ("entry.toml", read_entry),
    ("data.h5", SpikeDataset.open),
    ("mine.toml", lambda path: load_model(str(path))),
    ("mine.toml", lambda path: load_task(str(path))),
    ("mine.toml", lambda path: load_recipe(str(path))),
]


def pickled(canary: Path) -> bytes:
    return pickle.dumps(Trap(canary))


def torch_saved(canary: Path) -> bytes:
    path = canary.with_name("saved.pt")
    torch.save({"weight": torch.zeros(3), "trap": Trap(canary)}, path)
    return path.read_bytes()


def numpy_saved(canary: Path) -> bytes:
    path = canary.with_name("saved.npz")
    trap = np.array([Trap(canary)], dtype=object)
    np.savez(path, labels=trap, predictions=trap, groups=trap)
    return path.read_bytes()


def yaml_text(canary: Path) -> bytes:
    return f'!!python/object/apply:os.mkdir ["{canary}"]\n'.encode()


@pytest.mark.parametrize("make", [pickled, torch_saved, numpy_saved, yaml_text])
@pytest.mark.parametrize(("name", "read"), READERS)
def test_code_in_the_place_of_a_file_is_refused(
    tmp_path: Path,
    canary: Path,
    make: Callable[[Path], bytes],
    name: str,
    read: Callable[[Path], Any],
):
    path = tmp_path / name
    path.write_bytes(make(canary))
    with pytest.raises(SnnbenchError, match=name):
        read(path)


def test_a_pickle_in_an_array_of_a_data_file_is_refused(tmp_path: Path, canary: Path):
    path = write_dataset(tmp_path / "data.h5")
    with h5py.File(path, "r+") as file:
        del file["train/labels"]
        file["train/labels"] = np.void(pickled(canary))
    with SpikeDataset.open(path) as dataset, pytest.raises(SnnbenchError, match="train/labels"):
        dataset.check()


def header(length: int, text: bytes) -> bytes:
    return struct.pack("<Q", length) + text


def tensor(**changes: Any) -> bytes:
    words = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12], **changes}
    text = json.dumps({"weight": words}).encode()
    return header(len(text), text) + bytes(12)


@pytest.mark.parametrize(
    "content",
    [
        header(2**64 - 1, b"{}"),
        header(2**40, b"{}"),
        header(0, b""),
        header(99_999_999, b"{" + b" " * 1000),
        header(10_000, b"[" * 10_000),
        tensor(shape=[2**62]),
        tensor(shape=[2**62], data_offsets=[0, 2**64 - 1]),
        tensor(data_offsets=[0, 2**40]),
        tensor(data_offsets=[12, 0]),
        tensor(dtype="PICKLE"),
    ],
)
def test_absurd_lengths_in_a_safetensors_header_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(SnnbenchError, match="not a checkpoint"):
        load_network(path)


@pytest.mark.parametrize(
    "told", ["[" * 50_000, "7", "{}", '{"sha256": 1, "spec": [], "extra": {}}']
)
def test_hostile_words_in_a_safetensors_header_are_refused(tmp_path: Path, told: str):
    path = tmp_path / "model.safetensors"
    path.write_bytes(save({"weight": torch.zeros(3)}, {"snnbench": told}))
    with pytest.raises(SnnbenchError, match=r"model\.safetensors: (its header )?is damaged"):
        load_network(path)


def test_a_spec_that_asks_for_more_weights_than_there_are_is_refused_before_they_are_made(
    tmp_path: Path,
):
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"weight": torch.zeros(3)}, toy_spec("rec-lif", model__hidden=[10**7]))
    with pytest.raises(
        SnnbenchError, match=r"asks for 100,000,150,000,000 weights, but 3 are there"
    ):
        load_network(path)


def test_arrays_that_are_elsewhere_or_nowhere_are_refused(tmp_path: Path):
    other = write_dataset(tmp_path / "other.h5")
    for change, told in {
        "link": "is kept in another file",
        "external": "is kept in another file",
        "virtual": "is kept in another file",
        "vast": "claims 1,000,000,000,000 values",
    }.items():
        path = write_dataset(tmp_path / "data.h5")
        with h5py.File(path, "r+") as file:
            del file["train/labels"]
            match change:
                case "link":
                    file["train/labels"] = h5py.ExternalLink(str(other), "/train/labels")
                case "external":
                    raw = [("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
                    file.create_dataset("train/labels", (4,), "<u2", external=raw)
                case "virtual":
                    layout = h5py.VirtualLayout((40,), "<u2")
                    layout[:] = h5py.VirtualSource(str(other), "train/labels", (40,))
                    file.create_virtual_dataset("train/labels", layout)
                case "vast":
                    file.create_dataset("train/labels", (10**12,), "<u2", chunks=(1 << 16,))
        with SpikeDataset.open(path) as dataset, pytest.raises(SnnbenchError, match=told):
            dataset.check()
