"""Speed of loading, in samples per second, beside tonic: batches of SHD-sized samples in one process.

    python benchmarks/loading.py [--samples 1024] [--bins 100] [--bin-ms 10] [--rounds 3] [--json]

A data set of random spikes (8,000 a sample, 700 units) is written in our format and, exported, as the
published SHD files that tonic reads. Then whole epochs of shuffled batches are drawn in turn:

    tonic          datasets.SHD, transforms.ToFrame(time_window), DataLoader, PadTensors: its usual
                   path, without and with 2 worker processes
    tonic, cached  the same through tonic.MemoryCachedDataset, frames in memory after the first epoch
    ours, cold     file to batches: opening, reading, binning, and the first epoch
    ours, warm     every later epoch

The first ratio is to tonic's usual path in one process, as ours is one; the second to the same with two
worker processes beside it. Figures are medians over the rounds. One thread each, worker processes apart.
Ours gives float32 of shape (time, batch, channel), tonic integers of shape (batch, time, 1, channel),
which a network would have to convert yet.

tonic is used with `time_window`. Its `n_time_bins` divides each recording by its own length into that
many bins: a bin then is another time in every recording, which is another task.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

N_UNITS = 700
N_SPIKES = 8000
BATCH = 256


def main() -> None:
    """Parse arguments, run, print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--bins", type=int, default=100)
    parser.add_argument("--bin-ms", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="the same figures for machines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), options)
    one, two = (figures[f"tonic, {n} workers"] for n in (0, 2))
    rows = [
        {"path": p, "samples_per_s": r, "ratio": r / one, "ratio_to_2_workers": r / two}
        for p, r in figures.items()
    ]
    if options.json:
        print(json.dumps({**vars(options), "rows": rows}))
        return
    print(f"{options.samples} samples of {N_SPIKES} spikes, {N_UNITS} units, batches of {BATCH},")
    print(f"{options.bins} bins of {options.bin_ms:g} ms; medians of {options.rounds} rounds")
    print(f"{'':48}  to 0 workers  to 2 workers")
    for row in rows:
        print(
            f"{row['path']:28}{row['samples_per_s']:10.0f} samples/s{row['ratio']:12.1f} x"
            f"{row['ratio_to_2_workers']:12.1f} x"
        )


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Samples per second of every path."""
    import torch

    from snnbench.data_prep.loader import SpikeLoader
    from snnbench.data_prep.store import SpikeDataset

    duration_s = options.bins * options.bin_ms / 1000
    path = write_data(folder, options.samples, duration_s)
    spec = run_spec(duration_s, options.bin_ms / 1000)
    order = torch.Generator().manual_seed(0)

    def loader() -> SpikeLoader:
        with SpikeDataset.open(path) as dataset:
            return SpikeLoader(dataset.split("train"), spec, torch.device("cpu"))

    warm = loader()
    paths: dict[str, Callable[[], Iterable[Any]]] = {
        **tonic_paths(folder, options.bin_ms),
        "ours, dense, cold": lambda: loader().batches(BATCH, order),
        "ours, events, cold": lambda: loader().event_batches(BATCH, order),
        "ours, dense, warm": lambda: warm.batches(BATCH, order),
        "ours, events, warm": lambda: warm.event_batches(BATCH, order),
    }
    rates: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(options.rounds + 1):
        for name, batches in paths.items():
            # what takes milliseconds is repeated: one epoch alone would measure the machine's moods
            epochs = 10 if name.endswith("warm") else 1
            started = time.perf_counter()
            for _ in range(epochs):
                for _batch in batches():
                    pass
            seconds = (time.perf_counter() - started) / epochs
            if number:  # the first round compiles, and fills tonic's cache
                rates[name].append(options.samples / seconds)
    return {name: statistics.median(found) for name, found in rates.items()}


def write_data(folder: Path, n_samples: int, duration_s: float) -> Path:
    """Random spikes as a SpikeDataset, and in folder/SHD in the published layout."""
    import numpy as np

    from snnbench.data_prep.export import export_published
    from snnbench.data_prep.recipe import load_recipe
    from snnbench.data_prep.store import Header, Sample, SpikeDataset, create

    rng = np.random.default_rng(0)
    path = folder / "shd.h5"
    with create(path, Header.of(load_recipe("shd"), "{}", ["0"])) as writer:
        for i in range(n_samples):
            times = np.sort(rng.uniform(0, duration_s, N_SPIKES)).astype(np.float32)
            units = rng.integers(0, N_UNITS, N_SPIKES).astype(np.uint16)
            writer.append("train", [Sample(times, units, i % 20, 0, str(i), "")])
    with SpikeDataset.open(path) as dataset:
        export_published(dataset, folder / "SHD")
    return path


def run_spec(duration_s: float, dt_s: float) -> Any:
    """A run with one channel per unit; its network is of no interest here."""
    from snnbench.spec import make_run_spec

    overrides = {
        "task.duration_s": duration_s,
        "train.dt_s": dt_s,
        "train.units_per_channel": 1,
        "train.bin_mode": "count",
        **{f"model.{p}.tau_{t}_s": 1.0 for p in ("neuron", "readout") for t in ("mem", "syn")},
    }
    return make_run_spec("hd", "ff-lif", seed=0, data_fingerprint="", overrides=overrides)


def tonic_paths(folder: Path, bin_ms: float) -> dict[str, Callable[[], Iterable[Any]]]:
    """DataLoaders over the exported files."""
    import tonic
    from torch.utils.data import DataLoader

    frames = tonic.transforms.ToFrame(
        sensor_size=tonic.datasets.SHD.sensor_size, time_window=bin_ms * 1000
    )
    shd = tonic.datasets.SHD(save_to=str(folder), train=True, transform=frames)
    cached = tonic.MemoryCachedDataset(shd)

    def epoch(dataset: Any, workers: int) -> Iterable[Any]:
        return DataLoader(
            dataset,
            batch_size=BATCH,
            shuffle=True,
            num_workers=workers,
            collate_fn=tonic.collation.PadTensors(batch_first=True),
        )

    return {
        "tonic, 0 workers": lambda: epoch(shd, 0),
        "tonic, 2 workers": lambda: epoch(shd, 2),
        "tonic, cached": lambda: epoch(cached, 0),
    }


if __name__ == "__main__":
    main()
