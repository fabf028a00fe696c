"""Training: repeatable, resumable at any point, honest about what went wrong."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from snnbench.checkpoint import build_for, load_network, load_tensors, save_tensors
from snnbench.data_prep.loader import SpikeLoader
from snnbench.errors import SnnbenchError, UsageError
from snnbench.evaluate import predict
from snnbench.metrics import Counts, count_correct
from snnbench.models.engines import Engine
from snnbench.models.losses import make_loss
from snnbench.seeding import make_generator, resolve_device
from snnbench.spec import RunSpec, TrainSpec
from snnbench.train import (
    RESUME_FILE,
    BatchReport,
    EpochReport,
    FitResult,
    activity_warnings,
    fit,
    learning_rate,
)
from tests.toy_spikes import toy_spec, toy_split

CPU = torch.device("cpu")
TRAIN, VALID = toy_split(90, seed=1), toy_split(41, seed=2)


CHANGES = {"blend_p": 0.3, "channel_jitter": 1.0, "time_jitter_s": 0.005, "noise_hz": 2.0}


def train(spec: RunSpec, folder: Path, **options: Any) -> FitResult:
    return fit(spec, TRAIN, VALID, folder=folder, device=CPU, **options)


def weights(result: FitResult) -> dict[str, torch.Tensor]:
    assert result.network is not None
    return result.network.state_dict()


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def history(folder: Path) -> list[dict[str, str]]:
    """Rows of history.csv without the time they took."""
    clocked = {"events_per_s", "train_seconds", "seconds"}
    with (folder / "history.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in clocked} for row in csv.DictReader(file)]


def assert_resumed_is_bit_identical(spec: RunSpec, tmp_path: Path, stop_after: int) -> None:
    """A run that is stopped after an epoch and goes on ends as one that was left alone."""
    undisturbed = train(spec, tmp_path / "undisturbed")

    def interrupt(report: EpochReport) -> None:
        if report.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, tmp_path / "stopped", on_epoch=interrupt)
    resumed = train(spec, tmp_path / "stopped", resume=True)
    assert_same_weights(weights(resumed), weights(undisturbed))
    assert history(tmp_path / "stopped") == history(tmp_path / "undisturbed")
    assert resumed[2:5] == undisturbed[2:5]
    files = [tmp_path / run / "model.safetensors" for run in ("stopped", "undisturbed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_learns_and_reports(tmp_path: Path):
    epochs: list[EpochReport] = []
    batches: list[BatchReport] = []
    result = train(
        toy_spec(train__epochs=8), tmp_path, on_epoch=epochs.append, on_batch=batches.append
    )
    assert result.status == "finished"
    assert result.epochs_run == 8
    assert [e.epoch for e in epochs] == list(range(1, 9))
    assert epochs[-1].loss < 0.7 * epochs[0].loss
    assert result.validation is not None
    assert result.validation.total == 41
    assert result.validation.accuracy > 0.6
    assert all(e.train.total == 90 and e.valid and e.valid.total == 41 for e in epochs)
    assert [b.samples_done for b in batches[:3]] == [32, 64, 90]
    # the last report within an epoch is the epoch's
    assert [b.loss for b in batches[2::3]] == [e.loss for e in epochs]
    assert result.seconds_per_epoch > 0
    for e in epochs:
        # every unit fires four times in every sample, some of it beyond the end
        assert e.input_spikes == epochs[0].input_spikes
        assert 0.95 * 90 * 48 < e.input_spikes <= 90 * 48
        assert 0 < e.train_seconds < e.seconds
        assert e.events_per_s == e.input_spikes / e.train_seconds
    assert batches[0].events_per_s > 0

    rows = history(tmp_path)
    assert list(rows[0]) == ["epoch", "loss", "train_accuracy", "valid_accuracy", "rate_hz.hidden1"]
    assert [float(r["valid_accuracy"]) for r in rows] == pytest.approx(
        [e.valid.accuracy for e in epochs if e.valid], abs=1e-6
    )


def test_the_earliest_best_validation_epoch_is_kept(tmp_path: Path):
    epochs: list[EpochReport] = []
    spec = toy_spec(train__epochs=12)
    result = train(spec, tmp_path, on_epoch=epochs.append)
    scores = [e.valid.correct for e in epochs if e.valid]
    assert result.chosen_epoch == 1 + scores.index(max(scores))
    assert result.validation == epochs[result.chosen_epoch - 1].valid
    # the network that comes back and the file both hold that epoch's weights
    network, saved_spec = load_network(tmp_path / "model.safetensors")
    assert saved_spec == spec
    assert_same_weights(network.state_dict(), weights(result))
    predictions = predict(network, VALID, spec, CPU).predictions
    assert count_correct(predictions, VALID.labels) == result.validation


@pytest.mark.parametrize("model", ["ff-lif", "rec-lif"])
def test_same_seed_same_weights_another_seed_others(tmp_path: Path, model: str):
    first, again, other = (
        train(toy_spec(model, seed, model__dropout=0.2, train__epochs=2), tmp_path / name)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert_same_weights(weights(first), weights(again))
    assert history(tmp_path / "a") == history(tmp_path / "b")
    assert any(not torch.equal(weights(first)[k], weights(other)[k]) for k in weights(first))


@pytest.mark.parametrize(
    ("optimiser", "stop_after", "augment"),
    [("adam", 1, {}), ("adamax", 3, {}), ("adam", 2, CHANGES)],
)
def test_resumed_run_is_bit_identical(
    tmp_path: Path, optimiser: str, stop_after: int, augment: dict[str, float]
):
    spec = toy_spec(
        "rec-lif",
        train__augment=augment,
        model__dropout=0.2,
        train__optimiser=optimiser,
        train__schedule="cosine",
        train__gradient_clip=1.0,
    )
    assert_resumed_is_bit_identical(spec, tmp_path, stop_after)


@pytest.mark.parametrize("model", ["ff-lif", "rec-lif"])
def test_resumed_after_any_epoch_a_run_ends_the_same(tmp_path: Path, model: str):
    spec = toy_spec(model, model__dropout=0.2, train__schedule="cosine")
    undisturbed = train(spec, tmp_path / "undisturbed")

    def interrupt(report: EpochReport) -> None:
        raise KeyboardInterrupt

    # stopped after each epoch in turn: every state on disk has been resumed from
    stopped = tmp_path / "stopped"
    for epoch in range(1, spec.train.epochs + 1):
        with pytest.raises(KeyboardInterrupt):
            train(spec, stopped, on_epoch=interrupt, resume=True)
        assert len(history(stopped)) == epoch
    resumed = train(spec, stopped, resume=True)
    assert_same_weights(weights(resumed), weights(undisturbed))
    assert history(stopped) == history(tmp_path / "undisturbed")


def stopped_after_an_epoch(spec: RunSpec, folder: Path, engine: Engine) -> None:
    def interrupt(report: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, folder, on_epoch=interrupt, engine=engine)


def test_a_run_goes_on_with_its_engine_and_no_other(tmp_path: Path):
    spec = toy_spec(train__epochs=2)
    stopped_after_an_epoch(spec, tmp_path, "reference")
    with pytest.raises(SnnbenchError, match=r"was trained by engine reference.*--engine reference"):
        train(spec, tmp_path, resume=True, engine="numba")
    result = train(spec, tmp_path, resume=True)
    assert (result.engine, result.epochs_run) == ("reference", 2)
    assert_same_weights(
        weights(result), weights(train(spec, tmp_path / "undisturbed", engine="reference"))
    )


@pytest.mark.parametrize("engine", ["triton", "of tomorrow"])
def test_an_engine_that_is_not_here_is_not_replaced(tmp_path: Path, engine: str):
    spec = toy_spec(train__epochs=2)
    stopped_after_an_epoch(spec, tmp_path, "reference")
    path = tmp_path / RESUME_FILE
    file = load_tensors(path)
    save_tensors(path, file.tensors, spec, {**file.extra, "engine": engine})
    with pytest.raises(SnnbenchError, match=f"trained by engine {engine}, which is not to be had"):
        train(spec, tmp_path, resume=True)


def test_engines_learn_the_same(tmp_path: Path):
    reports: dict[str, list[EpochReport]] = {"reference": [], "auto": []}
    for engine, told in reports.items():
        train(
            toy_spec("rec-lif", train__epochs=1, train__batch_size=90),
            tmp_path / engine,
            on_epoch=told.append,
            engine=engine,
        )
    (reference,), (fast,) = reports.values()
    assert fast.loss == pytest.approx(reference.loss, rel=1e-5)
    assert fast.rate_hz == pytest.approx(reference.rate_hz, rel=1e-2)


def test_recomputation_in_stretches_learns_the_same(tmp_path: Path):
    whole, stretches = (
        train(toy_spec("rec-lif", train__epochs=1, train__recompute_steps=steps), tmp_path / name)
        for name, steps in (("whole", None), ("stretches", 7))
    )
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(stretches)[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_run_that_does_not_fit_into_memory_is_refused_before_it_starts(tmp_path: Path):
    spec = toy_spec(model__hidden=[100_000], train__dt_s=0.001, train__batch_size=100_000)
    with pytest.raises(SnnbenchError, match=r"training takes about .* GiB .* are free on cpu"):
        train(spec, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_training_spikes_are_changed_at_random_and_validation_spikes_never(tmp_path: Path):
    # a network that hardly learns: what differs is what it was shown
    plain, changed = (
        toy_spec(train__lr=1e-12, train__epochs=2, model__input_gain=20.0, train__augment=augment)
        for augment in ({}, CHANGES)
    )
    train(plain, tmp_path / "plain")
    train(changed, tmp_path / "changed")
    rows = [history(tmp_path / name) for name in ("plain", "changed")]
    assert len({row["valid_accuracy"] for row in [*rows[0], *rows[1]]}) == 1
    assert rows[0][0]["rate_hz.hidden1"] == rows[0][1]["rate_hz.hidden1"]
    assert len({row["rate_hz.hidden1"] for row in [*rows[0], *rows[1]]}) == 3
    with safe_open(tmp_path / "plain" / "resume.safetensors", "pt") as file:
        assert "generator/augment" not in file.keys()  # noqa: SIM118


def test_stopped_within_an_epoch_goes_on_from_the_last_whole_one(tmp_path: Path):
    spec = toy_spec()
    undisturbed = train(spec, tmp_path / "undisturbed")
    n_batches = 0

    def interrupt(report: BatchReport) -> None:
        nonlocal n_batches
        n_batches += 1
        if n_batches in (2, 8):
            raise KeyboardInterrupt

    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            train(spec, tmp_path / "stopped", on_batch=interrupt, resume=resume)
    resumed = train(spec, tmp_path / "stopped", resume=True)
    assert_same_weights(weights(resumed), weights(undisturbed))


def test_views_are_made_again_from_the_saved_state(tmp_path: Path):
    # a kill between the files: the state is an epoch ahead of what lies beside it
    spec = toy_spec()
    first = train(spec, tmp_path)
    (tmp_path / "history.csv").write_text("old")
    (tmp_path / "model.safetensors").unlink()
    again = train(spec, tmp_path, resume=True)
    assert_same_weights(weights(first), weights(again))
    assert len(history(tmp_path)) == 4
    assert_same_weights(
        load_network(tmp_path / "model.safetensors")[0].state_dict(), weights(first)
    )


def test_patience_ends_a_run_that_no_longer_improves(tmp_path: Path):
    spec = toy_spec(train__lr=1e-12, train__patience=2, train__epochs=10)
    result = train(spec, tmp_path)
    assert (result.epochs_run, result.chosen_epoch) == (3, 1)
    assert train(spec, tmp_path, resume=True).epochs_run == 3


def test_no_epoch_begins_when_the_time_is_over(tmp_path: Path):
    told: list[EpochReport] = []
    spec = toy_spec(train__minutes=1e-9, train__epochs=10, train__schedule="cosine")
    result = train(spec, tmp_path / "short", on_epoch=told.append)
    assert (result.status, result.epochs_run, result.chosen_epoch) == ("finished", 1, 1)
    assert told[-1].is_last(spec.train)
    assert train(spec, tmp_path / "short", resume=True).epochs_run == 1
    # what is done is the beginning of the same run without a budget
    first: list[EpochReport] = []
    whole = train(
        toy_spec(train__minutes=1e9, train__epochs=2), tmp_path / "long", on_epoch=first.append
    )
    assert whole.epochs_run == 2
    assert first[0].loss == told[0].loss
    assert [r.seconds_so_far for r in first] == [
        first[0].seconds,
        first[0].seconds + first[1].seconds,
    ]


def test_time_before_a_resumption_counts(tmp_path: Path):
    spec = toy_spec(train__minutes=1000, train__epochs=3)

    def interrupt(report: EpochReport) -> None:
        raise KeyboardInterrupt

    # each session trains an epoch, and its state is made to say that it took 40,000 of 60,000 seconds
    for epochs in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            train(spec, tmp_path, on_epoch=interrupt, resume=True)
        assert len(history(tmp_path)) == epochs
        file = load_tensors(tmp_path / RESUME_FILE)
        for row in file.extra["history"]:
            row["seconds"] = 40_000.0
            row.pop("seconds_so_far")  # as in states of earlier versions
        save_tensors(tmp_path / RESUME_FILE, file.tensors, spec, file.extra)
    assert train(spec, tmp_path, resume=True).epochs_run == 2


def test_divergence_is_a_status(tmp_path: Path):
    # an activity bound so strong that its loss leaves the range of float32
    spec = toy_spec(train__activity__upper_strength=3e38, train__activity__upper=0.0)
    result = train(spec, tmp_path)
    assert result.status == "diverged"
    assert (result.network, result.chosen_epoch, result.validation) == (None, None, None)


def test_a_used_folder_is_refused_unless_resumed(tmp_path: Path):
    train(toy_spec(), tmp_path)
    before = (tmp_path / "resume.safetensors").read_bytes()
    with pytest.raises(SnnbenchError, match="holds a run already"):
        train(toy_spec(), tmp_path)
    with pytest.raises(SnnbenchError, match="is the state of run"):
        train(toy_spec(train__lr=0.02), tmp_path, resume=True)
    assert (tmp_path / "resume.safetensors").read_bytes() == before


def test_a_damaged_state_is_refused(tmp_path: Path):
    train(toy_spec(), tmp_path)
    path = tmp_path / "resume.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SnnbenchError, match=r"resume\.safetensors"):
        train(toy_spec(), tmp_path, resume=True)
    (tmp_path / "resume.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    with pytest.raises(SnnbenchError, match="remove the folder"):
        train(toy_spec(), tmp_path, resume=True)


def test_the_state_of_an_older_version_is_refused(tmp_path: Path):
    train(toy_spec(), tmp_path)
    path = tmp_path / "resume.safetensors"
    old = load_tensors(path)
    for row in old.extra["history"]:
        del row["input_spikes"], row["train_seconds"]
    save_tensors(path, old.tensors, old.spec, old.extra)
    with pytest.raises(SnnbenchError, match=r"not a state that this version .*input_spikes"):
        train(toy_spec(), tmp_path, resume=True)


def test_no_file_of_a_run_is_a_pickle(tmp_path: Path):
    train(toy_spec(train__epochs=1), tmp_path)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"resume.safetensors", "model.safetensors", "history.csv"}
    for name in names - {"history.csv"}:
        # a safetensors file: the header's length in 8 bytes, then JSON
        assert (tmp_path / name).read_bytes()[8:9] == b"{"


def test_dead_and_saturated_layers_are_told(tmp_path: Path):
    reports: list[EpochReport] = []
    train(toy_spec(model__input_gain=1e-3, train__epochs=1), tmp_path, on_epoch=reports.append)
    assert "16 of 16 units are dead" in reports[0].warnings[0]
    spikes = torch.tensor([50.0, 51.0, 51.0, 1.0, 1.0])
    told = activity_warnings("hidden1", spikes, n_steps=100)[0]
    assert told.startswith(
        "hidden1: 2 of 5 units are saturated (spikes in more than 50% of the 100"
    )
    # exactly a quarter of the units may be saturated
    assert activity_warnings("hidden1", spikes[[0, 1, 3, 4]], n_steps=100) == []
    # exactly half of the units may be dead
    assert activity_warnings("hidden1", torch.tensor([0.0, 1.0]), n_steps=100) == []


def test_rates_are_spikes_per_second(tmp_path: Path):
    reports: list[EpochReport] = []
    spec = toy_spec(train__epochs=1, train__lr=1e-12)
    train(spec, tmp_path, on_epoch=reports.append)
    network, _ = load_network(tmp_path / "model.safetensors")
    spikes = predict(network, TRAIN, spec, CPU).operations.spikes["hidden1"]
    assert reports[0].rate_hz["hidden1"] == pytest.approx(spikes / 16 / 0.2, rel=1e-4)


def test_learning_rate_schedules():
    constant, cosine = (TrainSpec(lr=0.1, epochs=4, schedule=s) for s in ("constant", "cosine"))
    assert [learning_rate(constant, e) for e in (1, 4)] == [0.1, 0.1]
    rates = [learning_rate(cosine, e) for e in (1, 2, 3, 4)]
    half = math.sqrt(0.5) / 2
    assert rates == pytest.approx([0.1, 0.1 * (0.5 + half), 0.05, 0.1 * (0.5 - half)])


def test_one_step_of_training_is_plain_adam(tmp_path: Path):
    # one epoch of one batch, redone by hand
    spec = toy_spec(train__epochs=1, train__batch_size=90)
    result = train(spec, tmp_path)
    network = build_for(spec, make_generator(0, "init"))
    (batch,) = SpikeLoader(TRAIN, spec, CPU).batches(90, make_generator(0, "order"))
    nn.functional.cross_entropy(network(batch.spikes).logits, batch.labels).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        # Adam's first step is lr * g / (|g| + eps)
        step = 0.01 * parameter.grad / (parameter.grad.abs() + 1e-8)
        torch.testing.assert_close(
            weights(result)[name], parameter.detach() - step, rtol=1e-4, atol=1e-5
        )


def first_gradient(spec: RunSpec) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Weights at the beginning and their gradients by all training samples."""
    network = build_for(spec, make_generator(spec.seed, "init"))
    (batch,) = SpikeLoader(TRAIN, spec, CPU).event_batches(90, make_generator(spec.seed, "order"))
    make_loss(spec.train)(network(batch).logits, batch.labels).backward()
    found = {}
    for name, p in network.named_parameters():
        assert p.grad is not None
        found[name] = (p.detach(), p.grad)
    return found


