"""Training: epochs over the training split, the best epoch chosen on the validation split.

`fit` is given these two splits, or the first alone, and nothing else, so it cannot look at test data. After
each epoch it writes three files into the run's folder, each whole or not at all:

    resume.safetensors   everything that training goes on with; written first, the only one read back
    model.safetensors    weights of the best validation epoch so far
    history.csv          one row per epoch

A run that is killed at any moment goes on from the last finished epoch, or from a step within an epoch that
takes longer than ten minutes; one that is stopped by SIGTERM from its last step. On the same CPU it ends
with the same bits as one that was left alone.

`fit_stack` trains several seeds of one model side by side in one process, whose steps share the scans of
their layers (`snnbench.models.network_stack`); `fit` is such a stack of one. Each seed has a folder, weights,
an optimiser, random streams and an end of its own: it learns as if it were alone, may be stopped in a stack
and go on without, and leaves the others when it is over.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from snnbench.checkpoint import (
    build_for,
    load_tensors,
    restore_weights,
    save_network,
    save_tensors,
)
from snnbench.data_prep.batch import EventBatch
from snnbench.data_prep.loader import SpikeLoader
from snnbench.data_prep.spikes import Spikes
from snnbench.errors import SnnbenchError
from snnbench.evaluate import evaluating, predict_loader
from snnbench.memory import estimate_training, out_of_memory_told, require_memory
from snnbench.metrics import Counts, count_correct
from snnbench.models.delays import delay_positions
from snnbench.models.engines import Engine, require_engine
from snnbench.models.losses import make_loss
from snnbench.models.network_base import Network
from snnbench.models.network_stack import forward_together, why_not_stacked
from snnbench.models.regularise import activity_loss
from snnbench.paths import write_text
from snnbench.preemption import Preempted, held
from snnbench.profiling import NoProfile
from snnbench.seeding import deterministic, make_generator
from snnbench.spec import RunSpec, TrainSpec

RESUME_FILE = "resume.safetensors"
MODEL_FILE = "model.safetensors"
HISTORY_FILE = "history.csv"

_SAVE_EVERY_S = 600.0
"""Within an epoch that takes longer, the state is saved so often."""

DEAD_SPIKES_PER_SAMPLE = 0.01
SATURATED_STEPS = 0.5


class LeftOut(NamedTuple):
    """Whose turn it is to be left out, while class B seeks the number of epochs (`snnbench.protocol`)."""

    speaker: str
    number: int
    """Of the fold, from 1."""
    of: int


class BatchReport(NamedTuple):
    """Progress within an epoch."""

    epoch: int
    samples_done: int
    samples: int
    loss: float
    """Mean over the epoch's samples so far."""
    events_per_s: float
    """Input spikes trained on per second, over the epoch so far."""
    left_out: LeftOut | None = None
    """None where the network is trained that is tested in the end."""


class EpochReport(NamedTuple):
    """What an epoch did. Training figures are gathered while the weights change, with dropout."""

    epoch: int
    """From 1."""
    epochs: int
    """At most so many."""
    loss: float
    """Mean over the training samples."""
    train: Counts
    valid: Counts | None
    """None where nothing is held out."""
    rate_hz: dict[str, float]
    """Mean spikes per second and unit of each hidden layer, over the training samples."""
    input_spikes: int
    """Spikes of all training samples, as binned and changed for this epoch."""
    train_seconds: float
    """Training alone: batches, forward, backward and update. In a stack of n seeds a step that all of them
    do takes each an nth of its time."""
    seconds: float
    """Of the whole epoch: training and validation."""
    seconds_so_far: float
    """Of all epochs up to this one, in whichever session they were done."""
    chosen_epoch: int
    """Epoch with the best validation accuracy so far; this one where nothing is held out."""
    warnings: tuple[str, ...]
    """Dead or saturated layers, in words."""

    @property
    def events_per_s(self) -> float:
        """Input spikes trained on per second."""
        return self.input_spikes / self.train_seconds

    def is_last(self, spec: TrainSpec) -> bool:
        """Whether all epochs are done, or patience or time has run out."""
        waited = self.epoch - self.chosen_epoch
        return (
            self.epoch >= spec.epochs
            or (spec.patience is not None and waited >= spec.patience)
            or (spec.minutes is not None and self.seconds_so_far >= 60 * spec.minutes)
        )


