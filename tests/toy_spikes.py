"""A small spike data set in memory: three classes told apart by when each unit fires."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from snnbench.data_prep.store import SpikeSplit
from snnbench.models.layers import SpikingLayer
from snnbench.spec import RunSpec, load_model, make_run_spec

TOY_TASK = {"task.n_units": 12, "task.n_classes": 3, "task.duration_s": 0.2}
SMALL: dict[str, dict[str, Any]] = {
    "spiking": {"model.hidden": [16], "model.input_gain": 3.0, "model.dropout": 0.0},
    "lstm": {"model.hidden": [16], "model.dropout": 0.0},
    "cnn": {"model.channels": [8, 8], "model.dropout": 0.0},
    # the classes differ in time only
    "counts": {"model.time_bins": 6},
}
"""What makes a model of each kind small."""


def kind_of_model(name: str) -> str:
    """Kind of a model of the zoo."""
    return str(load_model(name).model.get("kind", "spiking"))


def toy_split(n_samples: int, seed: int) -> SpikeSplit:
    """Every unit fires four times around a time of its own that depends on the class."""
    centres = np.random.default_rng(0).uniform(0.03, 0.15, size=(3, 12))
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n_samples)
    times, units = [], []
    for label in labels:
        t = (centres[label][:, None] + rng.normal(0, 0.004, size=(12, 4))).ravel()
        order = np.argsort(t)
        times.append(t[order])
        units.append(np.repeat(np.arange(12), 4)[order])
    return split_from_samples(times, units, labels)


def split_from_samples(times: list[Any], units: list[Any], labels: Any) -> SpikeSplit:
    """A split from a list of times (s) and units per sample."""
    n = len(times)
    return SpikeSplit(
        times=np.concatenate([np.zeros(0), *times]).astype(np.float32),
        units=np.concatenate([np.zeros(0), *units]).astype(np.uint16),
        offsets=np.cumsum([0, *map(len, times)]).astype(np.int64),
        labels=np.asarray(labels, dtype=np.uint16),
        groups=np.zeros(n, dtype=np.uint16),
        source_ids=[f"sample-{i}" for i in range(n)],
    )


def toy_spec(model: str = "ff-lif", seed: int = 0, **overrides: Any) -> RunSpec:
    """A run on the toy data; write dots in keys as two underscores (train__lr=1e-3)."""
    quick = {
        **SMALL[kind_of_model(model)],
        "train.units_per_channel": 1,
        "train.bin_mode": "count",
        "train.batch_size": 32,
        "train.epochs": 4,
        "train.lr": 0.01,
        "train.patience": None,
    }
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return make_run_spec(
        "digits-synthetic",
        model,
        seed=seed,
        data_fingerprint="toy",
        overrides={**TOY_TASK, **quick, **dotted},
    )


def small(model: str) -> dict[str, Any]:
    """Overrides that bring a model to the size of the toy data: 12 channels, 0.2 s, three classes."""
    settings = load_model(model).model
    overrides: dict[str, Any] = {
        **TOY_TASK,
        "train.dt_s": 0.005,
        "train.units_per_channel": 1,
        "train.bin_mode": "count",
        "train.batch_size": 32,
        "train.epochs": 10,
        "train.lr": 5e-3,
        "train.ema_decay": None,
        "train.augment": {},
        "model.dropout": 0.0,
    }
    if (kind := kind_of_model(model)) != "spiking":
        # these are small
        return {k: v for k, v in overrides.items() if k != "model.dropout"} | (
            SMALL["counts"] if kind == "counts" else {}
        )
    overrides["model.hidden"] = [24 for _ in settings["hidden"]]
    overrides["model.input_gain"] = 4.0
    if settings.get("norm") == "batch":
        # running figures take some tens of steps, and their time constants are longer than a sample
        overrides |= {"train.lr": 1e-2, "train.epochs": 25}
    if "conv" in settings:
        n_conv = len(settings["conv"]["kernels"])
        overrides["model.hidden"] = [4] * n_conv + [24] * (len(settings["hidden"]) - n_conv)
        overrides["model.conv.kernels"] = [5] * n_conv
        overrides["model.conv.strides"] = [1] * n_conv
    if "max_s" in settings.get("delays", {}):
        overrides |= {"model.delays.max_s": 0.03, "train.schedule": "constant"}
    if "taps_s" in settings.get("delays", {}):
        overrides["model.delays.taps_s"] = [0.0, 0.02, 0.04]
    return overrides


def heard(layer: SpikingLayer, spikes: Tensor) -> Tensor:
    """What the units of a layer receive from below, (time, batch, unit), of spikes (time, batch, input)."""
    weight = layer.incoming_weight
    through = spikes if weight is None else spikes @ weight.t()
    drive: Tensor = through if layer.afferent is None else layer.afferent(through)
    return drive
