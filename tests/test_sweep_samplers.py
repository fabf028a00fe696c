"""Samplers, pruners, objectives, failures: what a study does with them, and several trials at a time."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from snnbench.errors import SnnbenchError, UsageError
from snnbench.study_store import Study, loaded_study, read_study, running_study
from snnbench.sweep import Coordinator, Progress, Sweep, make_sweep, run_sweep, trial_seed
from snnbench.sweep_samplers import (
    PRUNERS,
    SAMPLERS,
    SamplerName,
    check_sampler,
    pinned_pruner,
    pinned_sampler,
)
from snnbench.sweep_tracking import ShownTrials
from snnbench.trial import TrialEpoch, TrialOutcome, run_trial
from tests.test_sweep import QUICK, SEARCH, TRAIN, VALID, by_number, run, toy_sweep

GRID: dict[str, dict[str, Any]] = {
    "train.lr": {"choices": [0.01, 0.05, 0.1]},
    "train.batch_size": {"low": 6, "high": 12, "step": 6},
}
# both are read by no test that looks at accuracy
ONE_EPOCH: dict[str, Any] = {"train__epochs": 1}


def free_batch(search: dict[str, dict[str, Any]], **changes: Any) -> Sweep:
    """A toy sweep whose batch size is searched."""
    overrides = {key: value for key, value in QUICK.items() if key != "train.batch_size"}
    overrides |= {key.replace("__", "."): value for key, value in changes.items()}
    return make_sweep(
        "digits-synthetic", "ff-lif", search, data_fingerprint="toy", overrides=overrides
    )


@pytest.fixture(scope="module")
def ten_trials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of ten trials, whose values are random: tpe and gp begin so, too."""
    folder = tmp_path_factory.mktemp("ten")
    run(toy_sweep(**ONE_EPOCH), folder, 10, sampler="random")
    return folder


def with_sampler(ten_trials: Path, folder: Path, sampler: SamplerName) -> Path:
    """A copy of the study in another folder, as that sampler would have begun it."""
    shutil.copytree(ten_trials, folder)
    with running_study(folder, toy_sweep(**ONE_EPOCH).name, objectives=1) as study:
        study.note("sampler", pinned_sampler(sampler))
    return folder


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_is_pinned(sampler: SamplerName, tmp_path: Path) -> None:
    sweep = free_batch(GRID, **ONE_EPOCH) if sampler == "grid" else toy_sweep(**ONE_EPOCH)
    first = run(sweep, tmp_path, 2, sampler=sampler)
    assert first.sampler == pinned_sampler(sampler)
    assert first.pruner == pinned_pruner("median", 1)
    both = run(sweep, tmp_path, 3)
    assert (both.sampler, both.finished) == (first.sampler, 3)
    other = "random" if sampler != "random" else "tpe"
    with pytest.raises(UsageError, match=f"--sampler {other}: .* was begun with {sampler}, and a"):
        run(sweep, tmp_path, 4, sampler=other)
    with pytest.raises(UsageError, match=r"--pruner none: .* was begun with median, and a study"):
        run(sweep, tmp_path, 4, pruner="none")
    assert read_study(tmp_path, sweep.name).finished == 3


def test_a_sampler_goes_on_as_if_never_stopped(ten_trials: Path, tmp_path: Path) -> None:
    """Beyond its random beginning, and otherwise than other samplers: a name is more than a name."""
    sweep, after = toy_sweep(**ONE_EPOCH), {}
    for sampler in ("random", "tpe", "gp", "cmaes"):
        parts = with_sampler(ten_trials, tmp_path / f"{sampler}-parts", sampler)
        run(sweep, parts, 11)
        both = by_number(run(sweep, parts, 12))
        one = with_sampler(ten_trials, tmp_path / f"{sampler}-one", sampler)
        assert by_number(run(sweep, one, 12)) == both
        after[sampler] = str([trial.params for trial in both[10:]])
    assert len(set(after.values())) == 4


