"""Small networks trained with any surrogate on random manifolds or latency MNIST: work of three studies.

Data and network follow Zenke & Vogels (2021): ten manifolds of 20 units in 50 ms with 100 samples of each
for validation and for test, 100 hidden LIF units whose reset multiplies, steps of 1 ms, 100 of them, leaky
readout with its maximum over time, Adam.

What is not as there, so that a study takes minutes or because our layers begin otherwise: fewer training
samples (there 800 of each class) and epochs (there 50 to 100); first weights three times (images: six times)
as large, see `snnbench.models.layers`; no lower bound on activity, and an upper one only where a study asks
for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snnbench.studies.study import Report

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SHAPES: dict[str, tuple[str, bool]] = {
    "fast sigmoid": ("superspike", False),
    "sigmoid": ("sigmoid", False),
    "triangle": ("triangle", False),
    "asymptotic": ("superspike", True),
}
"""The paper's name: shape of ours, and whether its value at threshold grows with the slope."""
CLASSES, DT_S, STEPS = 10, 1e-3, 100
HELD = 100
"""Samples of each manifold for validation, and as many for test."""
VALID_IMAGES, TEST_IMAGES = 1000, 2000
BATCH, EVALUATION_BATCH = 128, 500
MNIST_GAIN = 6.0


