"""Training: epochs over the training split, the best epoch chosen on the validation split.

`fit` is given these two splits and nothing else, so it cannot look at test data. After each epoch it
writes three files into the run's folder, each whole or not at all:

    resume.safetensors   everything the next epoch depends on; written first, the only one read back
    model.safetensors    weights of the best validation epoch so far
    history.csv          one row per epoch

A run that is stopped at any moment goes on from the last finished epoch, and on the same CPU ends with
the same bits as one that was left alone.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from snnbench.checkpoint import (
    build_for,
    load_tensors,
    restore_weights,
    save_network,
    save_tensors,
)
from snnbench.data_prep.batch import Batch
from snnbench.data_prep.loader import SpikeLoader
from snnbench.data_prep.spikes import Spikes
from snnbench.errors import SnnbenchError
from snnbench.evaluate import predict_loader
from snnbench.metrics import Counts, count_correct
from snnbench.models.network import SpikingNetwork
from snnbench.models.regularise import activity_loss
from snnbench.paths import write_text
from snnbench.seeding import deterministic, make_generator
from snnbench.spec import RunSpec, TrainSpec

RESUME_FILE = "resume.safetensors"
MODEL_FILE = "model.safetensors"
HISTORY_FILE = "history.csv"

DEAD_SPIKES_PER_SAMPLE = 0.01
SATURATED_STEPS = 0.5


class BatchReport(NamedTuple):
    """Progress within an epoch."""

    epoch: int
    samples_done: int
    samples: int
    loss: float
    """Of this batch."""


class EpochReport(NamedTuple):
    """What an epoch did. Training figures are gathered while the weights change, with dropout."""

    epoch: int
    """From 1."""
    epochs: int
    loss: float
    """Mean over the training samples."""
    train: Counts
    valid: Counts
    rate_hz: dict[str, float]
    """Mean spikes per second and unit of each hidden layer, over the training samples."""
    seconds: float
    chosen_epoch: int
    """Epoch with the best validation accuracy so far."""
    warnings: tuple[str, ...]
    """Dead or saturated layers, in words."""


class FitResult(NamedTuple):
    """How training ended."""

    status: Literal["finished", "diverged"]
    network: SpikingNetwork | None
    """With the chosen epoch's weights, on the run's device; None for a diverged run."""
    epochs_run: int
    chosen_epoch: int | None
    validation: Counts | None
    """Of the chosen epoch."""
    seconds_per_epoch: float
    """Mean over the finished epochs, validation included; nan without any."""


class _Diverged(Exception):
    """Loss or gradient is no longer a finite number."""


def fit(
    spec: RunSpec,
    train: Spikes,
    valid: Spikes,
    *,
    folder: Path,
    device: torch.device,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_batch: Callable[[BatchReport], None] | None = None,
    resume: bool = False,
) -> FitResult:
    """Train a network and keep the epoch with the best validation accuracy, the earlier one at a tie.

    Parameters
    ----------
    spec
        The run: model, training, seed.
    train, valid
        Spikes to learn from and to choose the epoch on. The first are changed at random as
        `spec.train.augment` says, the second never.
    folder
        Where the three files above go.
    device
        Where to compute.
    on_epoch, on_batch
        Called after each epoch, when its state is safely on disk, and after each batch.
    resume
        Go on from the folder's state; without one, begin.

    Returns
    -------
    FitResult
        Status `diverged` if a loss or gradient became infinite or not a number: training stops there.

    Raises
    ------
    SnnbenchError
        The splits do not fit the task; the folder holds a run and `resume` is false; its state is
        damaged or another run's.
    """
    with deterministic():
        run = _Run(spec, device)
        if (folder / RESUME_FILE).exists():
            if not resume:
                raise SnnbenchError(
                    f"{folder}: holds a run already; resume it, or take another folder"
                )
            run.load(folder)
            run.write_views(folder)
        train_loader = SpikeLoader(train, spec, device, augmentation=run.generators.get("augment"))
        valid_loader = SpikeLoader(valid, spec, device)
        while not run.is_over:
            started = time.perf_counter()
            try:
                loss, counts, rates = run.train_epoch(train_loader, on_batch)
            except _Diverged:
                return run.result("diverged")
            predictions = predict_loader(run.network, valid_loader).predictions
            run.finish_epoch(loss, counts, count_correct(predictions, valid.labels), rates, started)
            run.save(folder)
            run.write_views(folder)
            if on_epoch is not None:
                on_epoch(run.history[-1])
        return run.result("finished")


class _Run:
    """Everything that changes while a network trains."""

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.network = build_for(spec, make_generator(spec.seed, "init")).to(device)
        self.optimiser = make_optimiser(self.network, spec.train)
        self.generators = {
            "order": make_generator(spec.seed, "order"),
            "dropout": make_generator(spec.seed, "dropout", device),
        }
        if spec.train.augment.enabled:
            self.generators["augment"] = make_generator(spec.seed, "augment", device)
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[EpochReport] = []

    @property
    def best(self) -> EpochReport:
        """Report of the chosen epoch."""
        return self.history[self.history[-1].chosen_epoch - 1]

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or patience has run out."""
        done, patience = len(self.history), self.spec.train.patience
        out_of_patience = patience is not None and done and done - self.best.epoch >= patience
        return done >= self.spec.train.epochs or bool(out_of_patience)

    def train_epoch(
        self, loader: SpikeLoader, on_batch: Callable[[BatchReport], None] | None
    ) -> tuple[float, Counts, list[Tensor]]:
        """One pass over the training data: mean loss, accuracy, mean spikes per sample and unit."""
        epoch = len(self.history) + 1
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.spec.train, epoch)
        done, loss_sum, correct = 0, 0.0, 0
        spike_sums: list[Tensor] = []
        for batch in loader.batches(self.spec.train.batch_size, self.generators["order"]):
            loss, hits, counts = self.train_batch(batch)
            n = len(batch.labels)
            done, loss_sum, correct = done + n, loss_sum + loss * n, correct + hits
            sums = [c.detach().sum(dim=0) for c in counts]
            before = spike_sums or [torch.zeros_like(s) for s in sums]
            spike_sums = [a + b for a, b in zip(before, sums, strict=True)]
            if on_batch is not None:
                on_batch(BatchReport(epoch, done, len(loader), loss))
        rates = [s / done for s in spike_sums]
        return loss_sum / done, Counts(correct=correct, total=done), rates

    def train_batch(self, batch: Batch) -> tuple[float, int, tuple[Tensor, ...]]:
        """One gradient step: loss, correct predictions, spike counts."""
        logits, spike_counts = self.network(batch.spikes, self.generators["dropout"])
        loss = nn.functional.cross_entropy(logits, batch.labels)
        loss = loss + activity_loss(spike_counts, self.spec.train.activity)
        self.optimiser.zero_grad()
        loss.backward()
        clip = self.spec.train.gradient_clip
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), clip or math.inf)
        correct = (logits.argmax(dim=1) == batch.labels).sum()
        # one transfer for all three; a spiking layer turns nan weights into silence, so that the loss
        # alone could look fine
        values = torch.stack([loss.detach(), norm, correct.to(loss.dtype)]).tolist()
        if not (math.isfinite(values[0]) and math.isfinite(values[1])):
            raise _Diverged
        self.optimiser.step()
        return values[0], int(values[2]), spike_counts

    def finish_epoch(
        self, loss: float, train: Counts, valid: Counts, rates: list[Tensor], started: float
    ) -> None:
        """Append the epoch's report, and keep its weights if they are the best so far."""
        epoch = len(self.history) + 1
        is_best = not self.history or valid.correct > self.best.valid.correct
        if is_best:
            self.best_weights = {k: v.clone() for k, v in self.network.state_dict().items()}
        duration_s = self.spec.task.duration_s
        names = self.network.layer_names
        self.history.append(
            EpochReport(
                epoch=epoch,
                epochs=self.spec.train.epochs,
                loss=loss,
                train=train,
                valid=valid,
                rate_hz={
                    name: float(r.mean()) / duration_s for name, r in zip(names, rates, strict=True)
                },
                seconds=time.perf_counter() - started,
                chosen_epoch=epoch if is_best else self.best.epoch,
                warnings=tuple(
                    text
                    for name, r in zip(names, rates, strict=True)
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
            seconds_per_epoch=sum(seconds) / len(seconds) if seconds else math.nan,
        )

    def save(self, folder: Path) -> None:
        """Write everything the next epoch depends on."""
        parts = {
            "network": self.network.state_dict(),
            "best": self.best_weights,
            "generator": {name: g.get_state() for name, g in self.generators.items()},
            **{
                f"optimiser.{index}": state
                for index, state in self.optimiser.state_dict()["state"].items()
            },
        }
        tensors = {f"{part}/{k}": v for part, content in parts.items() for k, v in content.items()}
        history = [
            {**r._asdict(), "train": r.train.model_dump(), "valid": r.valid.model_dump()}
            for r in self.history
        ]
        save_tensors(folder / RESUME_FILE, tensors, self.spec, {"history": history})

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
            self.best_weights = {k: v.to(self.device) for k, v in parts["best"].items()}
            for name, generator in self.generators.items():
                generator.set_state(parts["generator"][name])
            state = self.optimiser.state_dict()
            indices = range(len(state["param_groups"][0]["params"]))
            state["state"] = {i: parts[f"optimiser.{i}"] for i in indices}
            self.optimiser.load_state_dict(state)
            self.history = [
                EpochReport(
                    **{
                        **row,
                        "train": Counts(**row["train"]),
                        "valid": Counts(**row["valid"]),
                        "warnings": tuple(row["warnings"]),
                    }
                )
                for row in file.extra["history"]
            ]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SnnbenchError(
                f"{path}: not a state to resume from ({error}); remove the folder to begin again"
            ) from error

    def write_views(self, folder: Path) -> None:
        """Write the best weights and the history, which follow from the saved state."""
        best = build_for(self.spec, torch.Generator())
        best.load_state_dict(self.best_weights)
        save_network(folder / MODEL_FILE, best, self.spec)
        write_text(folder / HISTORY_FILE, history_csv(self.history))


def history_csv(history: list[EpochReport]) -> str:
    """History as CSV: epoch, loss, train_accuracy, valid_accuracy, rate_hz.<layer> ..., seconds."""
    layers = list(history[0].rate_hz)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rates = [f"rate_hz.{name}" for name in layers]
    writer.writerow(["epoch", "loss", "train_accuracy", "valid_accuracy", *rates, "seconds"])
    for r in history:
        values = [r.loss, r.train.accuracy, r.valid.accuracy, *r.rate_hz.values(), r.seconds]
        writer.writerow([r.epoch, *(f"{value:.6g}" for value in values)])
    return text.getvalue()


def activity_warnings(name: str, spikes: Tensor, n_steps: int) -> list[str]:
    """Words for a layer with mostly dead units, or one that fires in most steps.

    `spikes` are mean spikes per sample of every unit, shape (unit,).
    """
    dead = int((spikes < DEAD_SPIKES_PER_SAMPLE).sum())
    warnings = []
    if dead > len(spikes) / 2:
        warnings.append(
            f"{name}: {dead} of {len(spikes)} units are dead (below {DEAD_SPIKES_PER_SAMPLE} spikes"
            " per sample); raise model.input_gain or train.activity.lower_strength"
        )
    if spikes.mean() > SATURATED_STEPS * n_steps:
        warnings.append(
            f"{name}: saturated, {float(spikes.mean()):.0f} spikes per unit and sample in {n_steps}"
            " steps; lower model.input_gain or train.lr, or raise train.activity.upper_strength"
        )
    return warnings


def make_optimiser(network: SpikingNetwork, spec: TrainSpec) -> torch.optim.Optimizer:
    """The optimiser a spec names, over all weights."""
    kind = {"adam": torch.optim.Adam, "adamax": torch.optim.Adamax}[spec.optimiser]
    return kind(network.parameters(), lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay)


def learning_rate(spec: TrainSpec, epoch: int) -> float:
    """Learning rate in an epoch (from 1): constant, or half a cosine from lr towards 0."""
    if spec.schedule == "constant":
        return spec.lr
    return spec.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / spec.epochs))
