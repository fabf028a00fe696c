"""Seeds trained side by side in one process end with the bits of seeds trained one by one."""

from __future__ import annotations

import gc
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from snnbench.checkpoint import load_tensors
from snnbench.errors import SnnbenchError
from snnbench.models.network_base import Network
from snnbench.preemption import Preempted, noticed
from snnbench.spec import RunSpec
from snnbench.train import (
    RESUME_FILE,
    BatchReport,
    EpochReport,
    FitResult,
    fit,
    fit_stack,
)
from tests.faults.test_stopped_training import outcome
from tests.toy_spikes import toy_spec, toy_split

CPU = torch.device("cpu")
TRAIN, VALID = toy_split(50, seed=1), toy_split(41, seed=2)
STEPS = 4
"""Of an epoch."""
SEEDS = (0, 1, 2)
EVERYTHING: dict[str, Any] = {
    "model__dropout": 0.2,
    "model__norm": "batch",
    "train__ema_decay": 0.9,
    "train__schedule": "cosine",
    "train__gradient_clip": 0.5,
    "train__augment": {"deletion_p": 0.1, "time_jitter_s": 0.002},
}
"""All that a run has of state."""


def specs_of(model: str = "rec-lif", **changes: Any) -> list[RunSpec]:
    quick = {"train__batch_size": 16, "train__dt_s": 0.01, "train__epochs": 3}
    return [toy_spec(model, seed, **{**quick, **changes}) for seed in SEEDS]


def together(specs: list[RunSpec], runs: Path, **options: Any) -> list[FitResult]:
    folders = [runs / str(spec.seed) for spec in specs]
    given: dict[str, Any] = {"device": CPU, "engine": "reference", "resume": True, **options}
    return fit_stack(specs, TRAIN, VALID, folders=folders, **given)


def alone(spec: RunSpec, runs: Path, **options: Any) -> FitResult:
    given: dict[str, Any] = {"device": CPU, "engine": "reference", "resume": True, **options}
    return fit(spec, TRAIN, VALID, folder=runs / str(spec.seed), **given)


def assert_same_ends(a: Path, b: Path, seeds: tuple[int, ...] = SEEDS) -> None:
    for seed in seeds:
        assert outcome(a / str(seed)) == outcome(b / str(seed)), seed


def ends(results: list[FitResult]) -> list[tuple[Any, ...]]:
    return [(r.status, r.epochs_run, r.chosen_epoch, r.validation, r.engine) for r in results]


@pytest.mark.parametrize("model", ["ff-lif", "rec-lif"])
def test_a_stack_is_bit_equal_to_single_trainings(tmp_path: Path, model: str):
    specs = specs_of(model, **EVERYTHING)
    told: list[tuple[int, int]] = []

    def on_epoch(spec: RunSpec, report: EpochReport) -> None:
        told.append((spec.seed, report.epoch))

    found = together(specs, tmp_path / "stack", on_epoch=on_epoch)
    expected = [alone(spec, tmp_path / "single") for spec in specs]
    assert ends(found) == ends(expected)
    assert_same_ends(tmp_path / "stack", tmp_path / "single")
    assert len({outcome(tmp_path / "stack" / str(s))[0] for s in SEEDS}) == 3
    assert told == [(seed, epoch) for epoch in (1, 2, 3) for seed in SEEDS]


def test_time_is_shared_out_and_the_clock_is_told(tmp_path: Path):
    specs = specs_of()
    for result in together(specs, tmp_path / "stack"):
        seconds = math.fsum(report.seconds for report in result.history)
        assert result.stack_seeds == 3
        # what one seed is charged with, and the time in which all three were trained
        assert seconds < result.clock_s
    single = alone(specs[0], tmp_path / "single")
    assert single.stack_seeds == 1
    assert math.fsum(report.seconds for report in single.history) <= single.clock_s


def test_seeds_that_stop_early_leave_the_others(tmp_path: Path):
    specs = specs_of("ff-lif", train__epochs=12, train__patience=2, train__lr=0.03)
    found = together(specs, tmp_path / "stack")
    expected = [alone(spec, tmp_path / "single") for spec in specs]
    assert ends(found) == ends(expected)
    assert len({result.epochs_run for result in found}) > 1, "all seeds have stopped at once"
    assert_same_ends(tmp_path / "stack", tmp_path / "single")


def test_a_seed_that_diverges_leaves_the_others(tmp_path: Path):
    specs = specs_of()
    steps: list[int] = []

    def spoil(spec: RunSpec, report: BatchReport) -> None:
        steps.append(spec.seed)
        if len(steps) == 3 * (STEPS + 2):
            networks = (o for o in gc.get_objects() if issubclass(type(o), Network) and o.training)
            next(next(networks).parameters()).data.fill_(math.nan)

    found = together(specs, tmp_path / "stack", on_batch=spoil)
    [lost] = [seed for seed in SEEDS if found[seed].status == "diverged"]
    assert (found[lost].network, found[lost].epochs_run) == (None, 1)
    rest = tuple(seed for seed in SEEDS if seed != lost)
    expected = [alone(specs[seed], tmp_path / "single") for seed in rest]
    assert ends([found[seed] for seed in rest]) == ends(expected)
    assert_same_ends(tmp_path / "stack", tmp_path / "single", rest)
    # a step of two seeds goes on where one of three was not finite
    assert steps.count(lost) == STEPS + 2


# ---------------------------------------------------------------- stopped, and gone on with


class Killed(Exception):
    """At any moment, with nothing saved because of it."""


def kill() -> None:
    raise Killed


