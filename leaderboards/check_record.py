"""What must hold within one record: whatever follows from something else in it.

A record tells many things twice, because each is wanted where it stands: accuracies and counts, epochs and
their times, spikes and the work they cause. Here every one of them is held against what it follows from. What
follows from nothing (a clock, a processor's name) is believed; docs/protocol.md lists it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from snnbench.metrics import Counts, all_folds, best_epochs
from snnbench.model_spec import ModelSpec
from snnbench.record import DataIdentity, Operations, RunRecord
from snnbench.sizes import decision_steps, layer_sizes, operations_by_layer, total

ROUNDING = 1e-9
"""Relative; sums of the same numbers differ by less, whatever the order and the version of Python."""
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BYTES_OF_A_PARAMETER = 4


class Problem(NamedTuple):
    """What does not hold, and in which file of the entry."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def check_record(file: str, record: RunRecord) -> Iterator[Problem]:
    """Every contradiction within one record; `file` is what the problems name."""
    for check in (
        _identity,
        _presence,
        _counts,
        _epochs,
        _choice,
        _times,
        _latency,
        _work,
        _environment,
    ):
        for what in check(record):
            yield Problem(file, what)


def input_spikes(record: RunRecord) -> float | None:
    """Spikes that reach the first layer, per test sample, as its accumulates tell; None of a diverged run.

    They belong to the data and the binning, so that all seeds of an entry have the same.
    """
    if record.operations is None:
        return None
    sizes, n_steps = layer_sizes(record.spec), record.spec.n_steps
    hidden = list(record.operations.spikes.values())
    # the accumulates of all layers without any input: what the hidden spikes cause by themselves
    silent = operations_by_layer(sizes, n_steps=n_steps, input_spikes=0.0, hidden_spikes=hidden)
    caused = record.operations.effective_acs - total(silent).effective_acs
    return caused / sizes[0].accumulates(n_steps)


def _identity(record: RunRecord) -> Iterator[str]:
    """Names and numbers that the specification decides."""
    spec, data = record.spec, record.data
    expected: dict[str, tuple[Any, Any]] = {
        "run_id": (record.run_id, spec.run_id),
        "protocol": (record.protocol, spec.task.protocol),
        "data.name": (data.name, spec.task.dataset),
        "data.synthetic": (data.synthetic, spec.task.synthetic),
        "data.fingerprint": (data.fingerprint, spec.data_fingerprint),
        "test_reads": (record.test_reads, int(record.status == "finished")),
        "n_parameters": (record.n_parameters, sum(s.n_parameters for s in layer_sizes(spec))),
    }
    for key, (found, right) in expected.items():
        if found != right:
            yield f"{key} is {found!r}, must be {right!r}"


def _presence(record: RunRecord) -> Iterator[str]:
    """What a finished run has and a diverged one has not."""
    finished = record.status == "finished"
    for key in (
        *("chosen_epoch", "validation", "test", "operations"),
        *("predictions_sha256", "checkpoint_sha256"),
    ):
        there = getattr(record, key) is not None
        # class C holds nothing out
        if finished and not there and (key, record.protocol) != ("validation", "C"):
            yield f"{key} is missing in a finished run"
        if not finished and there:
            yield f"{key} must be null in a diverged run, whose test is never read"
    if record.checkpoint_sha256 and not _SHA256.fullmatch(record.checkpoint_sha256):
        yield f"checkpoint_sha256 is {record.checkpoint_sha256!r}, must be 64 hex digits"
    later = {
        "history": record.history,
        "latency": record.latency,
        "footprint": record.footprint,
        "training_s": record.training_s,
        "peak_memory_bytes": record.peak_memory_bytes,
        "operations.layers": record.operations and record.operations.layers,
    }
    # they came to the schema together, so a record tells all of them or is older than they are
    lacking = [key for key, value in later.items() if value is None or value in ((), {})]
    if finished and 0 < len(lacking) < len(later):
        yield f"{', '.join(lacking)}: missing in a record that tells what came with it"
    if not finished and (record.latency or record.footprint or record.folds):
        yield "latency, footprint and folds must be empty in a diverged run"