def task(
    shape: str, slope: float, lr: float, *, seed: int, epochs: int, per_class: int, hidden: int,
    recurrent: bool = False, through_reset: bool = False, through_recurrence: bool = True,
    mnist: str = "", upper: float = 0.0, upper_strength: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Arguments of a job of `train`; `mnist` is a converted file, "" takes random manifolds.

    upper and upper_strength are of the activity regulariser, see `snnbench.models.regularise`.
    """
    told = {
        "shape": shape, "slope": slope, "lr": lr, "seed": seed, "epochs": epochs,
        "per_class": per_class, "hidden": hidden, "recurrent": recurrent,
        "through_reset": through_reset, "through_recurrence": through_recurrence, "mnist": mnist,
        "upper": upper, "upper_strength": upper_strength,
    }  # fmt: skip
    # images have few spikes: with less no unit reaches its threshold under some seeds
    return told | ({"input_gain": MNIST_GAIN} if mnist else {})


def train(a: Mapping[str, Any], report: Report, scratch: Path) -> dict[str, Any]:
    """Train one network; the epoch is the one that is best on validation samples, and test is read once.

    Returns
    -------
    accuracy on test samples, validation, hidden_spikes of a sample, finite: whether the loss stayed a number.
    """
    import torch
    from torch.nn import functional

    from snnbench.model_spec import ModelSpec
    from snnbench.models.network import build
    from snnbench.models.regularise import activity_loss
    from snnbench.seeding import make_generator
    from snnbench.spec import ActivitySpec

    kind, grows = SHAPES[a["shape"]]
    bound = ActivitySpec(upper=a["upper"], upper_strength=a["upper_strength"])
    load, what = (_mnist, a["mnist"]) if a["mnist"] else (_manifolds, a["seed"])
    (x, y), valid, test = load(what, a["per_class"])
    network = build(
        ModelSpec.model_validate(
            {
                "name": "surrogate-grid",
                "hidden": [a["hidden"]],
                "recurrent": a["recurrent"],
                "gradient_through_recurrence": a["through_recurrence"],
                "neuron": {
                    "kind": "lif",
                    "tau_mem_s": 10e-3,
                    "tau_syn_s": 5e-3,
                    "reset": "zero",
                    "gradient_through_reset": a["through_reset"],
                },
                "surrogate": {
                    "kind": kind,
                    "slope": a["slope"],
                    "peak": a["slope"] if grows else 1.0,
                },
                "readout": {"kind": "leaky", "tau_mem_s": 20e-3, "tau_syn_s": 5e-3},
                "input_gain": a.get("input_gain", 3.0),
            }
        ),
        x.shape[2],
        CLASSES,
        DT_S,
        make_generator(a["seed"], "init"),
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=a["lr"])
    order = make_generator(a["seed"], "order")
    best, weights, finite = -1.0, network.state_dict(), True
    for epoch in range(a["epochs"]):
        for rows in torch.randperm(len(y), generator=order).split(BATCH):
            out = network(x[:, rows].float())
            loss = functional.cross_entropy(out.logits, y[rows])
            loss = loss + activity_loss(out.spike_counts, bound)
            if not loss.isfinite():
                finite = False
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        validation, _ = _accuracy(network, valid)
        if validation > best:
            best = validation
            weights = {name: value.clone() for name, value in network.state_dict().items()}
        report((epoch + 1) / a["epochs"])
        if not finite:
            break
    network.load_state_dict(weights)
    accuracy, spikes = _accuracy(network, test)
    return {"validation": best, "accuracy": accuracy, "hidden_spikes": spikes, "finite": finite}


def _accuracy(network: Any, split: tuple[Tensor, Tensor]) -> tuple[float, float]:
    import torch

    x, y = split
    correct, spikes = 0, 0.0
    with torch.inference_mode():
        for rows in torch.arange(len(y)).split(EVALUATION_BATCH):
            out = network(x[:, rows].float())
            correct += int((out.logits.argmax(1) == y[rows]).sum())
            spikes += float(sum(c.sum() for c in out.spike_counts))
    return correct / len(y), spikes / len(y)


@lru_cache(maxsize=2)
def _manifolds(seed: int, per_class: int) -> list[tuple[Tensor, Tensor]]:
    """Training, validation and test samples: (time, sample, unit) uint8, and labels."""
    from snnbench.data_prep.randman import class_samples
    from snnbench.data_prep.recipe import load_recipe

    spec = load_recipe("randman").randman
    assert spec is not None
    counts = spec.per_class.model_copy(update={"train": per_class, "valid": HELD, "test": HELD})
    spec = spec.model_copy(update={"seed": seed, "per_class": counts})
    sizes = (per_class, HELD, HELD)
    parts: list[list[tuple[Any, Any]]] = [[], [], []]
    for label in range(CLASSES):
        times_s = class_samples(spec, 20, label) * 50e-3
        at = 0
        for part, size in zip(parts, sizes, strict=True):
            part.append((times_s[at : at + size], np.full(size, label)))
            at += size
    return [_dense_times(*map(np.concatenate, zip(*part, strict=True))) for part in parts]


def _dense_times(times_s: Any, labels: Any) -> tuple[Tensor, Tensor]:
    import torch

    samples, units = times_s.shape
    x = np.zeros((STEPS, samples, units), np.uint8)
    step = np.floor(times_s / DT_S).astype(int)
    x[step, np.arange(samples)[:, None], np.arange(units)] = 1
    return torch.from_numpy(x), torch.from_numpy(labels.astype(np.int64))


@lru_cache(maxsize=1)
def _mnist(path: str, per_class: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The first samples of each split."""
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(Path(path)) as dataset:
        return [
            _dense_events(dataset.split("train"), CLASSES * per_class),
            _dense_events(dataset.split("valid"), VALID_IMAGES),
            _dense_events(dataset.split("test"), TEST_IMAGES),
        ]


def _dense_events(split: Any, count: int) -> tuple[Tensor, Tensor]:
    import torch

    part = split.read(0, min(count, len(split)))
    x = np.zeros((STEPS, len(part.labels), 784), np.uint8)
    sample = np.repeat(np.arange(len(part.labels)), np.diff(part.offsets))
    # edges as in `snnbench.data_prep.binning`: a time written at one lies right of it
    edges = (np.arange(STEPS) * DT_S).astype(np.float32)
    x[np.searchsorted(edges, part.times, side="right") - 1, sample, part.units] = 1
    return torch.from_numpy(x), torch.from_numpy(part.labels.astype(np.int64))
