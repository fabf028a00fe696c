"""One run from data file to record.

    the protocol class's splits -> fit -> chosen epoch -> test split opened once -> predictions, record

A run folder holds, besides what training writes (see `snnbench.train`),

    predictions.npz   test predictions with labels and speakers
    pictures/         learning curves, confusion matrix; weights before and after training, and what
                      the network has of constants, delays, rates, activity and spikes; SVG and PNG
    record.json       written last: a folder with a record is a finished run
"""

from __future__ import annotations

import csv
import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from snnbench.environment import describe
from snnbench.errors import SnnbenchError
from snnbench.metrics import all_folds, confusion, count_by_group, count_correct
from snnbench.model_spec import ModelSpec
from snnbench.paths import file_sha256
from snnbench.protocol import Fit, Learnt, SealedTest, learn, leave_out, samples_to_learn
from snnbench.record import (
    Environment,
    EpochFigures,
    Footprint,
    Moment,
    Operations,
    Predictions,
    RunRecord,
    Stack,
    read_predictions,
    read_record,
    write_predictions,
    write_record,
)
from snnbench.spec import RunSpec, TaskSpec

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from snnbench.data_prep.spikes import Spikes
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.models.engines import Engine
    from snnbench.models.network_base import Network
    from snnbench.profiling import NoProfile
    from snnbench.tracking import NullTracker
    from snnbench.train import BatchReport, EpochReport, FitResult, LeftOut

RECORD_FILE = "record.json"
PREDICTIONS_FILE = "predictions.npz"
PICTURES = "pictures"
NO_STACKS_IN_CLASS_B = (
    "protocol class B leaves speakers out and ends where they say, each seed for itself"
)


def check_data(dataset: SpikeDataset, task: TaskSpec) -> None:
    """Refuse a data file that is not the task's.

    Raises
    ------
    SnnbenchError
        Another data set, other units or classes, a split missing, or a hash that differs from what
        the task pins.
    """
    header, identity = dataset.header, dataset.identity
    expected = (task.dataset, task.n_units, task.n_classes)
    found = (header.name, header.n_units, len(header.classes))
    if found != expected:
        raise SnnbenchError(
            "{}: holds {} with {} units and {} classes; task {} needs {} with {} and {}".format(
                dataset.path, *found, task.name, *expected
            )
        )
    if missing := {"train", "valid", "test"} - set(dataset.splits):
        raise SnnbenchError(f"{dataset.path}: has no {', '.join(sorted(missing))} split")
    for name, pinned in task.pins:
        if pinned is not None and getattr(identity, name) != pinned:
            raise SnnbenchError(
                f"{dataset.path}: {name} is {getattr(identity, name)}, but task {task.name} version"
                f" {task.version} pins {pinned}; results on it would not compare. Make the data anew:"
                f" snnbench data get {task.dataset} --force, or `data convert` without other groups"
            )


def run_seed(
    spec: RunSpec,
    dataset: SpikeDataset,
    *,
    folder: Path,
    device: torch.device,
    tracker: NullTracker,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_batch: Callable[[BatchReport], None] | None = None,
    resume: bool = False,
    tuning_trials: int = 0,
    engine: Engine = "auto",
    profile: NoProfile | None = None,
) -> RunRecord:
    """Train one seed, read the test split once, and write the record.

    Parameters
    ----------
    spec : the run; its data_fingerprint is the dataset's.
    dataset : open file; training is given its training and validation split, and no way to another.
    folder : run folder; with `resume`, what is there is continued.
    tracker : where metrics are shown, inside its own context.
    on_epoch, on_batch : called after each, for progress.
    tuning_trials : hyperparameter trials spent before, told in the record.
    engine : which implementation of the scan runs; see `snnbench.train.engine_for`.
    profile : learns where the time of training goes.

    Raises
    ------
    SnnbenchError
        The folder holds another run, or one and `resume` is false.
    """

    def tracked(report: EpochReport) -> None:
        tracker.epoch(report.epoch, epoch_metrics(report))
        if on_epoch:
            on_epoch(report)

    train = _fit_of(spec, device, engine, resume, tracked, on_batch, profile)
    started_at = _now()
    learnt = learn(spec, dataset, folder, train)
    seed = Seed(spec, folder, tracker)
    return _test_and_record(seed, learnt, dataset, device, started_at, tuning_trials)