def test_the_first_trials_of_tpe_and_gp_are_random(ten_trials: Path, tmp_path: Path) -> None:
    sweep = toy_sweep(**ONE_EPOCH)
    beginning = by_number(read_study(ten_trials, sweep.name))[:2]
    assert by_number(run(sweep, tmp_path / "tpe", 2)) == beginning
    assert by_number(run(sweep, tmp_path / "gp", 2, sampler="gp")) == beginning


def test_another_optuna_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import optuna

    sweep = toy_sweep(**ONE_EPOCH)
    run(sweep, tmp_path, 1)
    with running_study(tmp_path, sweep.name, objectives=1) as study:
        study.note("optuna", ["4.0.0"])
    assert not caplog.messages
    run(sweep, tmp_path, 1)
    [message] = caplog.messages
    assert f"begun with Optuna 4.0.0, goes on with {optuna.__version__}" in message


def test_cmaes_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(SnnbenchError, match=r"--sampler cmaes needs .* pip install cmaes"):
        check_sampler("cmaes", toy_sweep().space, 1)
    check_sampler("tpe", toy_sweep().space, 1)


def test_a_grid_ends_when_it_is_done(tmp_path: Path) -> None:
    sweep = free_batch(GRID, **ONE_EPOCH)

    def stop(progress: Progress) -> None:
        if (progress.finished, progress.epoch) == (2, 1):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(sweep, tmp_path, 99, sampler="grid", on_progress=stop)
    study = run(sweep, tmp_path, 99)
    # what was stopped is done again
    assert study.states == {"complete": 6, "stopped": 1}
    points = [tuple(t.params.values()) for t in by_number(study) if t.state == "complete"]
    assert sorted(points) == [(lr, n) for lr in (0.01, 0.05, 0.1) for n in (6, 12)]
    assert points != sorted(points)
    seeded = run(sweep, tmp_path / "seed", 6, sampler="grid", seed=1)
    assert [tuple(t.params.values()) for t in by_number(seeded)] != points
    assert len(run(sweep, tmp_path, 99).trials) == 7


def test_a_grid_of_a_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.lr: a grid needs choices"):
        run(toy_sweep(), tmp_path, 1, sampler="grid")


def test_pruners(tmp_path: Path) -> None:
    """Rates that learn nothing beside one that does: only a pruner tells them apart early."""
    rates = {"train.lr": {"choices": [0.05, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12]}}
    sweep = toy_sweep(rates, train__epochs=5)
    for pruner in PRUNERS:
        study = run(sweep, tmp_path / pruner, 7, sampler="grid", pruner=pruner)
        assert study.pruner["name"] == pruner
        assert study.best is not None
        assert study.best.params == {"train.lr": 0.05}
        pruned = [t for t in study.trials if t.state == "pruned"]
        assert bool(pruned) == (
            pruner == "hyperband"
        )  # median waits for five whole ones, and a worse
        assert all(t.epochs < 5 for t in pruned)


# --- several seeds, several objectives


def test_seeds_of_a_trial_are_its_own(tmp_path: Path) -> None:
    sweep = toy_sweep()
    three = make_sweep(
        "digits-synthetic",
        "ff-lif",
        SEARCH,
        data_fingerprint="toy",
        overrides=QUICK,
        seeds_per_trial=3,
    )
    assert three.name != sweep.name
    [trial] = run(three, tmp_path, 1).trials
    assert trial.epochs == 3 * 2
    seeds = {trial_seed(s, n, i) for s in range(3) for n in range(3) for i in range(3)}
    assert len(seeds) == 27
    assert min(seeds) > 1000  # none that a benchmark takes


