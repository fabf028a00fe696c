"""A finished run on changed test samples: an audit after the record, which it neither reads from nor adds to.

    run folder + its data file -> clean predictions -> a corruption at a time -> robustness.json, pictures

The file is written anew after every corruption, so that a stopped audit goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from snnbench.bench import PREDICTIONS_FILE, RECORD_FILE, environment_of, finished_record
from snnbench.corruption_spec import CORRUPTIONS, settings_of
from snnbench.corruptions import Terms, corrupt
from snnbench.errors import SnnbenchError
from snnbench.metrics import count_by_group, count_correct
from snnbench.record import Environment, RunRecord, read_predictions
from snnbench.redraw import TrainedRun, open_run
from snnbench.robustness import (
    ROBUSTNESS_FILE,
    Point,
    Robustness,
    count_by_acquaintance,
    robustness_of_run,
    write_robustness,
)
from snnbench.sizes import EVALUATION_BATCH

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from snnbench.data_prep.spikes import Spikes, SpikeSplit
    from snnbench.data_prep.store import SpikeDataset, SplitReader
    from snnbench.models.engines import Engine

# whole evaluation batches, so that every sample has the company that it has in the record's evaluation
_SAMPLES_AT_ONCE = 2 * EVALUATION_BATCH


def stress_run(
    folder: Path,
    dataset: SpikeDataset,
    device: torch.device,
    *,
    engine: Engine | None = None,
    on_progress: Callable[[int, int, int, str], None] = lambda done, total, resumed, name: None,
) -> Robustness:
    """Test a run on all corruptions that its folder has no counts of yet.

    Parameters
    ----------
    folder, dataset, device
        A finished run, its open data file, and where to predict.
    engine
        Implementation of the spiking layers; by default that of the run, where it runs here.
    on_progress
        Called with samples tested, samples to test, those of them that an earlier call has tested, and
        the name of the corruption.

    Raises
    ------
    SnnbenchError
        No finished run, other weights or other data than the record's; a robustness file that is damaged,
        of another version or run, or was begun with another engine or device.
    """
    record, path = _record_of(folder, dataset), folder / ROBUSTNESS_FILE
    begun = robustness_of_run(folder)
    if begun:
        _check_belongs(path, begun, record, engine)
        if begun.complete:
            return begun
    run = open_run(folder, device)
    if run.spec != record.spec:
        raise SnnbenchError(
            f"{folder}: the weights are those of run {run.spec.run_id}, the record is of {record.run_id}"
        )
    if engine:
        run.network.engine = engine
    test = dataset.split("test")
    if begun:
        _check_continues(path, begun.environment, _environment(run))
        result = begun
    else:
        result = _clean(folder, record, run, test)
        write_robustness(path, result)
    steps = sum(len(settings_of(name)) for name in CORRUPTIONS) * len(test)
    done = resumed = sum(len(points) for points in result.points.values()) * len(test)
    for name in CORRUPTIONS:
        if name in result.points:
            continue
        settings = settings_of(name)
        correct = np.zeros(len(settings), dtype=np.int64)
        terms = Terms.of(run.spec, test)
        for part in _parts(test):
            for i, setting in enumerate(settings):
                on_progress(done, steps, resumed, name)
                predictions = _predict(run, corrupt(part, setting, terms))
                correct[i] += count_correct(predictions, part.labels).correct
                done += len(part)
        points = [
            Point(level=s.level, seed=s.seed, correct=int(c), total=len(test))
            for s, c in zip(settings, correct, strict=True)
        ]
        result = result.model_copy(update={"points": {**result.points, name: points}})
        write_robustness(path, result)
        on_progress(done, steps, resumed, name)
    return result


def _record_of(folder: Path, dataset: SpikeDataset) -> RunRecord:
    record = finished_record(folder)
    if record is None or record.test is None:
        raise SnnbenchError(f"{folder}: holds no finished run ({RECORD_FILE} with a test result)")
    dataset.require(record.data.fingerprint)
    return record


def _clean(folder: Path, record: RunRecord, run: TrainedRun, test: SplitReader) -> Robustness:
    """What there is to say before anything is changed."""
    from snnbench.data_prep.sources import NO_GROUPS

    predictions = np.concatenate([_predict(run, part) for part in _parts(test)])
    stored = read_predictions(folder / PREDICTIONS_FILE, record.predictions_sha256)
    by_group = count_by_group(predictions, test.labels, test.local_groups, test.group_names)
    assert record.checkpoint_sha256 is not None  # `open_run` has compared it
    return Robustness(
        run_id=record.run_id,
        checkpoint_sha256=record.checkpoint_sha256,
        data_fingerprint=record.data.fingerprint,
        n_classes=record.spec.task.n_classes,
        environment=_environment(run),
        clean=count_correct(predictions, test.labels),
        different_predictions=int((stored.predictions != predictions).sum()),
        speakers=count_by_acquaintance(record, by_group, NO_GROUPS),
    )


def _parts(test: SplitReader) -> Iterator[SpikeSplit]:
    """All test samples in order, as many at a time as whole batches of evaluation."""
    for start in range(0, len(test), _SAMPLES_AT_ONCE):
        yield test.read(start, min(start + _SAMPLES_AT_ONCE, len(test)))


def _predict(run: TrainedRun, part: Spikes) -> NDArray[np.uint16]:
    from snnbench.evaluate import predict

    return predict(run.network, part, run.spec, run.device).predictions


def _environment(run: TrainedRun) -> Environment:
    return environment_of(run.spec, run.device, run.network.engine)


def _check_belongs(path: Path, begun: Robustness, record: RunRecord, engine: Engine | None) -> None:
    """The file is of this run, and of the engine that was asked for."""
    for name, found, wanted in (
        ("run_id", begun.run_id, record.run_id),
        ("checkpoint_sha256", begun.checkpoint_sha256, record.checkpoint_sha256),
        ("data_fingerprint", begun.data_fingerprint, record.data.fingerprint),
    ):
        if found != wanted:
            raise SnnbenchError(
                f"{path}: {name} is {found}, that of the record is {wanted}; move the file away to test anew"
            )
    if engine not in (None, begun.environment.engine):
        raise SnnbenchError(
            f"{path}: was made with engine {begun.environment.engine}, not {engine}; take it as it is"
            " (without --engine), or move it away to test anew"
        )


def _check_continues(path: Path, begun: Environment, here: Environment) -> None:
    """Half a file is finished by the engine and on the kind of device that made the first half."""
    first, second = ((e.engine, e.device) for e in (begun, here))
    if first != second:
        raise SnnbenchError(
            f"{path}: was begun with engine {first[0]} on {first[1]}, and here it is {second[0]} on"
            f" {second[1]}; go on there, or move the file away to test anew"
        )