def run_fold(
    spec: RunSpec,
    speaker: str,
    dataset: SpikeDataset,
    *,
    folder: Path,
    device: torch.device,
    on_batch: Callable[[BatchReport], None] | None = None,
    engine: Engine = "auto",
) -> None:
    """Do one fold of a run of class B beforehand, so that `run_seed` with `resume` finds it finished.

    Parameters as of `run_seed`; a fold that diverges leaves that to `run_seed`, too.
    """
    train = _fit_of(spec, device, engine, True, None, on_batch, None)
    leave_out(speaker, dataset, folder, train)


def _fit_of(
    spec: RunSpec,
    device: torch.device,
    engine: Engine,
    resume: bool,
    on_epoch: Callable[[EpochReport], None] | None,
    on_batch: Callable[[BatchReport], None] | None,
    profile: NoProfile | None,
) -> Fit:
    """`snnbench.train.fit` as a protocol class calls it; epochs of folds are not told, their batches are."""
    from snnbench.train import fit

    def train(
        train: Spikes,
        valid: Spikes | None,
        *,
        folder: Path,
        epochs: int | None = None,
        left_out: LeftOut | None = None,
    ) -> FitResult:
        def told(report: BatchReport) -> None:
            if on_batch:
                on_batch(report._replace(left_out=left_out))

        return fit(
            spec,
            train,
            valid,
            folder=folder,
            device=device,
            on_epoch=None if left_out else on_epoch,
            on_batch=told if on_batch else None,
            resume=resume,
            engine=engine,
            profile=profile,
            epochs=epochs,
        )

    return train


class Seed(NamedTuple):
    """A run: what it is, where its files go, and where its figures are shown, inside its own context."""

    spec: RunSpec
    folder: Path
    tracker: NullTracker