def test_only_the_first_seed_is_compared(tmp_path: Path) -> None:
    """Further ones would stand beside others' first ones."""
    sweep = toy_sweep(train__epochs=9)
    with running_study(tmp_path, sweep.name, objectives=1) as study:
        study.pin("sampler", None, pinned_sampler("tpe"))
        study.pin("pruner", None, pinned_pruner("median", 9))
        shown = ShownTrials(sweep, tmp_path / "trials", False, None)
        coordinator = Coordinator(sweep, study, shown, trials=1, seed=0, device="cpu")
        job = next(coordinator.jobs())
        for seed, epoch in ((0, 1), (0, 2), (1, 1), (1, 5)):
            coordinator.heard(job, TrialEpoch(seed, epoch, 9, 0.5 + seed, {}))
    with loaded_study(tmp_path, sweep.name) as told:
        assert told.trials[0].intermediate_values == {1: 0.5, 2: 0.5}


def two_objectives(objective: Any = "spikes", model: str = "ff-lif") -> Sweep:
    return make_sweep(
        "digits-synthetic",
        model,
        {"train.lr": {"low": 1e-3, "high": 0.3, "log": True}},
        data_fingerprint="toy",
        overrides={**QUICK, "model.dropout": 0.0} if model == "ff-lif" else {},
        objectives=("accuracy", objective),
    )


@pytest.mark.parametrize("objective", ["spikes", "operations"])
def test_a_pareto_front(objective: str, tmp_path: Path) -> None:
    sweep = two_objectives(objective)
    assert sweep.name != toy_sweep({"train.lr": dict(sweep.search["train.lr"])}).name
    study = run(sweep, tmp_path, 6)
    assert study.states == {"complete": 6}
    assert study.objectives == ("accuracy", objective)
    assert study.pruner["name"] == "none"
    points = {t.number: (t.accuracy or 0, getattr(t, objective)) for t in study.trials}
    assert all(work > 0 for _, work in points.values())
    on_front = [
        number
        for number, (a, w) in points.items()
        if not any(x >= a and y <= w and (x, y) != (a, w) for x, y in points.values())
    ]
    assert study.front == tuple(sorted(on_front))
    assert 0 < len(on_front) < 6
    assert study.best is not None
    assert study.best.accuracy == max(a for a, _ in points.values())
    assert by_number(run(sweep, tmp_path / "again", 6)) == by_number(study)


def test_what_two_objectives_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--pruner median: with several objectives"):
        run(two_objectives(), tmp_path, 1, pruner="median")
    with pytest.raises(UsageError, match=r"--sampler cmaes has one objective only"):
        run(two_objectives(), tmp_path, 1, sampler="cmaes")
    with pytest.raises(UsageError, match="a model of kind counts has no spikes"):
        two_objectives("spikes", "counts-linear")
    assert two_objectives("operations", "counts-linear").objectives[1] == "operations"


# --- failures


def test_values_that_do_not_fit_together_are_a_failed_trial(tmp_path: Path) -> None:
    """One bin that is longer than one time constant; each fits with the others."""
    search: dict[str, dict[str, Any]] = {
        "train.dt_s": {"choices": [0.004, 0.015, 0.005]},
        "model.neuron.tau_mem_s": {"choices": [0.02, 0.012, 0.03]},
    }
    told: list[Progress] = []
    sweep = toy_sweep(
        search, model__neuron__tau_syn_s=0.016, model__readout__tau_syn_s=0.016, **ONE_EPOCH
    )
    study = run(sweep, tmp_path, 9, sampler="grid", on_progress=told.append)
    assert study.states == {"complete": 8, "error": 1}
    assert study.finished == 9
    [failed] = [t for t in study.trials if t.state == "error"]
    assert failed.params == {"train.dt_s": 0.015, "model.neuron.tau_mem_s": 0.012}
    assert "model.neuron.tau_mem_s = 0.012 s is shorter than the bin" in failed.message
    assert told[-1].failed == 1


def test_an_error_of_every_trial_ends_the_sweep(tmp_path: Path) -> None:
    sweep = toy_sweep(task__n_units=5, **ONE_EPOCH)
    with pytest.raises(SnnbenchError, match=r"the first 3 trials all ended with an error, .* unit"):
        run(sweep, tmp_path, 9)
    assert read_study(tmp_path, sweep.name).states == {"error": 3}


