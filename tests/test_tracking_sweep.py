"""Trials of a sweep in MLflow: a parent per study, a child per trial, and no folder for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from snnbench.study_store import Study, running_study
from snnbench.sweep import Coordinator, Sweep, run_sweep
from snnbench.sweep_samplers import pinned_pruner, pinned_sampler
from snnbench.sweep_tracking import ShownTrials
from snnbench.tracking_spool import SPOOL_FILE
from snnbench.tracking_store import make_client
from snnbench.tracking_view import sync_folder
from snnbench.trial import TrialEpoch, TrialOutcome, run_trial
from tests.test_sweep import TRAIN, VALID, by_number, toy_sweep
from tests.test_tracking import _closed_port

KEY = "train.activity.upper_strength"
SEARCH: dict[str, dict[str, Any]] = {KEY: {"choices": [0.0, 3e38]}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def sweep_of(search: dict[str, dict[str, Any]]) -> Sweep:
    # an activity bound that may be so strong that its loss leaves the range of float32
    return toy_sweep(search, train__activity__upper=0.0)


def run(folder: Path, trials: int, search: Any = SEARCH, **options: Any) -> Study:
    return run_sweep(
        sweep_of(search),
        TRAIN,
        VALID,
        folder=folder,
        trials=trials,
        device=torch.device("cpu"),
        **options,
    )


def children_of(store: str, study: Study) -> tuple[Any, list[Any]]:
    client = make_client(store)
    experiment = client.get_experiment_by_name("digits-synthetic").experiment_id
    [parent] = client.search_runs([experiment], f"tags.`snnbench.parent` = '{study.name}'")
    children = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    return parent, sorted(children, key=lambda child: int(child.data.tags["trial"]))


def check(store: str, study: Study) -> None:
    """Every trial is shown as the study has it."""
    parent, children = children_of(store, study)
    client = make_client(store)
    assert parent.info.status == "FINISHED"
    for trial, child in zip(by_number(study), children, strict=True):
        history = client.get_metric_history(child.info.run_id, "valid_accuracy")
        assert [m.step for m in history] == list(range(1, trial.epochs + 1))
        assert child.data.tags["status"] == trial.state
        assert child.data.params[KEY] == str(trial.params[KEY])
        assert child.data.metrics.get("chosen_valid_accuracy") == trial.accuracy
        files = [f.path for f in client.list_artifacts(child.info.run_id)]
        assert ("model.safetensors" in files) == (trial.epochs > 0)
        assert child.info.status == ("FAILED" if trial.state == "diverged" else "FINISHED")
    assert parent.data.metrics["trials"] == study.finished
    assert study.best is not None
    assert parent.data.metrics["best_valid_accuracy"] == study.best.accuracy


def test_trials_are_children_of_their_study(store: str, tmp_path: Path) -> None:
    tracked = run(tmp_path / "a", 4, track=True, tracking_uri=store)
    assert {"complete", "diverged"} == set(tracked.states)
    check(store, tracked)
    assert not (tmp_path / "a" / f"{tracked.name}-trials").exists()
    assert by_number(run(tmp_path / "b", 4)) == by_number(tracked)


def test_trials_wait_beside_their_study_until_they_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    study = run(tmp_path, 3, track=True, tracking_uri=f"http://127.0.0.1:{_closed_port()}")
    assert len(caplog.messages) == 3
    waiting = sorted((tmp_path / f"{study.name}-trials").iterdir())
    assert [folder.name for folder in waiting] == [f"trial-{n}" for n in range(3)]
    for folder in waiting:
        assert sync_folder(folder, store).state == "sent"
        assert not folder.exists()
    check(store, study)
    assert not (tmp_path / f"{study.name}-trials").exists()


def test_what_a_killed_trial_left_goes_and_what_waits_stays(tmp_path: Path, store: str) -> None:
    name = sweep_of(SEARCH).name
    killed, waiting = (tmp_path / f"{name}-trials" / f"trial-{n}" for n in (97, 98))
    for folder in (killed, waiting):
        folder.mkdir(parents=True)
        (folder / "resume.safetensors").touch()
    (waiting / SPOOL_FILE).touch()
    run(tmp_path, 1, track=True, tracking_uri=store)
    assert not killed.exists()
    assert waiting.exists()


def test_a_stopped_trial_is_killed_in_mlflow(store: str, tmp_path: Path) -> None:
    rates = {"train.lr": {"choices": [0.01, 0.02]}}

    def stop(progress: Any) -> None:
        if progress.epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 1, rates, track=True, tracking_uri=store, on_progress=stop)
    name = sweep_of(rates).name
    client = make_client(store)
    experiment = client.get_experiment_by_name("digits-synthetic").experiment_id
    killed = client.search_runs([experiment], "attributes.status = 'KILLED'")
    assert [child.info.run_name.startswith(name) for child in killed] == [True]
    assert not list(tmp_path.glob("*-trials"))


def test_trials_side_by_side_do_not_mix(store: str, tmp_path: Path) -> None:
    """Two at a time, and one that fails: each figure is in its own run, the parent in none of them."""
    sweep = toy_sweep({"train.lr": {"choices": [0.011, 0.021, 0.031]}})
    with running_study(tmp_path, sweep.name, objectives=1) as study:
        study.pin("sampler", None, pinned_sampler("grid"))
        study.pin("pruner", None, pinned_pruner("none", 2))
        with ShownTrials(sweep, tmp_path / "trials", True, store) as shown:
            coordinator = Coordinator(sweep, study, shown, trials=3, seed=0, device="cpu")
            jobs = coordinator.jobs()
            first, second = next(jobs), next(jobs)
            outcomes = {}
            told: dict[int, list[TrialEpoch]] = {}
            for job in (second, first):
                told[job.number] = []
                outcomes[job.number] = run_trial(
                    job, TRAIN, VALID, told[job.number].append, lambda: False
                )
            # epochs in turn, as two processes tell them
            for a, b in zip(told[0], told[1], strict=True):
                coordinator.heard(first, a)
                coordinator.heard(second, b)
            coordinator.done(first, outcomes[0])
            assert children_of(store, study.read())[0].info.status == "RUNNING"
            third = next(jobs)
            coordinator.done(third, TrialOutcome("error", message="does not fit"))
            coordinator.done(second, outcomes[1])
        done = study.read()
    parent, children = children_of(store, done)
    client = make_client(store)
    assert [c.data.tags["status"] for c in children] == ["complete", "complete", "error"]
    assert [c.info.status for c in children] == ["FINISHED", "FINISHED", "FAILED"]
    assert children[2].data.tags["message"] == "does not fit"
    for number, child in enumerate(children[:2]):
        history = client.get_metric_history(child.info.run_id, "valid_accuracy")
        assert [m.value for m in history] == [r.accuracy for r in told[number]]
        memory = client.get_metric_history(child.info.run_id, "system/peak_rss_mib")
        assert [m.value for m in memory] == [r.metrics["system/peak_rss_mib"] for r in told[number]]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials"] == 3
    assert done.best is not None
    assert parent.data.metrics["best_valid_accuracy"] == done.best.accuracy
    assert not (tmp_path / "trials").exists()