class FitResult(NamedTuple):
    """How training ended."""

    status: Literal["finished", "diverged"]
    network: Network | None
    """With the chosen epoch's weights, on the run's device; None for a diverged run."""
    epochs_run: int
    chosen_epoch: int | None
    validation: Counts | None
    """Of the chosen epoch."""
    history: tuple[EpochReport, ...]
    """Of all epochs, in whichever session they were done."""
    seconds_per_epoch: float
    """Mean over the finished epochs, validation included; nan without any."""
    engine: Engine
    """Implementation of the scan that ran, never `auto`."""
    stack_seeds: int = 1
    """The most seeds that were trained in one process with this one, which is counted."""
    clock_s: float = 0.0
    """On the clock, while this seed was trained, with what others of a stack did meanwhile."""


@dataclass
class _Pass:
    """A pass over the training data, as far as it has come: sums over the steps done."""

    order: Tensor
    """State of the generator that has drawn the order of the samples, before it did."""
    steps: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    input_spikes: int = 0
    seconds: float = 0.0
    spike_sums: list[Tensor] = field(default_factory=list)
    """Spikes of every unit, one tensor of shape (unit,) per hidden layer."""

    @property
    def loss(self) -> float:
        """Mean over the samples so far."""
        return self.loss_sum / self.samples

    @property
    def rates(self) -> list[Tensor]:
        """Mean spikes per sample of every unit, one tensor of shape (unit,) per hidden layer."""
        return [sums / self.samples for sums in self.spike_sums]

    def add(
        self, n: int, loss: float, correct: int, input_spikes: int, spikes: Sequence[Tensor]
    ) -> None:
        """Add a step of `n` samples."""
        self.steps += 1
        self.samples += n
        self.loss_sum += loss * n
        self.correct += correct
        self.input_spikes += input_spikes
        sums = [s.detach().sum(dim=0) for s in spikes]
        before = self.spike_sums or [torch.zeros_like(s) for s in sums]
        self.spike_sums = [a + b for a, b in zip(before, sums, strict=True)]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values, for `of_state`."""
        tensors = {f"spikes.{i}": s for i, s in enumerate(self.spike_sums)}
        numbers = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("order", "spike_sums"):
            del numbers[name]
        return {"order": self.order, **tensors}, numbers

    @classmethod
    def of_state(
        cls, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], device: torch.device
    ) -> _Pass:
        """What `state` gave."""
        spikes = [tensors[f"spikes.{i}"].to(device) for i in range(len(tensors) - 1)]
        return cls(**numbers, order=tensors["order"], spike_sums=spikes)


def fit(
    spec: RunSpec,
    train: Spikes,
    valid: Spikes | None,
    *,
    folder: Path,
    device: torch.device,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_batch: Callable[[BatchReport], None] | None = None,
    resume: bool = False,
    engine: Engine = "auto",
    profile: NoProfile | None = None,
    epochs: int | None = None,
) -> FitResult:
    """Train a network and keep the epoch with the best validation accuracy, the earlier one at a tie.

    Without validation data the last epoch is kept.

    Parameters
    ----------
    spec
        The run: model, training, seed.
    train, valid
        Spikes to learn from and to choose the epoch on, or None. The first are changed at random as
        `spec.train.augment` says, the second never.
    folder
        Where the three files above go.
    device
        Where to compute.
    on_epoch, on_batch
        Called after each epoch, when its state is safely on disk, and after each batch.
    resume
        Go on from the folder's state; without one, begin.
    engine
        Which implementation of the scan runs; see `engine_for`.
    profile
        A `snnbench.profiling.Profile` learns where the time goes; the weights stay the same.
    epochs
        End after so many, on the schedule of `spec.train.epochs`; None does those.

    Returns
    -------
    FitResult
        Status `diverged` if a loss or gradient became infinite or not a number: training stops there.

    Raises
    ------
    SnnbenchError
        The splits do not fit the task; the memory does not suffice; the folder holds a run and
        `resume` is false; its state is damaged, another run's or another engine's; the engine does
        not run on the device.
    """
    [result] = fit_stack(
        [spec],
        train,
        valid,
        folders=[folder],
        device=device,
        on_epoch=None if on_epoch is None else lambda _, report: on_epoch(report),
        on_batch=None if on_batch is None else lambda _, report: on_batch(report),
        resume=resume,
        engine=engine,
        profile=profile,
        epochs=epochs,
    )
    return result


def fit_stack(
    specs: Sequence[RunSpec],
    train: Spikes,
    valid: Spikes | None,
    *,
    folders: Sequence[Path],
    device: torch.device,
    on_epoch: Callable[[RunSpec, EpochReport], None] | None = None,
    on_batch: Callable[[RunSpec, BatchReport], None] | None = None,
    resume: bool = False,
    engine: Engine = "auto",
    profile: NoProfile | None = None,
    epochs: int | None = None,
) -> list[FitResult]:
    """Train several seeds of one model side by side; each as `fit` does.

    Parameters
    ----------
    specs, folders
        The runs, which differ in their seeds only, and where the files of each go.
    on_epoch, on_batch
        As of `fit`, told which run it was.
    train, valid, device, resume, engine, profile, epochs
        As of `fit`, for all of them.

    Returns
    -------
    A result for each.

    Raises
    ------
    SnnbenchError
        As `fit`; and the runs differ in more than their seeds, were begun by several engines, or are
        of a model or an engine without stacks.
    """
    profile = profile or NoProfile()
    first = specs[0]
    for spec, folder in zip(specs, folders, strict=True):
        if spec.model_copy(update={"seed": first.seed}) != first:
            raise SnnbenchError(
                f"{spec.run_id}: differs from {first.run_id} in more than its seed; train them apart"
            )
        if (folder / RESUME_FILE).exists() and not resume:
            raise SnnbenchError(f"{folder}: holds a run already; resume it, or take another folder")
    engine = _engine_for_all(folders, engine, device)
    estimate = estimate_training(first, train, valid, device.type, engine)
    require_memory(estimate, first, device, at_once=len(specs), stacked=True)
    told = out_of_memory_told(first, train, valid, device, engine, at_once=len(specs))
    with deterministic(), profile.region("other"), told:
        runs = [
            _Run(spec, folder, device, engine, profile, epochs)
            for spec, folder in zip(specs, folders, strict=True)
        ]
        reason = why_not_stacked(runs[0].network, engine) if len(runs) > 1 else None
        if reason is not None:
            raise SnnbenchError(f"{first.model.name}: its seeds are trained one by one: {reason}")
        for run in runs:
            if (run.folder / RESUME_FILE).exists():
                run.load()
                if run.history:
                    run.write_views()
        with profile.region("reading the spikes"):
            augmentation = runs[0].generators.get("augment")
            train_loader = SpikeLoader(train, first, device, augmentation=augmentation)
            for run in runs:
                run.loader = train_loader.with_augmentation(run.generators.get("augment"))
            valid_loader = SpikeLoader(valid, first, device) if valid is not None else None
        with profile.region("compiling"):
            _compile_kernels(runs, valid_loader or SpikeLoader(train.read(0, 1), first, device))
        while learning := [run for run in runs if not run.is_over]:
            validating_s = 0.0
            try:
                _train_until_an_epoch_is_over(learning, on_batch)
                for run in learning:
                    if run.pass_is_over and valid is not None and valid_loader is not None:
                        validating_s += run.validate(valid_loader, valid)
            except Preempted:
                with held():
                    for run in learning:
                        # the step that diverged is done again, with the same random numbers
                        if not run.diverged and (run.history or run.under_way):
                            run.save()
                raise
            with held():
                for run in learning:
                    run.clock_s += validating_s
                over = [run for run in learning if run.pass_is_over]
                for run in over:
                    run.finish_epoch()
                    with profile.region("saving"):
                        run.save()
                        run.write_views()
                for run in over:
                    if on_epoch is not None:
                        on_epoch(run.spec, run.history[-1])
        return [run.result() for run in runs]


def _engine_for_all(folders: Sequence[Path], engine: Engine, device: torch.device) -> Engine:
    """The engine of a stack: that of each of its runs."""
    chosen = {engine_for(folder, engine, device): folder for folder in folders}
    if len(chosen) > 1:
        told = ", ".join(f"{folder} by {name}" for name, folder in chosen.items())
        raise SnnbenchError(
            f"runs that were begun by several engines are not trained together: {told}"
        )
    return next(iter(chosen))


class _Step(NamedTuple):
    """What a gradient step of a run was."""

    samples: int
    input_spikes: int
    loss: float
    correct: int
    spikes: tuple[Tensor, ...]
    """Spike counts of the hidden layers."""


def _train_until_an_epoch_is_over(
    runs: Sequence[_Run], on_batch: Callable[[RunSpec, BatchReport], None] | None
) -> None:
    """Steps that all runs do together, until one of them has been through its training data or diverges.

    Raises
    ------
    Preempted
        After a whole step, which `under_way` of the runs counts.
    """
    with held() as asked:
        for run in runs:
            run.begin_pass()
        lap = time.perf_counter()
        while not any(run.pass_is_over or run.diverged for run in runs):
            steps = _take_step(runs, [run.next_batch() for run in runs])
            now = time.perf_counter()
            seconds, lap = now - lap, now
            for run, step in zip(runs, steps, strict=True):
                run.clock_s += seconds
                run.stack_seeds = max(run.stack_seeds, len(runs))
                if step is None:
                    run.diverged = True
                    continue
                report = run.count_step(step, seconds / len(runs))
                if on_batch is not None:
                    on_batch(run.spec, report)
            if asked():
                break  # the end of the block raises
            for run in runs:
                if not run.diverged and time.monotonic() - run.saved_at >= _SAVE_EVERY_S:
                    run.save()


def _take_step(runs: Sequence[_Run], batches: Sequence[EventBatch]) -> list[_Step | None]:
    """One gradient step of each run; None of one whose loss or gradient is no longer a finite number."""
    region = runs[0].profile.region
    with region("forward"):
        outputs = forward_together(
            [run.network for run in runs], batches, [run.generators["dropout"] for run in runs]
        )
    with region("loss"):
        losses = [
            run.loss(output.logits, batch.labels)
            + activity_loss(output.spike_counts, run.spec.train.activity)
            for run, output, batch in zip(runs, outputs, batches, strict=True)
        ]
    with region("backward"):
        for run in runs:
            run.optimiser.zero_grad()
        # as of their sum, in which each weight has one loss to answer for
        torch.autograd.backward(losses)
    with region("gradient norm"):
        figures = []
        for run, output, batch, loss in zip(runs, outputs, batches, losses, strict=True):
            clip = run.spec.train.gradient_clip
            norm = nn.utils.clip_grad_norm_(run.network.parameters(), clip or math.inf)
            correct = (output.logits.argmax(dim=1) == batch.labels).sum()
            # a spiking layer turns nan weights into silence, so that the loss alone could look fine
            figures.append(torch.stack([loss.detach(), norm, correct.to(loss.dtype)]))
        # one transfer for all
        values = torch.stack(figures).tolist()
    steps: list[_Step | None] = []
    with region("optimiser"):
        for run, output, batch, (loss, norm, correct) in zip(
            runs, outputs, batches, values, strict=True
        ):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                steps.append(None)
                continue
            run.step()
            counts = output.spike_counts
            n_samples, n_spikes = len(batch.labels), len(batch.channels)
            steps.append(_Step(n_samples, n_spikes, loss, int(correct), counts))
    return steps


def _compile_kernels(runs: Sequence[_Run], loader: SpikeLoader) -> None:
    """Let kernels be compiled now, so that no epoch's time has it in it; changes nothing."""
    sample = loader.event_batch(torch.zeros(1, dtype=torch.int64))
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(evaluating(run.network))
        outputs = forward_together(
            [run.network for run in runs], [sample] * len(runs), [None] * len(runs)
        )
        torch.autograd.backward([output.logits.sum() for output in outputs])
    for run in runs:
        run.optimiser.zero_grad()