def after_one_step(folder: Path, **settings: Any) -> tuple[RunSpec, dict[str, torch.Tensor]]:
    spec = toy_spec(train__epochs=1, train__batch_size=90, train__lr=0.1, **settings)
    return spec, weights(train(spec, folder))


@pytest.mark.parametrize("share", [0.25, 4.0])
def test_a_gradient_is_clipped_by_the_norm_of_all_of_it(tmp_path: Path, share: float):
    plain = toy_spec(train__batch_size=90)
    norm = math.sqrt(sum(float(g.square().sum()) for _, g in first_gradient(plain).values()))
    sgd: dict[str, Any] = {"train__optimiser": "sgd", "train__betas": [0.0, 0.9]}
    spec, found = after_one_step(tmp_path, train__gradient_clip=share * norm, **sgd)
    for name, (weight, gradient) in first_gradient(spec).items():
        expected = weight - 0.1 * min(1.0, share) * gradient
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_weights_decay(tmp_path: Path, optimiser: str):
    spec, found = after_one_step(
        tmp_path,
        train__optimiser=optimiser,
        train__betas=[0.0, 0.9],
        train__weight_decay=0.5,
    )
    for name, (weight, gradient) in first_gradient(spec).items():
        # adamw's first step is one of size lr, and its decay no part of the gradient
        step = gradient if optimiser == "sgd" else gradient / (gradient.abs() + 1e-8)
        expected = weight - 0.1 * step - 0.1 * 0.5 * weight
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