def run_stack(
    seeds: Sequence[Seed],
    dataset: SpikeDataset,
    *,
    device: torch.device,
    on_epoch: Callable[[RunSpec, EpochReport], None] | None = None,
    on_batch: Callable[[RunSpec, BatchReport], None] | None = None,
    resume: bool = False,
    tuning_trials: int = 0,
    engine: Engine = "auto",
) -> list[RunRecord]:
    """Train several seeds of one model side by side, and then do with each as `run_seed` does.

    The records come when all seeds are trained. Parameters as of `run_seed`; protocol class B, which trains a
    network for every speaker left out, is not for stacks.

    Raises
    ------
    SnnbenchError
        As `run_seed` and `snnbench.train.fit_stack`; class B.
    """
    from snnbench.train import fit_stack

    first = seeds[0].spec
    if first.task.protocol == "B":
        raise SnnbenchError(f"{first.run_id}: {NO_STACKS_IN_CLASS_B}")
    trackers = {seed.spec.run_id: seed.tracker for seed in seeds}

    def tracked(spec: RunSpec, report: EpochReport) -> None:
        trackers[spec.run_id].epoch(report.epoch, epoch_metrics(report))
        if on_epoch:
            on_epoch(spec, report)

    started_at = _now()
    results = fit_stack(
        [seed.spec for seed in seeds],
        *samples_to_learn(first, dataset),
        folders=[seed.folder for seed in seeds],
        device=device,
        on_epoch=tracked,
        on_batch=on_batch,
        resume=resume,
        engine=engine,
    )
    return [
        _test_and_record(seed, Learnt(result, {}), dataset, device, started_at, tuning_trials)
        for seed, result in zip(seeds, results, strict=True)
    ]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _test_and_record(
    seed: Seed,
    learnt: Learnt,
    dataset: SpikeDataset,
    device: torch.device,
    started_at: str,
    tuning_trials: int,
) -> RunRecord:
    """What is left when a seed is trained: the test, once, the pictures, the record."""
    from snnbench.memory import peak_memory_bytes
    from snnbench.train import MODEL_FILE

    spec, folder, tracker = seed
    result, folds, folds_s = learnt
    evaluating = time.perf_counter()
    sealed = SealedTest(dataset)
    tested = open_test_once(sealed, result.network, spec, device) if result.network else None
    predictions, predictions_sha256, test, by_group = None, None, None, {}
    if tested is not None:
        predictions = tested.predictions
        predictions_sha256 = write_predictions(folder / PREDICTIONS_FILE, predictions)
        test = count_correct(predictions.predictions, predictions.labels)
        by_group = count_by_group(
            predictions.predictions,
            predictions.labels,
            predictions.groups,
            dataset.group_names("test"),
        )
    trained_s = folds_s + math.fsum(report.seconds for report in result.history)
    chosen = result.chosen_epoch
    record = RunRecord(
        run_id=spec.run_id,
        status=result.status,
        spec=spec,
        data=dataset.identity,
        protocol=spec.task.protocol,
        epochs_run=result.epochs_run,
        chosen_epoch=chosen,
        validation=all_folds(folds, chosen) if folds and chosen else result.validation,
        test=test,
        test_by_group=by_group,
        test_reads=sealed.reads,
        operations=tested.operations if tested else None,
        n_parameters=_n_parameters(result, spec),
        tuning_trials=tuning_trials,
        predictions_sha256=predictions_sha256,
        checkpoint_sha256=file_sha256(folder / MODEL_FILE) if tested else None,
        environment=environment_of(spec, device, result.engine),
        started_at=started_at,
        wall_s=trained_s + time.perf_counter() - evaluating,
        seconds_per_epoch=0.0 if result.epochs_run == 0 else result.seconds_per_epoch,
        history=tuple(_epoch_figures(report) for report in result.history),
        folds={name: tuple(counts) for name, counts in folds.items()},
        latency=(*tested.latency, Moment(seen_s=spec.task.duration_s, test=test))
        if tested and test
        else (),
        footprint=tested.footprint if tested else None,
        training_s=trained_s,
        peak_memory_bytes=peak_memory_bytes(device),
        stack=Stack(seeds=result.stack_seeds, clock_s=result.clock_s)
        if result.stack_seeds > 1
        else None,
    )
    figures = run_figures(folder, record, dataset, predictions)
    if result.network:
        figures |= before_and_after(spec, dataset, result.network, device)
    save_pictures(folder / PICTURES, figures)
    write_record(folder / RECORD_FILE, record)
    tracker.finish(record)
    return record


class Tested(NamedTuple):
    """What the one look at the test split gives."""

    predictions: Predictions
    operations: Operations
    latency: list[Moment]
    """For all ends but that of the whole sample."""
    footprint: Footprint


def open_test_once(
    sealed: SealedTest, network: Network, spec: RunSpec, device: torch.device
) -> Tested:
    """The only place where a run reads the test split: after everything has been chosen."""
    from snnbench.data_prep.loader import SpikeLoader
    from snnbench.evaluate import accuracy_over_time, footprint, predict_loader

    test = sealed.open()
    loader = SpikeLoader(test, spec, device)
    evaluation = predict_loader(network, loader)
    return Tested(
        Predictions(test.labels, evaluation.predictions, test.local_groups),
        evaluation.operations,
        accuracy_over_time(network, loader, spec),
        footprint(network, evaluation.activation_sparsity),
    )


def finished_record(folder: Path) -> RunRecord | None:
    """The record of a finished run folder, None where there is none yet."""
    path = folder / RECORD_FILE
    return read_record(path) if path.is_file() else None