def engine_for(folder: Path, engine: Engine, device: torch.device) -> Engine:
    """The engine that `fit` takes in this folder, never `auto`.

    A run that was stopped goes on with the engine that has trained it so far, since another one rounds
    differently: `auto` takes that one.

    Raises
    ------
    SnnbenchError
        The engine does not run here, or the one asked for is not the one of the run.
    """
    path = folder / RESUME_FILE
    trained_by = load_tensors(path).extra.get("engine") if path.exists() else None
    if trained_by is None:
        return require_engine(engine, device)
    if engine == "auto":
        try:
            return require_engine(trained_by, device)
        except SnnbenchError as error:
            raise SnnbenchError(
                f"{path}: was trained by engine {trained_by}, which is not to be had here: {error};"
                " go on where it is, or remove the folder to begin again"
            ) from None
    if engine != trained_by:
        raise SnnbenchError(
            f"{path}: was trained by engine {trained_by}, and {engine} would go on with other"
            f" rounding; take --engine {trained_by}, or remove the folder to begin again"
        )
    return require_engine(engine, device)


class BestSoFar(NamedTuple):
    """What the state of a run, finished or not, has as its best epoch."""

    spec: RunSpec
    weights: dict[str, Tensor]
    """The network's state, on the CPU."""
    epoch: int
    epochs_done: int
    engine: str | None
    """What trained it."""