def test_labels_are_smoothed_in_training(tmp_path: Path):
    sgd: dict[str, Any] = {"train__optimiser": "sgd", "train__betas": [0.0, 0.9]}
    spec, found = after_one_step(tmp_path, train__label_smoothing=0.4, **sgd)
    for name, (weight, gradient) in first_gradient(spec).items():
        torch.testing.assert_close(found[name], weight - 0.1 * gradient, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(
            gradient, first_gradient(toy_spec(train__batch_size=90))[name][1], rtol=1e-2
        )


def test_devices():
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="cannot use one"):
            resolve_device("cuda")


def test_counts_are_over_all_samples(tmp_path: Path):
    # 41 validation samples in batches of any size: no multiple of a batch
    result = train(toy_spec(train__epochs=1), tmp_path)
    assert isinstance(result.validation, Counts)
    assert result.validation.total == len(VALID) == 41


@pytest.mark.parametrize("optimiser", ["adamw", "sgd", "rmsprop"])
def test_resumed_with_averaged_weights_and_normalisation_it_is_bit_identical(
    tmp_path: Path, optimiser: str
):
    spec = toy_spec(
        "rec-lif",
        model__norm="batch",
        train__ema_decay=0.9,
        train__optimiser=optimiser,
        train__schedule="one-cycle",
        train__label_smoothing=0.1,
    )
    assert_resumed_is_bit_identical(spec, tmp_path, stop_after=2)