def _counts(record: RunRecord) -> Iterator[str]:
    """Counts against the sizes of the splits."""
    heldout = ("train", "valid") if record.protocol == "B" else ("valid",)
    for key, splits, counts in (
        ("validation", heldout, record.validation),
        ("test", ("test",), record.test),
    ):
        if counts is None:
            continue
        size = _n_samples(record.data, splits)
        if counts.total != size:
            yield f"{key}.total is {counts.total}, the {' and '.join(splits)} split has {size} samples"
        yield from _possible(key, counts)
    for name, fold in record.folds.items():
        for epoch, counts in enumerate(fold, start=1):
            yield from _possible(f"folds.{name}, epoch {epoch}", counts)
            if counts.total != fold[0].total:
                yield f"folds.{name}, epoch {epoch}, has {counts.total} samples, not {fold[0].total}"


def _possible(key: str, counts: Counts) -> Iterator[str]:
    if counts.correct > counts.total:
        yield f"{key}.correct is {counts.correct} of {counts.total}"


def _n_samples(data: DataIdentity, splits: tuple[str, ...]) -> int:
    return sum(data.n_samples.get(split, 0) for split in splits)


def _epochs(record: RunRecord) -> Iterator[str]:
    """Number of epochs, and accuracies as shares of the samples that there are."""
    if not 0 <= (record.chosen_epoch or 0) <= record.epochs_run <= record.spec.train.epochs:
        yield (
            f"chosen_epoch {record.chosen_epoch} of epochs_run {record.epochs_run}"
            f" of train.epochs {record.spec.train.epochs} cannot be"
        )
    if record.chosen_epoch is not None and record.chosen_epoch < 1:
        yield "chosen_epoch counts from 1"
    if record.history and len(record.history) != record.epochs_run:
        yield f"history has {len(record.history)} epochs, epochs_run is {record.epochs_run}"
    if record.status == "diverged" and record.protocol == "B":
        return  # a fold may have been the one, whose samples are counted nowhere
    trained = ("train",) if record.protocol == "A" else ("train", "valid")
    for number, epoch in enumerate(record.history, start=1):
        for key, share, splits in (
            ("train_accuracy", epoch.train_accuracy, trained),
            ("validation_accuracy", epoch.validation_accuracy, ("valid",)),
        ):
            held_out = key == "train_accuracy" or record.protocol == "A"
            if (share is not None) != held_out:
                yield f"{key} of epoch {number} is {share}, which class {record.protocol} cannot have"
            elif share is not None and not _is_share(share, _n_samples(record.data, splits)):
                size = _n_samples(record.data, splits)
                yield f"{key} of epoch {number} is {share}, no share of {size} samples"


def _is_share(share: float, of: int) -> bool:
    """Whether a number is a count divided by another."""
    return of > 0 and share == round(share * of) / of


def _choice(record: RunRecord) -> Iterator[str]:
    """Whether the epoch follows from what was seen while training, by the rule of the protocol class."""
    chosen, found = record.chosen_epoch, record.history
    if record.protocol != "B" and record.folds:
        yield f"folds are of class B, the run is of class {record.protocol}"
    if record.protocol == "A":
        yield from _end(record)
    if record.status == "diverged" or chosen is None:
        return
    if record.protocol == "A" and found and record.validation:
        accuracies = [epoch.validation_accuracy or 0.0 for epoch in found]
        best = 1 + accuracies.index(max(accuracies))
        if chosen != best or accuracies[best - 1] != record.validation.accuracy:
            yield (
                f"chosen_epoch is {chosen} with validation {record.validation.accuracy}, history has"
                f" {accuracies[best - 1]} in epoch {best} as its best"
            )
    if record.protocol == "B":
        yield from _folds(record, chosen)
    if record.protocol != "A" and chosen != record.epochs_run:
        yield f"chosen_epoch is {chosen}, in class {record.protocol} it is the last"
    if record.protocol == "C" and record.epochs_run != record.spec.train.epochs:
        yield f"epochs_run is {record.epochs_run}, class C does {record.spec.train.epochs}"


