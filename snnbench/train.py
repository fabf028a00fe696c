"""Training: epochs over the training split, the best epoch chosen on the validation split.

`fit` is given these two splits, or the first alone, and nothing else, so it cannot look at test data. After
each epoch it writes three files into the run's folder, each whole or not at all:

    resume.safetensors   everything that training goes on with; written first, the only one read back
    model.safetensors    weights of the best validation epoch so far
    history.csv          one row per epoch

A run that is killed at any moment goes on from the last finished epoch, or from a step within an epoch that
takes longer than ten minutes; one that is stopped by SIGTERM from its last step. On the same CPU it ends
with the same bits as one that was left alone.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Training alone: batches, forward, backward and update."""
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


class _Diverged(Exception):
    """Loss or gradient is no longer a finite number."""


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
    profile = profile or NoProfile()
    goes_on = (folder / RESUME_FILE).exists()
    if goes_on and not resume:
        raise SnnbenchError(f"{folder}: holds a run already; resume it, or take another folder")
    engine = engine_for(folder, engine, device)
    require_memory(estimate_training(spec, train, valid, device.type, engine), spec, device)
    told = out_of_memory_told(spec, train, valid, device, engine)
    with deterministic(), profile.region("other"), told:
        run = _Run(spec, device, engine, profile, epochs)
        if goes_on:
            run.load(folder)
            if run.history:
                run.write_views(folder)
        with profile.region("reading the spikes"):
            augmentation = run.generators.get("augment")
            train_loader = SpikeLoader(train, spec, device, augmentation=augmentation)
            valid_loader = SpikeLoader(valid, spec, device) if valid is not None else None
        with profile.region("compiling"):
            run.compile_kernels(valid_loader or SpikeLoader(train.read(0, 1), spec, device))
        while not run.is_over:
            validation, validating_s = None, 0.0
            try:
                run.train_epoch(train_loader, folder, on_batch)
                if valid is not None and valid_loader is not None:
                    started = time.perf_counter()
                    with profile.region("validation"):
                        predictions = predict_loader(run.evaluated, valid_loader).predictions
                        validation = count_correct(predictions, valid.labels)
                    validating_s = time.perf_counter() - started
            except _Diverged:
                return run.result("diverged")
            except Preempted:
                if run.history or run.under_way:
                    with held():
                        run.save(folder)
                raise
            with held():
                run.finish_epoch(validation, validating_s)
                with profile.region("saving"):
                    run.save(folder)
                    run.write_views(folder)
                if on_epoch is not None:
                    on_epoch(run.history[-1])
        return run.result("finished")


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
        device: torch.device,
        engine: Engine,
        profile: NoProfile,
        epochs: int | None,
    ) -> None:
        self.spec = spec
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
        self.saved_at = time.monotonic()

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
        return bool(self.history) and (
            len(self.history) >= self.most_epochs or self.history[-1].is_last(self.spec.train)
        )

    def compile_kernels(self, loader: SpikeLoader) -> None:
        """Let kernels be compiled now, so that no epoch's time has it in it; changes nothing."""
        with evaluating(self.network):
            output = self.network(loader.event_batch(torch.zeros(1, dtype=torch.int64)))
            output.logits.sum().backward()
        self.optimiser.zero_grad()

    def train_epoch(
        self, loader: SpikeLoader, folder: Path, on_batch: Callable[[BatchReport], None] | None
    ) -> None:
        """One pass over the training data, or what is left of it; `under_way` tells what it came to.

        Raises
        ------
        _Diverged
            As `train_batch`.
        Preempted
            After a whole step, which `under_way` counts.
        """
        epoch = len(self.history) + 1
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.spec.train, epoch) * group.get("lr_factor", 1.0)
        self.network.begin_epoch((epoch - 1) / self.spec.train.epochs)
        order = self.generators["order"]
        with held() as asked:
            now = self.under_way = self.under_way or _Pass(order.get_state())
            order.set_state(now.order)
            started = time.perf_counter() - now.seconds
            batches = loader.event_batches(self.spec.train.batch_size, order, skip=now.steps)
            for batch in self.profile.each("batches", batches):
                loss, hits, spikes = self.train_batch(batch)
                now.add(len(batch.labels), loss, hits, len(batch.channels), spikes)
                now.seconds = time.perf_counter() - started
                if on_batch is not None:
                    speed = now.input_spikes / now.seconds
                    on_batch(BatchReport(epoch, now.samples, len(loader), now.loss, speed))
                if asked():
                    break  # the end of the block raises
                if time.monotonic() - self.saved_at >= _SAVE_EVERY_S:
                    self.save(folder)

    def train_batch(self, batch: EventBatch) -> tuple[float, int, tuple[Tensor, ...]]:
        """One gradient step: loss, correct predictions, spike counts."""
        region = self.profile.region
        with region("forward"):
            logits, spike_counts = self.network(batch, self.generators["dropout"])
        with region("loss"):
            loss = self.loss(logits, batch.labels)
            loss = loss + activity_loss(spike_counts, self.spec.train.activity)
        with region("backward"):
            self.optimiser.zero_grad()
            loss.backward()
        with region("gradient norm"):
            clip = self.spec.train.gradient_clip
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), clip or math.inf)
            correct = (logits.argmax(dim=1) == batch.labels).sum()
            # one transfer for all three; a spiking layer turns nan weights into silence, so that the
            # loss alone could look fine
            values = torch.stack([loss.detach(), norm, correct.to(loss.dtype)]).tolist()
        if not (math.isfinite(values[0]) and math.isfinite(values[1])):
            raise _Diverged
        with region("optimiser"):
            self.optimiser.step()
            self.network.constrain()
            if self.averaged is not None:
                self.averaged.update_parameters(self.network)
        return values[0], int(values[2]), spike_counts

    def finish_epoch(self, valid: Counts | None, validating_s: float) -> None:
        """Append the epoch's report, and keep its weights if they are the best so far."""
        trained, self.under_way = self.under_way, None
        assert trained is not None
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

    def result(self, status: Literal["finished", "diverged"]) -> FitResult:
        """The end of the run; a finished one with the chosen epoch's weights in the network."""
        seconds = [report.seconds for report in self.history]
        finished = status == "finished"
        if finished:
            self.network.load_state_dict(self.best_weights)
        return FitResult(
            status=status,
            network=self.network if finished else None,
            epochs_run=len(self.history),
            chosen_epoch=self.best.epoch if finished else None,
            validation=self.best.valid if finished else None,
            history=tuple(self.history),
            seconds_per_epoch=sum(seconds) / len(seconds) if seconds else math.nan,
            engine=self.network.engine,
        )

    def save(self, folder: Path) -> None:
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
        extra = {"history": history, "engine": self.network.engine, "pass": numbers}
        save_tensors(folder / RESUME_FILE, tensors, self.spec, extra)
        self.saved_at = time.monotonic()

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote."""
        path = folder / RESUME_FILE
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
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SnnbenchError(
                f"{path}: not a state that this version of snnbench can resume from ({error});"
                " remove the folder to begin again"
            ) from error

    def write_views(self, folder: Path) -> None:
        """Write the best weights and the history, which follow from the saved state."""
        best = build_for(self.spec, torch.Generator())
        best.load_state_dict(self.best_weights)
        save_network(folder / MODEL_FILE, best, self.spec)
        write_text(folder / HISTORY_FILE, history_csv(self.history))


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