def test_a_trial_without_memory_does_not_end_the_sweep(tmp_path: Path) -> None:
    overrides = {key: value for key, value in QUICK.items() if key != "model.hidden"}
    sweep = make_sweep(
        "digits-synthetic",
        "ff-lif",
        {"model.hidden": {"choices": [[8], [2_000_000_000]]}},
        data_fingerprint="toy",
        overrides=overrides,
    )
    study = run(sweep, tmp_path, 2, sampler="grid")
    assert study.states == {"complete": 1, "oom": 1}
    assert study.trials[-1].params == {"model.hidden": "[2000000000]"}
    assert "training takes about" in study.trials[-1].message


# --- several trials at a time


class Workers:
    """A coordinator whose jobs are run whenever a test says so, as processes elsewhere would."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.jobs = coordinator.jobs()

    def finish(self, job: Any) -> TrialOutcome:
        outcome = run_trial(
            job,
            TRAIN,
            VALID,
            lambda report: self.coordinator.heard(job, report),
            lambda: self.coordinator.stopped(job),
        )
        self.coordinator.done(job, outcome)
        return outcome


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_trials_side_by_side(sampler: SamplerName, ten_trials: Path, tmp_path: Path) -> None:
    sweep = toy_sweep(**ONE_EPOCH)
    alone = by_number(run(sweep, with_sampler(ten_trials, tmp_path / "alone", sampler), 14))
    folder = with_sampler(ten_trials, tmp_path / "beside", sampler)
    with running_study(folder, sweep.name, objectives=1) as study:
        shown = ShownTrials(sweep, folder / "trials", False, None)
        workers = Workers(Coordinator(sweep, study, shown, trials=14, seed=0, device="cpu"))
        first, second = next(workers.jobs), next(workers.jobs)
        assert (first.number, second.number) == (10, 11)
        assert study.read().states == {"complete": 10, "running": 2}
        workers.finish(second)
        third, fourth = next(workers.jobs), next(workers.jobs)
        # as many as are wanted have begun
        assert next(workers.jobs, None) is None
        for job in (fourth, first, third):
            workers.finish(job)
        assert workers.coordinator.is_over
    beside = by_number(read_study(folder, sweep.name))
    assert [t.number for t in beside] == list(range(14))
    assert {t.state for t in beside} == {"complete"}
    if sampler == "random":
        assert beside == alone
    else:
        # what it has heard of is other, and what runs beside is no place to go
        assert beside[11].params != alone[11].params
        assert len({str(t.params) for t in beside}) == 14


def test_a_trial_that_never_ends_is_stopped_with_the_sweep(tmp_path: Path) -> None:
    sweep = toy_sweep(**ONE_EPOCH)

    def begin_two_and_fail() -> None:
        with running_study(tmp_path, sweep.name, objectives=1) as study:
            study.pin("sampler", None, pinned_sampler("tpe"))
            study.pin("pruner", None, pinned_pruner("none", 1))
            shown = ShownTrials(sweep, tmp_path / "trials", False, None)
            jobs = Coordinator(sweep, study, shown, trials=9, seed=0, device="cpu").jobs()
            next(jobs), next(jobs)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin_two_and_fail()
    assert read_study(tmp_path, sweep.name).states == {"stopped": 2}


def test_a_condition_decides_what_a_trial_is_asked(tmp_path: Path) -> None:
    search: dict[str, dict[str, Any]] = {
        "model.surrogate.kind": {"choices": ["superspike", "triangle"]},
        "model.surrogate.slope": {
            "low": 1.0,
            "high": 90.0,
            "log": True,
            "when": {"model.surrogate.kind": "superspike"},
        },
    }
    study: Study = run_sweep(
        toy_sweep(search, **ONE_EPOCH),
        TRAIN,
        VALID,
        folder=tmp_path,
        trials=14,
        device=torch.device("cpu"),
    )
    asked = {t.params["model.surrogate.kind"]: set(t.params) for t in study.trials}
    assert asked["triangle"] == {"model.surrogate.kind"}
    assert asked["superspike"] == set(search)
    assert study.states == {"complete": 14}