def _folds(record: RunRecord, chosen: int) -> Iterator[str]:
    """Class B: every speaker was left out once, and all of them together chose."""
    if not record.folds or len({len(f) for f in record.folds.values()}) != 1:
        yield "folds of class B must be there, all with as many epochs"
        return
    best = best_epochs(record.folds)
    if best != chosen or record.validation != all_folds(record.folds, chosen):
        yield f"chosen_epoch and validation are not what folds give: {best} epochs"
    speakers = {name for split in ("train", "valid") for name in record.data.groups.get(split, ())}
    if record.folds.keys() != speakers:
        others = ", ".join(sorted(record.folds.keys() ^ speakers))
        yield f"folds leave each speaker of training and validation out once, but not so: {others}"


def _end(record: RunRecord) -> Iterator[str]:
    """Class A: training ends where epochs, patience or time do, and nowhere else."""
    train, history = record.spec.train, record.history
    if not history:
        if record.status == "finished" and train.patience is None and train.minutes is None:
            end = train.epochs
            if record.epochs_run != end:
                yield f"epochs_run is {record.epochs_run}, nothing ends training before {end}"
        return
    best, best_epoch, seconds, end = -1.0, 0, 0.0, 0
    for number, epoch in enumerate(history, start=1):
        accuracy, seconds = epoch.validation_accuracy or 0.0, seconds + epoch.seconds
        if accuracy > best:
            best, best_epoch = accuracy, number
        if (
            number >= train.epochs
            or (train.patience is not None and number - best_epoch >= train.patience)
            or (train.minutes is not None and seconds >= 60 * train.minutes)
        ):
            end = number
            break
    if record.status == "finished" and end != len(history):
        yield (
            f"history has {len(history)} epochs; by train.epochs, patience and minutes it ends after"
            f" {end or 'more'}"
        )
    if record.status == "diverged" and end:
        yield f"training was over after epoch {end}, so it has not diverged"


def _times(record: RunRecord) -> Iterator[str]:
    """Times that are sums of others, and when it was."""
    seconds = [epoch.seconds for epoch in record.history]
    if record.seconds_per_epoch < 0 or record.wall_s < 0:
        yield f"seconds_per_epoch {record.seconds_per_epoch} and wall_s {record.wall_s} must be from 0"
    if seconds and not _near(record.seconds_per_epoch, math.fsum(seconds) / len(seconds)):
        yield (
            f"seconds_per_epoch is {record.seconds_per_epoch},"
            f" history has {math.fsum(seconds) / len(seconds)} on average"
        )
    if record.training_s is not None:
        whole = math.fsum(seconds)
        # in class B the folds' time, which no epoch of the history has, comes on top
        less = record.training_s < whole * (1 - ROUNDING)
        if less or (not record.folds and seconds and not _near(record.training_s, whole)):
            yield f"training_s is {record.training_s}, history has {whole}"
        if record.wall_s < record.training_s * (1 - ROUNDING):
            yield f"wall_s is {record.wall_s}, less than training_s, {record.training_s}"
        if record.stack and record.stack.clock_s < record.training_s * (1 - ROUNDING):
            yield (
                f"stack.clock_s is {record.stack.clock_s}, less than training_s, {record.training_s},"
                " which is a share of it"
            )
    try:
        started = datetime.fromisoformat(record.started_at)
    except ValueError:
        yield f"started_at is {record.started_at!r}, no time in ISO 8601"
        return
    if started.utcoffset() != timedelta(0):
        yield f"started_at is {record.started_at!r}, not in UTC"


def _latency(record: RunRecord) -> Iterator[str]:
    """Whether accuracies over time stand at the times that are asked for, and end where the sample does."""
    if not record.latency:
        return
    spec = record.spec
    times = [moment.seen_s for moment in record.latency]
    ends = [
        min(step * spec.train.dt_s, spec.task.duration_s) for step in decision_steps(spec.n_steps)
    ]
    right = [*ends, spec.task.duration_s]
    if times != right:
        yield f"latency.seen_s must rise to {spec.task.duration_s} as {right}: {times}"
    if (last := record.latency[-1].test) != record.test:
        yield f"latency ends with {told(last)}, test is {told(record.test)}"
    if any(moment.test.total != last.total for moment in record.latency):
        yield "latency has moments with another number of samples"
    for moment in record.latency:
        yield from _possible(f"latency after {moment.seen_s} s", moment.test)


