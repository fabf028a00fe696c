"""Memory stays flat however large the file: loading, drawing batches, checking and hashing.

A process of its own works on a file; the kernel's count of its anonymous memory (RssAnon: all that is
neither a file's pages nor shared) is read from outside all the while.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from snnbench.data_prep.store import Sample, SpikeDataset
from tests.tiny_data import make_header, write_dataset

SPIKES_PER_SAMPLE = 8000

WORK = """
import json, os, sys, torch
from snnbench.data_prep.loader import SpikeLoader
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.spec import make_run_spec

plain = {"train.dt_s": 0.01, "train.bin_mode": "count"}
spec = make_run_spec("hd", "ff-lif", seed=0, data_fingerprint="", overrides=plain)
torch.set_num_threads(1)
limit, step = int(sys.argv[1]), sys.argv[2]
for path in sys.argv[3:]:
    print("begin", flush=True)
    sys.stdin.readline()
    spikes, identity = 0, None
    with SpikeDataset.open(path) as dataset:
        if step == "load":
            loader = SpikeLoader(
                dataset.split("train"), spec, torch.device("cpu"), memory_bytes=limit
            )
            spikes = sum(len(b.channels) for b in loader.event_batches(16, torch.Generator()))
            for batch in loader.batches(4):
                if batch.indices[0] > 400:
                    break
        elif step == "change":
            jitter = {"train.augment": {"time_jitter_s": 1e-3}, "train.dt_s": 0.01}
            changing = make_run_spec("hd", "ff-lif", seed=0, data_fingerprint="", overrides=jitter)
            loader = SpikeLoader(
                dataset.split("train"),
                changing,
                torch.device("cpu"),
                augmentation=torch.Generator(),
                memory_bytes=limit,
            )
            spikes = sum(int(b.spikes.sum()) for b in loader.batches(4))
        else:
            try:
                dataset.check(lambda done, total: None)
            except SnnbenchError as error:  # a sparse file is not given a fingerprint that fits
                if "fingerprint" not in str(error):
                    raise
            identity = dataset.identity.fingerprint
    print(json.dumps({"spikes": spikes, "identity": identity}), flush=True)
"""


def anonymous_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(
        1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")
    )


def peaks(step: str, limit: int, paths: list[Path]) -> list[tuple[int, dict[str, object]]]:
    """Peak of anonymous memory while each of the files is worked on in turn, and what was found."""
    child = subprocess.Popen(
        [sys.executable, "-c", WORK, str(limit), step, *map(str, paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    found = []
    with child:
        for _ in paths:
            assert child.stdout.readline() == "begin\n"
            child.stdin.write("\n")
            child.stdin.flush()
            peak = 0
            while not select.select([child.stdout], [], [], 0.002)[0]:
                peak = max(peak, anonymous_bytes(child.pid))
            found.append((peak, json.loads(child.stdout.readline())))
    assert child.returncode == 0
    return found


def write_random(path: Path, n_samples: int) -> Path:
    """Real spikes, the same in every sample."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 1.3, SPIKES_PER_SAMPLE)).astype(np.float32)
    units = rng.integers(0, 700, SPIKES_PER_SAMPLE).astype(np.uint16)
    samples = [Sample(times, units, i % 20, 0, f"name {i}", f"hash {i}") for i in range(n_samples)]
    return write_dataset(path, {"train": samples})


def write_sparse(path: Path, n_samples: int) -> Path:
    """Spikes of unit 0 at 0 s that take little room on disk: one compressed chunk, again and again."""
    write_dataset(path, {"train": write_samples(n_samples)})
    n_spikes = n_samples * SPIKES_PER_SAMPLE
    chunk = 1 << 16
    with h5py.File(path, "r+") as file:
        group = file["train"]
        for name, dtype in (("times", "<f4"), ("units", "<u2")):
            del group[name]
            array = group.create_dataset(
                name, (n_spikes,), dtype, chunks=(chunk,), compression="gzip", fletcher32=True
            )
            array[:chunk] = 0
            mask, compressed = array.id.read_direct_chunk((0,))
            for start in range(chunk, n_spikes, chunk):
                array.id.write_direct_chunk((start,), compressed, mask)
        group["offsets"][:] = np.arange(n_samples + 1) * SPIKES_PER_SAMPLE
    return path


def write_samples(n: int) -> list[Sample]:
    """Silent samples with names of their own."""
    silent = np.zeros(0, np.float32), np.zeros(0, np.uint16)
    return [Sample(*silent, i % 20, 0, f"name {i}", f"hash {i}") for i in range(n)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    return [write_random(folder / f"{n}.h5", n) for n in (100, 400, 1600)]


@pytest.mark.parametrize("step", ["load", "change", "check"])
def test_four_times_the_spikes_take_no_more_memory(step: str, files: list[Path]) -> None:
    # of 1,600 samples the spikes are 77 MB in the file and 27 MB binned; the first round warms up
    _, small, large = peaks(step, 1 << 20, files)
    assert large[0] - small[0] < 8 << 20
    if step == "load":
        assert [found[1]["spikes"] for found in (small, large)] == [400 * 8000, 1600 * 8000]


def test_what_is_allowed_is_kept_in_memory(files: list[Path]) -> None:
    # so the count above does see what lies in memory
    _, small, large = peaks("load", 1 << 30, files)
    assert large[0] - small[0] > 15 << 20


def test_the_sparse_file_is_a_data_set(tmp_path: Path) -> None:
    with SpikeDataset.open(write_sparse(tmp_path / "data.h5", 10)) as dataset:
        part = dataset.read("train")
    assert (len(part), part.n_spikes, float(part.times.sum())) == (10, 80_000, 0.0)
    assert dataset.header == make_header()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["load", "check"])
def test_twenty_gigabytes_of_spikes(step: str, tmp_path: Path) -> None:
    # 6 bytes a spike; binned they are 6.9 GB, which the disk must have
    numbers = (1_000, 20_000_000_000 // (6 * SPIKES_PER_SAMPLE))
    small, large = peaks(step, 64 << 20, [write_sparse(tmp_path / f"{n}.h5", n) for n in numbers])
    # 416,666 names, hashes and labels are in memory, 64 million spikes are not
    assert large[0] - small[0] < 300 << 20
    if step == "load":
        assert large[1]["spikes"] == numbers[1] * SPIKES_PER_SAMPLE
