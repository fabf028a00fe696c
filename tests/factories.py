"""Consistent run records and run folders without any training, for tests of what comes after it.

Predictions are really drawn and really counted, so what the factory makes verifies; a test then breaks
what it wants to see caught.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from snnbench.corruption_spec import CORRUPTIONS, settings_of
from snnbench.metrics import Counts, count_by_group, count_correct
from snnbench.model_spec import ModelSpec
from snnbench.record import (
    DataIdentity,
    Environment,
    EpochFigures,
    Footprint,
    LayerWork,
    Moment,
    Operations,
    Predictions,
    RunRecord,
    labels_sha256,
    read_record,
    sha256_of,
    write_predictions,
    write_record,
)
from snnbench.robustness import (
    ROBUSTNESS_FILE,
    Point,
    Robustness,
    count_by_acquaintance,
    write_robustness,
)
from snnbench.sizes import decision_steps, layer_sizes, operations_by_layer, total
from snnbench.spec import RunSpec, TaskSpec, TrainSpec, load_task

SPEAKERS = ["speaker-08", "speaker-09"]


def make_predictions(
    *, n_classes: int = 20, accuracy: float = 0.8, n_samples: int = 400, seed: int = 0
) -> Predictions:
    """Labels and speakers that are the same for every seed, and predictions with `accuracy`."""
    labels = np.arange(n_samples) % n_classes
    groups = (np.arange(n_samples) * 7 // 3) % len(SPEAKERS)
    wrong = np.random.default_rng(seed).permutation(n_samples)[round(accuracy * n_samples) :]
    predictions = labels.copy()
    predictions[wrong] = (labels[wrong] + 1 + seed) % n_classes
    predictions[wrong] += predictions[wrong] == labels[wrong]
    return Predictions(*(a.astype(np.uint16) for a in (labels, predictions % n_classes, groups)))


def predictions_of(spec: RunSpec, accuracy: float, n_samples: int) -> Predictions:
    """Predictions that no other run has: what is wrong in them follows from the run's digest."""
    return make_predictions(
        n_classes=spec.task.n_classes,
        accuracy=accuracy,
        n_samples=n_samples,
        seed=int(spec.digest[:8], 16),
    )


def make_data(
    task: TaskSpec, predictions: Predictions, fingerprint: str = "f" * 64
) -> DataIdentity:
    """An identity that agrees with what the task pins; labels are those of `predictions`."""
    pinned = task.pins.model_dump()
    return DataIdentity(
        name=task.dataset,
        synthetic=task.synthetic,
        **{f"{k}_sha256": pinned[f"{k}_sha256"] or k * 8 for k in ("recipe", "source", "split")},
        labels_sha256=labels_sha256(predictions.labels, predictions.groups, SPEAKERS),
        fingerprint=fingerprint,
        n_samples={"train": 900, "valid": 200, "test": len(predictions.labels)},
        groups={"train": ["speaker-00"], "valid": ["speaker-07"], "test": SPEAKERS},
    )


def make_record(
    *,
    task: str | TaskSpec = "hd",
    model: str = "ff-lif",
    seed: int = 0,
    accuracy: float = 0.8,
    n_samples: int = 400,
    spikes: float | None = 500.0,
    status: str = "finished",
    dirty: bool | None = False,
    model_keys: dict[str, Any] | None = None,
    train_keys: dict[str, Any] | None = None,
    fingerprint: str = "f" * 64,
    later_figures: bool = False,
) -> RunRecord:
    """The record of one run of task `hd` (which pins no labels) or another TaskSpec.

    `spikes` of every hidden layer; None for a model without spiking layers. With `later_figures` the record
    tells what the first ones did not: learning curves, latency to decision, work by layer, size and times.
    """
    task = load_task(task) if isinstance(task, str) else task
    labelled = make_predictions(n_classes=task.n_classes, n_samples=n_samples)
    data = make_data(task, labelled, fingerprint)
    spec = RunSpec.model_validate(
        {
            "task": task,
            "model": {"name": model, **(model_keys or {})},
            "train": TrainSpec(**{"epochs": 12, **(train_keys or {})}),
            "seed": seed,
            "data_fingerprint": fingerprint,
        }
    )
    predictions = predictions_of(spec, accuracy, n_samples)
    finished = status == "finished"
    names = data.groups["test"]
    record = RunRecord.model_validate(
        {
            "run_id": spec.run_id,
            "status": status,
            "spec": spec,
            "data": data,
            "protocol": task.protocol,
            "epochs_run": 12 if finished else 3,
            "chosen_epoch": 9 if finished else None,
            "validation": Counts(correct=160 + seed, total=200) if finished else None,
            "test": count_correct(predictions.predictions, predictions.labels)
            if finished
            else None,
            "test_by_group": (
                count_by_group(
                    predictions.predictions, predictions.labels, predictions.groups, names
                )
                if finished
                else {}
            ),
            "test_reads": int(finished),
            "operations": (
                make_operations(spec, None if spikes is None else spikes + seed, later_figures)
                if finished
                else None
            ),
            "n_parameters": sum(size.n_parameters for size in layer_sizes(spec)),
            "predictions_sha256": "0" * 64 if finished else None,
            "checkpoint_sha256": sha256_of(spec.run_id.encode()) if finished else None,
            "environment": make_environment(dirty),
            "started_at": "2026-01-02T03:04:05Z",
            "wall_s": 41.5 + seed,
            "seconds_per_epoch": 2.25 + seed / 16,
        }
    )
    return with_later_figures(record) if later_figures else record