def test_what_is_kept_is_the_average_of_the_weights(tmp_path: Path):
    # a batch an epoch, and each epoch's weights in a file of their own
    spec = toy_spec("ff-lif", train__epochs=3, train__batch_size=90, train__ema_decay=0.75)
    steps: list[dict[str, torch.Tensor]] = []
    averages: list[dict[str, torch.Tensor]] = []

    def keep(_: EpochReport) -> None:
        tensors = load_tensors(tmp_path / RESUME_FILE).tensors
        for part, kept in (("network/", steps), ("averaged/module.", averages)):
            kept.append({k.removeprefix(part): t for k, t in tensors.items() if k.startswith(part)})

    train(spec, tmp_path, on_epoch=keep)
    assert len(steps) == 3
    for name, first in steps[0].items():
        expected = first  # the first step is copied
        for step, average in zip(steps, averages, strict=True):
            expected = 0.75 * expected + 0.25 * step[name]
            torch.testing.assert_close(average[name], expected)
        assert not torch.allclose(expected, steps[-1][name])


def test_validation_takes_running_figures_and_leaves_them_alone(tmp_path: Path):
    network = weights(train(toy_spec(model__norm="batch"), tmp_path / "some"))
    running = network["layers.0.norm.norm.running_mean"]
    assert running.abs().sum() > 0
    result = train(toy_spec(model__norm="batch"), tmp_path / "again")
    assert result.network is not None
    before = {k: v.clone() for k, v in result.network.state_dict().items()}
    alone = [predict(result.network, VALID, toy_spec(), CPU).predictions for _ in range(2)]
    assert (alone[0] == alone[1]).all()
    assert_same_weights(result.network.state_dict(), before)
    assert result.network.training