def epoch_metrics(report: EpochReport) -> dict[str, float]:
    """Figures of an epoch as MLflow shows them."""
    return {
        "loss": report.loss,
        "train_accuracy": report.train.accuracy,
        **({"valid_accuracy": report.valid.accuracy} if report.valid else {}),
        "events_per_s": report.events_per_s,
        "train_seconds": report.train_seconds,
        "seconds": report.seconds,
        **{f"rate_hz.{layer}": rate for layer, rate in report.rate_hz.items()},
    }


def run_figures(
    folder: Path, record: RunRecord, dataset: SpikeDataset, predictions: Predictions | None
) -> dict[str, Figure]:
    """Learning curves and confusion matrix of a run, by file name."""
    from snnbench import plots
    from snnbench.train import HISTORY_FILE

    figures = {}
    if (folder / HISTORY_FILE).is_file():
        history = read_history(folder / HISTORY_FILE)
        figures["learning-curves"] = plots.learning_curves(history, **_captions(record.spec))
    if predictions is not None:
        classes = dataset.header.classes
        matrix = confusion(predictions.predictions, predictions.labels, record.spec.task.n_classes)
        figures["confusion"] = plots.confusion_matrix(matrix, classes, **_captions(record.spec))
    return figures


def before_and_after(
    spec: RunSpec,
    dataset: SpikeDataset,
    network: Network,
    device: torch.device,
    *,
    sample: int = 0,
    matrices: bool = False,
    remark: str = "",
) -> dict[str, Figure]:
    """What training has changed in a network, seen on validation samples.

    Parameters
    ----------
    spec, dataset, network, device : a run, its open data file, and its trained network on the device.
    sample : validation sample that the rasters show.
    matrices : whether to draw matrices of weights and delays, too.
    remark : what the small print adds.

    Returns
    -------
    Figures by file name, of all that this network has: one whose layers do not spike has no rates.
    """
    from snnbench import constant_plots, matrix_plots, network_plots
    from snnbench.checkpoint import build_for
    from snnbench.data_prep.loader import SpikeLoader
    from snnbench.seeding import make_generator
    from snnbench.snapshot import take_snapshot

    valid = dataset.split("valid")
    loader = SpikeLoader(valid, spec, device)
    untrained = build_for(spec, make_generator(spec.seed, "init")).to(device)
    untrained.engine = network.engine
    before, after = (take_snapshot(n, loader, spec, sample) for n in (untrained, network))
    captions = _captions(spec, remark)
    dt_s, duration_s = spec.train.dt_s, spec.task.duration_s
    classes = dataset.header.classes
    figures = {"weights": network_plots.weight_histograms(before, after, **captions)}
    if after.rates_hz:
        figures["rates"] = network_plots.rate_histograms(before, after, **captions)
        figures["rasters"] = network_plots.hidden_rasters(
            before,
            after,
            dt_s=dt_s,
            duration_s=duration_s,
            classes=classes,
            label=int(valid.labels[sample]),
            **captions,
        )
        figures["activity"] = network_plots.activity_over_time(
            before, after, dt_s=dt_s, duration_s=duration_s, **captions
        )
    if after.constants:
        figures["constants"] = constant_plots.constant_histograms(before, after, **captions)
    if after.delays_s:
        figures["delays"] = constant_plots.delay_histograms(before, after, **captions)
    if matrices:
        drawn = matrix_plots.weight_matrices(before, after, classes, **captions)
        figures |= {f"matrix-{name.replace(' ', '-')}": figure for name, figure in drawn.items()}
        if after.delays_s:
            figures["matrix-delays"] = matrix_plots.delay_matrix(before, after, **captions)
    return figures