def after(n: int, what: Callable[[], None]) -> Callable[[RunSpec, BatchReport], None]:
    """Do it when so many steps have been told of."""
    steps = iter(range(1, 10**6))

    def on_batch(spec: RunSpec, report: BatchReport) -> None:
        if next(steps) == n:
            what()

    return on_batch


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    for spec in specs_of(**EVERYTHING):
        alone(spec, runs)
    return runs


@pytest.mark.parametrize("steps", [2, 3 * STEPS + 2, 3 * (2 * STEPS + 1)])
def test_a_killed_stack_goes_on(tmp_path: Path, undisturbed: Path, steps: int):
    specs = specs_of(**EVERYTHING)
    with pytest.raises(Killed):
        together(specs, tmp_path, on_batch=after(steps, kill))
    results = together(specs, tmp_path)
    assert_same_ends(tmp_path, undisturbed)
    assert [result.stack_seeds for result in results] == [3, 3, 3]


@pytest.mark.parametrize("steps", [1, 3 * STEPS + 5, 3 * 2 * STEPS])
def test_sigterm_stops_all_seeds_after_a_step(tmp_path: Path, undisturbed: Path, steps: int):
    specs = specs_of(**EVERYTHING)

    def terminate() -> None:
        signal.raise_signal(signal.SIGTERM)

    with noticed(), pytest.raises(Preempted):
        together(specs, tmp_path, on_batch=after(steps, terminate))
    done = math.ceil(steps / 3)
    for seed in SEEDS:
        saved = load_tensors(tmp_path / str(seed) / RESUME_FILE).extra
        under_way = saved["pass"]["steps"] if saved["pass"] else 0
        assert len(saved["history"]) * STEPS + under_way == done, "a step was lost"
    together(specs, tmp_path)
    assert_same_ends(tmp_path, undisturbed)


def test_seeds_go_on_alone_and_together_from_wherever_each_is(tmp_path: Path, undisturbed: Path):
    specs = specs_of(**EVERYTHING)

    def terminate(_: BatchReport) -> None:
        signal.raise_signal(signal.SIGTERM)

    # seed 0 is a step ahead of the others, whose last batch is a small one when its is not
    with noticed(), pytest.raises(Preempted):
        alone(specs[0], tmp_path, on_batch=terminate)
    with pytest.raises(Killed):
        together(specs, tmp_path, on_batch=after(3 * (STEPS + 3) + 1, kill))
    saved = [load_tensors(tmp_path / str(seed) / RESUME_FILE).extra for seed in SEEDS]
    assert [len(extra["history"]) for extra in saved] == [2, 1, 1]
    last = alone(specs[2], tmp_path)
    assert (last.epochs_run, last.stack_seeds) == (3, 3)
    together(specs, tmp_path)
    assert_same_ends(tmp_path, undisturbed)


def test_an_error_in_one_folder_names_it(tmp_path: Path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / RESUME_FILE).write_bytes(b"not a checkpoint")
    with pytest.raises(SnnbenchError, match=r"1/resume\.safetensors"):
        together(specs_of(), tmp_path)
    with pytest.raises(SnnbenchError, match="holds a run already"):
        together(specs_of(), tmp_path, resume=False)


# ---------------------------------------------------------------- what is no stack


@pytest.mark.parametrize(
    ("specs", "options", "says"),
    [
        ([toy_spec(seed=0), toy_spec(seed=1, train__lr=0.5)], {}, "in more than its seed"),
        (specs_of("lstm"), {}, "lstm: .* do not spike"),
        (specs_of(), {"engine": "numba"}, "engine numba computes one network at a time"),
        (specs_of(train__recompute_steps=4), {}, "recompute_steps"),
    ],
)
def test_what_cannot_be_stacked_is_refused(
    tmp_path: Path, specs: list[RunSpec], options: dict[str, Any], says: str
):
    with pytest.raises(SnnbenchError, match=says):
        together(specs, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_seeds_begun_by_several_engines_are_not_stacked(tmp_path: Path):
    specs = specs_of(train__epochs=1)
    alone(specs[0], tmp_path, engine="numba")
    alone(specs[1], tmp_path, engine="reference")
    with pytest.raises(SnnbenchError, match="begun by several engines"):
        together(specs, tmp_path, engine="auto")


# ---------------------------------------------------------------- the kernels of a GPU


def assert_learns_as_alone(tmp_path: Path, device: torch.device) -> None:
    specs = specs_of("rec-lif", train__epochs=1)
    few = toy_split(16, seed=1), toy_split(8, seed=2)
    folders = [tmp_path / "stack" / str(spec.seed) for spec in specs]
    found = fit_stack(specs, *few, folders=folders, device=device, engine="triton")
    expected = [
        fit(spec, *few, folder=tmp_path / str(spec.seed), device=device, engine="triton")
        for spec in specs
    ]
    for one, other in zip(found, expected, strict=True):
        assert (one.status, one.engine) == ("finished", "triton")
        assert one.history[0].loss == pytest.approx(other.history[0].loss, rel=1e-3)
        assert one.network is not None
        assert other.network is not None
        for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True):
            # Adam makes steps of full length of gradients that are next to nothing
            assert float((a - b).detach().abs().mean()) < 1e-3 * float(b.detach().abs().mean())


def test_a_stack_by_triton_learns_as_single_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA, or pip install")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert_learns_as_alone(tmp_path, CPU)


@pytest.mark.gpu
def test_a_stack_on_a_gpu_learns_as_single_seeds(tmp_path: Path):
    assert_learns_as_alone(tmp_path, torch.device("cuda"))