def best_so_far(folder: Path) -> BestSoFar:
    """The chosen epoch of the run in a folder, from the state that training resumes from.

    Raises
    ------
    SnnbenchError
        There is no such state, or it is damaged.
    """
    path = folder / RESUME_FILE
    file = load_tensors(path)
    weights = {k.removeprefix("best/"): t for k, t in file.tensors.items() if k.startswith("best/")}
    try:
        history = file.extra["history"]
        if not history:
            raise SnnbenchError(f"{path}: has no finished epoch yet; go on training first")
        epoch = int(history[-1]["chosen_epoch"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise SnnbenchError(
            f"{path}: not a state that this version of snnbench can read ({error!r});"
            " remove the folder to begin again"
        ) from None
    return BestSoFar(file.spec, weights, epoch, len(history), file.extra.get("engine"))


class _Run:
    """Everything that changes while a network trains."""

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        device: torch.device,
        engine: Engine,
        profile: NoProfile,
        epochs: int | None,
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.most_epochs = math.inf if epochs is None else epochs
        self.device = device
        self.profile = profile
        self.network = build_for(spec, make_generator(spec.seed, "init")).to(device)
        self.network.engine = engine
        profile.watch(self.network, device)
        self.optimiser = make_optimiser(self.network, spec.train)
        self.loss = make_loss(spec.train)
        self.averaged = averaged_network(self.network, spec.train)
        self.generators = {
            "order": make_generator(spec.seed, "order"),
            "dropout": make_generator(spec.seed, "dropout", device),
        }
        if spec.train.augment.enabled:
            self.generators["augment"] = make_generator(spec.seed, "augment", device)
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[EpochReport] = []
        self.under_way: _Pass | None = None
        self.diverged = False
        """Whether loss or gradient was no longer a finite number."""
        self.saved_at = time.monotonic()
        self.stack_seeds, self.clock_s = 1, 0.0
        self.loader: SpikeLoader
        """Of the training data."""
        self._batches: Iterator[EventBatch] | None = None
        self._validated: tuple[Counts | None, float] = None, 0.0

    @property
    def best(self) -> EpochReport:
        """Report of the chosen epoch."""
        return self.history[self.history[-1].chosen_epoch - 1]

    @property
    def evaluated(self) -> Network:
        """What is validated and kept: the network, or the average of its weights over the last steps."""
        if self.averaged is None:
            return self.network
        network: Network = self.averaged.module
        return network

    @property
    def is_over(self) -> bool:
        """Whether there is no epoch left to do."""
        return self.diverged or (
            bool(self.history)
            and (len(self.history) >= self.most_epochs or self.history[-1].is_last(self.spec.train))
        )

    @property
    def pass_is_over(self) -> bool:
        """Whether all training data have been gone through in this epoch."""
        n_steps = math.ceil(len(self.loader) / self.spec.train.batch_size)
        return self.under_way is not None and self.under_way.steps >= n_steps

    def begin_pass(self) -> None:
        """Go through the training data, or what is left of them; nothing where that is under way here."""
        if self._batches is not None:
            return
        epoch = len(self.history) + 1
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.spec.train, epoch) * group.get("lr_factor", 1.0)
        self.network.begin_epoch((epoch - 1) / self.spec.train.epochs)
        order = self.generators["order"]
        now = self.under_way = self.under_way or _Pass(order.get_state())
        order.set_state(now.order)
        batches = self.loader.event_batches(self.spec.train.batch_size, order, skip=now.steps)
        self._batches = iter(self.profile.each("batches", batches))
        if self.pass_is_over:
            next(self._batches, None)  # there is none, but the order is drawn, as ever in an epoch

    def next_batch(self) -> EventBatch:
        """Of the pass that has begun and is not over."""
        assert self._batches is not None
        return next(self._batches)

    def step(self) -> None:
        """Move the weights by the gradients that are there."""
        self.optimiser.step()
        self.network.constrain()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def count_step(self, step: _Step, seconds: float) -> BatchReport:
        """Add a step to the pass under way."""
        now = self.under_way
        assert now is not None
        now.add(step.samples, step.loss, step.correct, step.input_spikes, step.spikes)
        now.seconds += seconds
        speed = now.input_spikes / now.seconds
        return BatchReport(len(self.history) + 1, now.samples, len(self.loader), now.loss, speed)

    def validate(self, loader: SpikeLoader, valid: Spikes) -> float:
        """Count what the network gets right, for `finish_epoch`; the seconds that it took."""
        started = time.perf_counter()
        with self.profile.region("validation"):
            predictions = predict_loader(self.evaluated, loader).predictions
            counts = count_correct(predictions, valid.labels)
        seconds = time.perf_counter() - started
        self._validated = counts, seconds
        return seconds

    def finish_epoch(self) -> None:
        """Append the epoch's report, and keep its weights if they are the best so far."""
        trained, self.under_way, self._batches = self.under_way, None, None
        assert trained is not None
        valid, validating_s = self._validated
        epoch = len(self.history) + 1
        best = self.best.valid if self.history else None
        is_best = valid is None or best is None or valid.correct > best.correct
        if is_best:
            self.best_weights = {k: v.clone() for k, v in self.evaluated.state_dict().items()}
        duration_s, seconds = self.spec.task.duration_s, trained.seconds + validating_s
        rates = dict(zip(self.network.layer_names, trained.rates, strict=True))
        self.history.append(
            EpochReport(
                epoch=epoch,
                epochs=int(min(self.spec.train.epochs, self.most_epochs)),
                loss=trained.loss,
                train=Counts(correct=trained.correct, total=trained.samples),
                valid=valid,
                rate_hz={name: float(r.mean()) / duration_s for name, r in rates.items()},
                input_spikes=trained.input_spikes,
                train_seconds=trained.seconds,
                seconds=seconds,
                seconds_so_far=seconds + (self.history[-1].seconds_so_far if self.history else 0.0),
                chosen_epoch=epoch if is_best else self.best.epoch,
                warnings=tuple(
                    text
                    for name, r in rates.items()
                    for text in activity_warnings(name, r, self.spec.n_steps)
                ),
            )
        )

    def result(self) -> FitResult:
        """The end of the run; a finished one with the chosen epoch's weights in the network."""
        seconds = [report.seconds for report in self.history]
        finished = not self.diverged
        if finished:
            self.network.load_state_dict(self.best_weights)
        return FitResult(
            status="finished" if finished else "diverged",
            network=self.network if finished else None,
            epochs_run=len(self.history),
            chosen_epoch=self.best.epoch if finished else None,
            validation=self.best.valid if finished else None,
            history=tuple(self.history),
            seconds_per_epoch=sum(seconds) / len(seconds) if seconds else math.nan,
            engine=self.network.engine,
            stack_seeds=self.stack_seeds,
            clock_s=self.clock_s,
        )

    def save(self) -> None:
        """Write everything that training goes on with, also within an epoch, after a step."""
        part, numbers = self.under_way.state() if self.under_way else ({}, None)
        parts = {
            "pass": part,
            "network": self.network.state_dict(),
            "best": self.best_weights,
            "averaged": self.averaged.state_dict() if self.averaged is not None else {},
            "generator": {name: g.get_state() for name, g in self.generators.items()},
            **{
                f"optimiser.{index}": state
                for index, state in self.optimiser.state_dict()["state"].items()
            },
        }
        tensors = {f"{part}/{k}": v for part, content in parts.items() for k, v in content.items()}
        history = [
            {
                **r._asdict(),
                "train": r.train.model_dump(),
                "valid": r.valid.model_dump() if r.valid else None,
            }
            for r in self.history
        ]
        extra = {
            "history": history,
            "engine": self.network.engine,
            "pass": numbers,
            "stack": {"seeds": self.stack_seeds, "clock_s": self.clock_s},
        }
        save_tensors(self.folder / RESUME_FILE, tensors, self.spec, extra)
        self.saved_at = time.monotonic()

    def load(self) -> None:
        """Take over what `save` wrote."""
        path = self.folder / RESUME_FILE
        file = load_tensors(path)
        if file.spec != self.spec:
            raise SnnbenchError(
                f"{path}: is the state of run {file.spec.run_id}, not of {self.spec.run_id}; "
                "resume with the same task, model, settings, seed and data"
            )
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in file.tensors.items():
            part, _, key = name.partition("/")
            parts.setdefault(part, {})[key] = tensor
        try:
            restore_weights(self.network, parts["network"], path)
            self.best_weights = {k: v.to(self.device) for k, v in parts.get("best", {}).items()}
            if file.extra.get("pass"):
                self.under_way = _Pass.of_state(parts["pass"], file.extra["pass"], self.device)
            if self.averaged is not None:
                self.averaged.load_state_dict(parts["averaged"])
            for name, generator in self.generators.items():
                generator.set_state(parts["generator"][name])
            state = self.optimiser.state_dict()
            indices = [i for group in state["param_groups"] for i in group["params"]]
            state["state"] = {i: parts[f"optimiser.{i}"] for i in indices}
            self.optimiser.load_state_dict(state)
            rows = file.extra["history"]
            # states of earlier versions do not say it
            times = itertools.accumulate(row["seconds"] for row in rows)
            self.history = [
                EpochReport(
                    **{
                        **row,
                        "seconds_so_far": so_far,
                        "train": Counts(**row["train"]),
                        "valid": Counts(**row["valid"]) if row["valid"] else None,
                        "warnings": tuple(row["warnings"]),
                    }
                )
                for row, so_far in zip(rows, times, strict=True)
            ]
            # states of earlier versions are of seeds that were alone
            self.clock_s = self.history[-1].seconds_so_far if self.history else 0.0
            if stack := file.extra.get("stack"):
                self.stack_seeds, self.clock_s = int(stack["seeds"]), float(stack["clock_s"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SnnbenchError(
                f"{path}: not a state that this version of snnbench can resume from ({error});"
                " remove the folder to begin again"
            ) from error

    def write_views(self) -> None:
        """Write the best weights and the history, which follow from the saved state."""
        best = build_for(self.spec, torch.Generator())
        best.load_state_dict(self.best_weights)
        save_network(self.folder / MODEL_FILE, best, self.spec)
        write_text(self.folder / HISTORY_FILE, history_csv(self.history))


def history_csv(history: list[EpochReport]) -> str:
    """History as CSV, a row per epoch.

    Columns: epoch, loss, train_accuracy, valid_accuracy, rate_hz.<layer> ..., events_per_s,
    train_seconds, seconds. Where nothing is held out, valid_accuracy is nan.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rates = [f"rate_hz.{name}" for name in history[0].rate_hz]
    times = ["events_per_s", "train_seconds", "seconds"]
    writer.writerow(["epoch", "loss", "train_accuracy", "valid_accuracy", *rates, *times])
    for r in history:
        valid = r.valid.accuracy if r.valid else math.nan
        values = [r.loss, r.train.accuracy, valid, *r.rate_hz.values()]
        values += [r.events_per_s, r.train_seconds, r.seconds]
        writer.writerow([r.epoch, *(f"{value:.6g}" for value in values)])
    return text.getvalue()


def activity_warnings(name: str, spikes: Tensor, n_steps: int) -> list[str]:
    """Words for a layer most of whose units are dead, or a quarter of whose units fire in most steps.

    `spikes` are mean spikes per sample of every unit, shape (unit,).
    """
    dead = int((spikes < DEAD_SPIKES_PER_SAMPLE).sum())
    warnings = []
    if dead > len(spikes) / 2:
        warnings.append(
            f"{name}: {dead} of {len(spikes)} units are dead (below {DEAD_SPIKES_PER_SAMPLE} spikes"
            " per sample); raise model.input_gain or train.activity.lower_strength"
        )
    saturated = int((spikes > SATURATED_STEPS * n_steps).sum())
    # too large a gain drives the units with mostly positive weights into saturation and silences the
    # others, so even a layer that is lost has hardly more than half of its units saturated
    if saturated > len(spikes) / 4:
        warnings.append(
            f"{name}: {saturated} of {len(spikes)} units are saturated (spikes in more than"
            f" {SATURATED_STEPS:.0%} of the {n_steps} steps); lower model.input_gain or train.lr, or"
            " raise train.activity.upper_strength"
        )
    return warnings


def make_optimiser(network: Network, spec: TrainSpec) -> torch.optim.Optimizer:
    """The optimiser a spec names, over all weights; learned delays are a group of their own."""
    options: dict[str, Any] = {
        "lr": spec.lr,
        "betas": spec.betas,
        "weight_decay": spec.weight_decay,
    }
    weights = _parameter_groups(network, spec)
    if spec.optimiser in ("adam", "adamw"):
        # one pass over weights, gradients and moments instead of ten
        kind = torch.optim.Adam if spec.optimiser == "adam" else torch.optim.AdamW
        return kind(weights, fused=True, **options)
    if spec.optimiser == "adamax":
        return torch.optim.Adamax(weights, **options)
    momentum, squares = options.pop("betas")
    if spec.optimiser == "sgd":
        return torch.optim.SGD(weights, momentum=momentum, nesterov=momentum > 0, **options)
    return torch.optim.RMSprop(weights, alpha=squares, **options)


def _parameter_groups(network: Network, spec: TrainSpec) -> Iterable[Any]:
    """All parameters; with learned delays as two groups, and by what `lr` is multiplied in the second."""
    delays = delay_positions(network)
    if not delays:
        return network.parameters()
    of_delays = {id(position) for position in delays}
    factor = 1.0 if spec.delay_lr is None else spec.delay_lr / spec.lr
    return [
        {"params": [p for p in network.parameters() if id(p) not in of_delays]},
        {"params": delays, "lr": spec.lr * factor, "lr_factor": factor, "weight_decay": 0.0},
    ]


def averaged_network(network: Network, spec: TrainSpec) -> Any:
    """PyTorch's `AveragedModel`, which follows the average of the network's weights; None if not wanted."""
    if spec.ema_decay is None:
        return None
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    average = get_ema_multi_avg_fn(spec.ema_decay)
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def learning_rate(spec: TrainSpec, epoch: int) -> float:
    """Learning rate in an epoch (from 1), as `spec.schedule` and `spec.warmup_epochs` say."""
    rising = min(1.0, epoch / (spec.warmup_epochs + 1))
    if spec.schedule == "cosine":
        return rising * spec.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / spec.epochs))
    if spec.schedule == "one-cycle":
        return rising * _one_cycle(spec.lr, spec.epochs)[epoch - 1]
    return rising * spec.lr


@cache
def _one_cycle(lr: float, epochs: int) -> tuple[float, ...]:
    """Learning rates of all epochs."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=lr, total_steps=epochs + 1)
    rates = []
    for _ in range(epochs):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()  # as PyTorch wants it before the schedule's own
        schedule.step()
    return tuple(float(rate) for rate in rates)