def save_pictures(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write figures as SVG and PNG."""
    from snnbench import plots

    paths = []
    for name, figure in figures.items():
        for suffix in (".svg", ".png"):
            paths.append(folder / (name + suffix))
            plots.save(figure, paths[-1])
    return paths


def _captions(spec: RunSpec, remark: str = "") -> dict[str, str]:
    return {
        "title": f"{spec.model.name} on {spec.task.name}, seed {spec.seed}",
        "note": "; ".join(filter(None, [remark, "synthetic data" if spec.task.synthetic else ""])),
    }


def read_history(path: Path) -> dict[str, list[float]]:
    """Columns of a history.csv."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def engine_of(record: RunRecord, device: torch.device) -> Engine:
    """The engine that a record names, where it runs on this machine and device, else the fastest here."""
    return engine_called(record.environment.engine, device)


def engine_called(name: str | None, device: torch.device) -> Engine:
    """The engine of this name, where it runs on this machine and device, else the fastest here."""
    from snnbench.models.engines import ENGINES, require_engine

    named: Engine = next((e for e in ENGINES if e == name), "auto")
    try:
        return require_engine(named, device)
    except SnnbenchError:
        return require_engine("auto", device)


def evaluate_again(
    folder: Path, dataset: SpikeDataset, device: torch.device, engine: Engine | None = None
) -> tuple[RunRecord, Predictions, int]:
    """Predict a finished run's test split again from its weights, by default with `engine_of` its record.

    Returns
    -------
    record, predictions, number of predictions that differ from the stored ones

    Raises
    ------
    SnnbenchError
        No finished run there, weights that are not the record's, or other data.
    """
    from snnbench.checkpoint import load_network
    from snnbench.train import MODEL_FILE

    record = finished_record(folder)
    if record is None or record.test is None:
        raise SnnbenchError(f"{folder}: holds no finished run ({RECORD_FILE} with a test result)")
    digest = file_sha256(folder / MODEL_FILE)
    if digest != record.checkpoint_sha256:
        raise SnnbenchError(
            f"{folder / MODEL_FILE}: sha256 {digest} is not the record's, {record.checkpoint_sha256}"
        )
    dataset.require(record.data.fingerprint)
    network, spec = load_network(folder / MODEL_FILE)
    if spec != record.spec:
        raise SnnbenchError(
            f"{folder / MODEL_FILE}: holds weights of run {spec.run_id}, the record is of"
            f" {record.spec.run_id}; put the run's own file there"
        )
    network.engine = engine or engine_of(record, device)
    predictions = predict_again(dataset, network.to(device), spec, device)
    stored = read_predictions(folder / PREDICTIONS_FILE, record.predictions_sha256)
    return record, predictions, int((stored.predictions != predictions.predictions).sum())


def predict_again(
    dataset: SpikeDataset, network: Network, spec: RunSpec, device: torch.device
) -> Predictions:
    """Predictions of a network whose run is over, so that nothing can be chosen by them any more."""
    from snnbench.evaluate import predict

    test = dataset.split("test")
    return Predictions(
        test.labels, predict(network, test, spec, device).predictions, test.local_groups
    )


def default_seeds(n: int) -> Sequence[int]:
    """Seeds of a benchmark with n seeds: 0 to n - 1, so that nobody chooses them."""
    return range(n)


def _n_parameters(result: FitResult, spec: RunSpec) -> int:
    import torch

    from snnbench.checkpoint import build_for

    network = result.network or build_for(spec, torch.Generator())
    return network.n_parameters


def _epoch_figures(report: EpochReport) -> EpochFigures:
    return EpochFigures(
        loss=report.loss,
        train_accuracy=report.train.accuracy,
        validation_accuracy=report.valid.accuracy if report.valid else None,
        seconds=report.seconds,
    )


def environment_of(spec: RunSpec, device: torch.device, engine: str) -> Environment:
    """Where a run computes: this machine, its device, and the engine where the model has spiking layers."""
    import torch

    return describe(
        torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=1,
        deterministic=True,
        engine=engine if isinstance(spec.model, ModelSpec) else None,
    )
