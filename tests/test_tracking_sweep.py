"""Trials of a sweep in MLflow: a parent per study, a child per trial, and no folder for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from snnbench.study_store import Study
from snnbench.sweep import Sweep, run_sweep
from snnbench.tracking_spool import SPOOL_FILE
from snnbench.tracking_store import make_client
from snnbench.tracking_view import sync_folder
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