def make_operations(spec: RunSpec, spikes: float | None, by_layer: bool) -> Operations:
    """The work that 1,000 input spikes a sample and these spikes of each hidden layer cause."""
    sizes = layer_sizes(spec)
    told = {} if spikes is None else {size.name: spikes for size in sizes[:-1]}
    layers = operations_by_layer(
        sizes, n_steps=spec.n_steps, input_spikes=1000.0, hidden_spikes=list(told.values())
    )
    work = {
        size.name: LayerWork(**layer._asdict())
        for size, layer in zip(sizes, layers, strict=True)
        if by_layer
    }
    return Operations(spikes=told, **total(layers)._asdict(), layers=work)


def with_later_figures(record: RunRecord) -> RunRecord:
    """The same run with learning curves, latency to decision, size and times, which fit what it tells."""
    spec, n = record.spec, record.epochs_run
    random = np.random.default_rng(int(spec.digest[:8], 16))
    rise = 1 - np.exp(-np.arange(1, n + 1) / (n / 4))
    n_train, n_valid = record.data.n_samples["train"], record.data.n_samples["valid"]
    best = record.validation.correct if record.validation else n_valid // 10
    held_out = np.minimum(best * rise + random.normal(0, 0.012, n) * n_valid, best - 1)
    history = tuple(
        EpochFigures(
            loss=float(3 * (1 - 0.9 * rise[e]) * random.uniform(0.95, 1.05)),
            train_accuracy=round(n_train * rise[e]) / n_train,
            validation_accuracy=max(0, best if e + 1 == record.chosen_epoch else round(held_out[e]))
            / n_valid,
            seconds=record.seconds_per_epoch,
        )
        for e in range(n)
    )
    update: dict[str, Any] = {
        "history": history,
        "training_s": record.seconds_per_epoch * n,
        "peak_memory_bytes": 412_000_000,
    }
    if isinstance(spec.model, ModelSpec):
        update["environment"] = record.environment.model_copy(update={"engine": "cpp"})
    if record.test and record.operations:
        ends = [step * spec.train.dt_s for step in decision_steps(spec.n_steps)]
        shares = (0.1, 0.3, 0.62, 0.85, 0.97, 0.975, 0.98, 0.985, 0.99)[: len(ends)]
        update["latency"] = (
            *(
                Moment(
                    seen_s=end,
                    test=Counts(
                        correct=round(share * record.test.correct), total=record.test.total
                    ),
                )
                for end, share in zip(ends, shares, strict=True)
            ),
            Moment(seen_s=spec.task.duration_s, test=record.test),
        )
        sizes = {size.name: size.n_units * spec.n_steps for size in layer_sizes(spec)}
        update["footprint"] = Footprint(
            n_bytes=4 * record.n_parameters,
            connection_sparsity=0.125,
            activation_sparsity={k: 1 - v / sizes[k] for k, v in record.operations.spikes.items()},
        )
    return record.model_copy(update=update)


def make_robustness(record: RunRecord, left: float = 0.5) -> Robustness:
    """A complete audit of a finished run: each level leaves about `left` of what the one before left."""
    assert record.test is not None
    assert record.checkpoint_sha256 is not None
    clean, chance = record.test, 1 / record.spec.task.n_classes
    points: dict[str, list[Point]] = {}
    for name, corruption in CORRUPTIONS.items():
        points[name] = []
        for setting in settings_of(name):
            share = left ** (1 + corruption.levels.index(setting.level))
            accuracy = chance + share * (clean.accuracy - chance)
            points[name].append(
                Point(
                    level=setting.level,
                    seed=setting.seed,
                    correct=round(accuracy * clean.total),
                    total=clean.total,
                )
            )
    return Robustness(
        run_id=record.run_id,
        checkpoint_sha256=record.checkpoint_sha256,
        data_fingerprint=record.data.fingerprint,
        n_classes=record.spec.task.n_classes,
        environment=record.environment,
        clean=clean,
        different_predictions=0,
        speakers=count_by_acquaintance(record, record.test_by_group, "all"),
        points=points,
    )


def add_robustness(run: Path, **keys: Any) -> Path:
    """Write a run folder's robustness.json. Keys: `make_robustness`."""
    path = run / ROBUSTNESS_FILE
    write_robustness(path, make_robustness(read_record(run / "record.json"), **keys))
    return path


def make_environment(dirty: bool | None = False) -> Environment:
    """Where a record could have come from."""
    return Environment(
        snnbench="0.1.0",
        commit="c0ffee" * 6 + "c0ff",
        dirty=dirty,
        python="3.11.7",
        packages={"torch": "2.13.0", "numpy": "2.4.6"},
        platform="Linux x86_64",
        processor="a processor",
        device="cpu",
        threads=2,
        deterministic=True,
    )


def make_run_folder(parent: Path, **keys: Any) -> Path:
    """A run folder with record.json and, for a finished run, predictions.npz. Keys: `make_record`."""
    record = make_record(**keys)
    folder = parent / record.run_id
    folder.mkdir(parents=True)
    if record.status == "finished":
        predictions = predictions_of(
            record.spec, keys.get("accuracy", 0.8), record.data.n_samples["test"]
        )
        write_predictions(folder / "predictions.npz", predictions)
        digest = sha256_of((folder / "predictions.npz").read_bytes())
        record = record.model_copy(update={"predictions_sha256": digest})
    write_record(folder / "record.json", record)
    return folder


def make_run_folders(
    parent: Path, n_seeds: int, *, spread: float = 0.01, **keys: Any
) -> list[Path]:
    """Run folders of seeds 0 to n_seeds - 1 whose accuracies vary by `spread` around `accuracy`."""
    centre = keys.pop("accuracy", 0.8)
    draws = np.random.default_rng(1).normal(centre, spread, n_seeds)
    return [
        make_run_folder(parent, seed=s, accuracy=float(np.clip(draws[s], 0, 1)), **keys)
        for s in range(n_seeds)
    ]