def _work(record: RunRecord) -> Iterator[str]:
    """Operations and sparsity, which follow from spikes and the sizes of the layers."""
    found = record.operations
    if found is None:
        return
    sizes, n_steps = layer_sizes(record.spec), record.spec.n_steps
    spiking = sizes[:-1] if isinstance(record.spec.model, ModelSpec) else []
    if list(found.spikes) != [size.name for size in spiking]:
        names = ", ".join(size.name for size in spiking) or "no layer"
        yield f"operations.spikes are of {', '.join(found.spikes) or 'no layer'}, must be of {names}"
        return
    n_samples = _n_samples(record.data, ("test",))
    quiet = {}
    for size in spiking:
        spikes, most = found.spikes[size.name], size.n_units * n_steps
        quiet[size.name] = 1 - spikes / most
        if not 0 <= spikes <= most or not _is_mean(spikes, n_samples):
            yield (
                f"operations.spikes.{size.name} is {spikes}, no mean of {n_samples} counts from 0 to {most}"
            )
    arriving = input_spikes(record)
    assert arriving is not None
    if arriving < -ROUNDING or not _is_mean(
        arriving, n_samples, of=found.effective_acs / sizes[0].accumulates(n_steps)
    ):
        yield (
            f"operations.effective_acs is {found.effective_acs}, which no input of {n_samples} samples"
            f" with these spikes gives: {arriving} spikes a sample"
        )
    layers = operations_by_layer(
        sizes, n_steps=n_steps, input_spikes=arriving, hidden_spikes=list(found.spikes.values())
    )
    right = {"dense_macs": total(layers).dense_macs}
    if found.layers:
        if list(found.layers) != [size.name for size in sizes]:
            yield f"operations.layers are {', '.join(found.layers)}, not those of the network"
            return
        for size, layer in zip(sizes, layers, strict=True):
            right |= {f"layers.{size.name}.{key}": v for key, v in layer._asdict().items()}
    for key, value in right.items():
        stands = _at(found, key)
        exact = key.endswith(("dense", "dense_macs"))  # whole numbers, which no rounding touches
        if stands != value if exact else not _near(stands, value):
            yield f"operations.{key} is {stands}, sizes and spikes give {value}"
    yield from _footprint(record, quiet)


def _footprint(record: RunRecord, quiet: dict[str, float]) -> Iterator[str]:
    footprint = record.footprint
    if footprint is None:
        return
    if footprint.n_bytes < (least := _BYTES_OF_A_PARAMETER * record.n_parameters):
        yield f"footprint.n_bytes is {footprint.n_bytes}, parameters alone take {least}"
    silence = footprint.activation_sparsity
    if silence.keys() != quiet.keys() or not all(
        math.isclose(silence[name], quiet[name], abs_tol=ROUNDING) for name in quiet
    ):
        yield f"footprint.activation_sparsity is {silence}, operations.spikes give {quiet}"


def _environment(record: RunRecord) -> Iterator[str]:
    """What every run that may be compared has in common with every other."""
    environment = record.environment
    if not environment.deterministic:
        yield "environment.deterministic is False; only deterministic runs compare"
    if environment.threads < 1:
        yield f"environment.threads is {environment.threads}, must be from 1"
    if (environment.commit is None) != (environment.dirty is None):
        yield "environment.commit and dirty are known together or not at all"
    if environment.commit is not None and not _COMMIT.fullmatch(environment.commit):
        yield f"environment.commit is {environment.commit!r}, must be 40 or 64 hex digits"
    spiking = isinstance(record.spec.model, ModelSpec)
    if environment.engine is not None and not spiking:
        yield f"environment.engine is {environment.engine!r}, and no layer spikes"
    # records without a history may be older than the key
    if environment.engine is None and spiking and record.history:
        yield "environment.engine is missing, and layers spike"


def told(counts: Counts | None) -> str:
    """Counts in words."""
    return f"{counts.correct} of {counts.total}" if counts else "nothing"


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING)


def _is_mean(value: float, n: int, of: float = 0.0) -> bool:
    """Whether a number is a whole number divided by n, but for rounding; `of` is what it was taken from."""
    whole = value * n
    return abs(whole - round(whole)) <= max(1e-6, 1e-13 * n * abs(of))


def _at(operations: Operations, key: str) -> float:
    value: Any = operations
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return float(value)
