"""Runs in a real MLflow server: what is there, and that its death costs nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from snnbench import tracking
from snnbench.bench import finished_record, read_history, run_seed
from snnbench.data_prep.store import SpikeDataset
from snnbench.record import RunRecord
from snnbench.spec import make_run_spec
from snnbench.tracking import SYSTEM_FILE, seed_tracker, shown_files
from snnbench.tracking_spool import SPOOL_FILE
from snnbench.tracking_store import RUN_ID, make_client
from snnbench.train import EpochReport
from tests.commands import snnbench, strict_json
from tests.mlflow_server import MlflowServer
from tests.tiny_data import write_dataset

EPOCHS = 3
OVERRIDES = {
    "model.hidden": [12],
    "model.input_gain": 12.0,
    "model.dropout": 0.0,
    "train.epochs": EPOCHS,
    "train.batch_size": 16,
    "train.lr": 0.01,
}
SETTINGS = [word for key, value in OVERRIDES.items() for word in ("--set", f"{key}={value}")]
CLOCK = {"events_per_s", "train_seconds", "seconds", "wall_s", "seconds_per_epoch"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One for the session: it takes ten seconds to start."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "hd.h5")


@pytest.fixture(scope="session")
def benched(server: MlflowServer, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs of a bench of two seeds that the server has seen."""
    runs = tmp_path_factory.mktemp("bench")
    done = snnbench(
        *("bench", "hd", "ff-lif", "--data", data, "--out", runs, "--seeds", 2, "--workers", 1),
        *("--tracking-uri", server.url, "--json", *SETTINGS),
    )
    assert done.code == 0, done.err
    assert "MLflow" not in done.err
    return runs


class View(NamedTuple):
    """What a store shows of one run."""

    status: str
    params: dict[str, str]
    tags: dict[str, str]
    figures: dict[str, dict[int, float]]
    """Of every metric, value by step."""
    files: dict[str, bytes]

    def without_clock(self) -> dict[str, dict[int, float]]:
        """Figures that do not depend on how fast the machine was."""
        return {k: v for k, v in self.figures.items() if k not in CLOCK and "system/" not in k}


def runs_of(client: Any, filter_string: str = "", experiment: str = "hd") -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], filter_string)) if found else []


def view_of(client: Any, run: Any, folder: Path) -> View:
    def paths(place: str | None = None) -> Iterator[str]:
        for file in client.list_artifacts(run.info.run_id, place):
            if file.is_dir:
                yield from paths(file.path)
            else:
                yield file.path

    folder.mkdir(parents=True)
    files = {
        path: Path(client.download_artifacts(run.info.run_id, path, str(folder))).read_bytes()
        for path in paths()
    }
    figures = {}
    for key in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, key)
        figures[key] = {m.step: m.value for m in history}
        assert len(figures[key]) == len(history), f"{key} has two values at a step"
    tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
    return View(run.info.status, dict(run.data.params), tags, figures, files)


def views_of_record(uri: str, folder: Path, tmp_path: Path) -> list[View]:
    """All that a store shows of the finished run in a folder."""
    client = make_client(uri)
    record = finished_record(folder)
    assert record is not None
    token = strict_json((folder / "mlflow.json").read_text())["token"]
    runs = [
        run
        for run in runs_of(client, f"tags.`{RUN_ID}` = '{record.run_id}'")
        if run.data.tags["snnbench.token"] == token
    ]
    return [view_of(client, run, tmp_path / f"files-{i}") for i, run in enumerate(runs)]


@pytest.fixture(scope="session")
def live(
    server: MlflowServer, benched: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Path, View]:
    """What the server shows of each run of the bench."""
    views = {}
    for folder in sorted(benched.iterdir()):
        place = tmp_path_factory.mktemp("live")
        [views[folder]] = views_of_record(server.url, folder, place)
    return views


def check_against_folder(view: View, folder: Path) -> None:
    """The view shows what is in the run folder: all of it, and nothing else."""
    record = finished_record(folder)
    assert record is not None
    assert record.test is not None
    assert view.status == "FINISHED"
    assert view.tags["status"] == "finished"
    assert view.params["train.lr"] == str(record.spec.train.lr)
    assert view.params["seed"] == str(record.spec.seed)
    assert view.figures["test_accuracy"] == {record.epochs_run: record.test.accuracy}
    for table in ("history.csv", SYSTEM_FILE):
        columns = read_history(folder / table)
        steps = [int(epoch) for epoch in columns.pop("epoch")]
        assert steps == list(range(1, record.epochs_run + 1))
        for key, values in columns.items():
            assert list(view.figures[key]) == steps
            assert list(view.figures[key].values()) == pytest.approx(values, rel=1e-5), key
    assert view.files == {name: (folder / name).read_bytes() for name in shown_files(folder)}
    assert {"record.json", "model.safetensors", "pictures/confusion.svg"} <= set(view.files)


def test_a_bench_is_there_with_parent_and_children(
    server: MlflowServer, live: dict[Path, View]
) -> None:
    client = make_client(server.url)
    assert len(live) == 2
    ids = []
    for folder, view in live.items():
        assert not (folder / SPOOL_FILE).exists()
        check_against_folder(view, folder)
        ids.append(strict_json((folder / "mlflow.json").read_text())["run_id"])
    children = [client.get_run(run_id) for run_id in ids]
    [parent_id] = {run.data.tags["mlflow.parentRunId"] for run in children}
    parent = client.get_run(parent_id)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "hd-ff-lif"
    assert "seed" not in parent.data.params
    assert parent.data.params.items() <= children[0].data.params.items()
    accuracies = [run.data.metrics["test_accuracy"] for run in children]
    assert parent.data.metrics["seeds"] == 2
    assert math.isclose(parent.data.metrics["test_accuracy_mean"], np.mean(accuracies))
    assert math.isclose(parent.data.metrics["test_accuracy_sd"], np.std(accuracies, ddof=1))


def test_nothing_that_is_shown_is_a_pickle(live: dict[Path, View], tmp_path: Path) -> None:
    for view in live.values():
        for name, content in view.files.items():
            kind = Path(name).suffix
            assert kind in {".json", ".csv", ".npz", ".safetensors", ".svg", ".png"}
            assert not content.startswith(b"\x80")  # how a pickle begins, from protocol 2 on
            assert b".pkl" not in content
        (tmp_path / "p.npz").write_bytes(view.files["predictions.npz"])
        with np.load(tmp_path / "p.npz", allow_pickle=False) as arrays:
            assert all(arrays[key].dtype != object for key in arrays)


def train(
    data: Path, runs: Path, uri: str, on_epoch: Callable[[EpochReport], None] | None = None
) -> tuple[RunRecord, Path]:
    """Seed 0 of the bench above, in another folder."""
    with SpikeDataset.open(data) as dataset:
        fingerprint = dataset.fingerprint
        spec = make_run_spec(
            "hd", "ff-lif", seed=0, data_fingerprint=fingerprint, overrides=OVERRIDES
        )
        folder = runs / spec.run_id
        with seed_tracker(spec, folder, uri) as tracker:
            record = run_seed(
                spec,
                dataset,
                folder=folder,
                device=torch.device("cpu"),
                tracker=tracker,
                on_epoch=on_epoch,
            )
    return record, folder


def test_the_servers_death_in_mid_run_costs_nothing(
    server: MlflowServer,
    data: Path,
    live: dict[Path, View],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, "SEND_EVERY_S", 0.0)
    died_at: list[float] = []
    ended_at: list[float] = []

    def on_epoch(report: EpochReport) -> None:
        if report.epoch == 1:
            server.kill()
            died_at.append(time.monotonic())
        elif report.epoch == EPOCHS:
            ended_at.append(time.monotonic())

    try:
        record, folder = train(data, tmp_path / "runs", server.url, on_epoch)
    finally:
        server.start()
    assert ended_at[0] - died_at[0] < 20  # mlflow alone would try for minutes
    [warning] = caplog.messages
    assert f"snnbench track sync {folder} sends it" in warning
    spool = (folder / SPOOL_FILE).read_bytes()
    assert spool.count(b"\n") > EPOCHS

    # the same run, undisturbed, beside it: the same result
    [other] = [path for path in live if path.name == record.run_id]
    expected = finished_record(other)
    assert expected is not None
    assert (record.test, record.checkpoint_sha256) == (expected.test, expected.checkpoint_sha256)

    client = make_client(server.url)
    n_runs = len(runs_of(client))  # the one with the missing end among them
    sent = snnbench("track", "sync", tmp_path / "runs", "--json")
    assert sent.code == 0, sent.err
    assert [s["state"] for s in strict_json(sent.out)] == ["sent"]
    [view] = views_of_record(server.url, folder, tmp_path / "view")
    check_against_folder(view, folder)
    undisturbed = live[other]
    assert view.params == undisturbed.params
    assert view.without_clock() == undisturbed.without_clock()
    assert view.figures.keys() == undisturbed.figures.keys()
    assert view.files.keys() == undisturbed.files.keys()

    again = snnbench("track", "sync", tmp_path / "runs", "--json")
    assert (again.code, strict_json(again.out)) == (0, [])
    # and where the end of the first one had not been noticed
    (folder / SPOOL_FILE).write_bytes(spool)
    assert snnbench("track", "sync", tmp_path / "runs").code == 0
    [same] = views_of_record(server.url, folder, tmp_path / "same")
    assert same == view
    assert len(runs_of(client)) == n_runs


@pytest.mark.slow
def test_a_server_that_says_nothing_holds_training_up_once(
    server: MlflowServer, data: Path, tmp_path: Path
) -> None:
    def on_epoch(report: EpochReport) -> None:
        if report.epoch == 1:
            server.freeze()

    started = time.monotonic()
    try:
        _, folder = train(data, tmp_path, server.url, on_epoch)
        took_s = time.monotonic() - started
    finally:
        server.thaw()
    assert took_s < 60
    assert snnbench("track", "sync", tmp_path).code == 0
    [view] = views_of_record(server.url, folder, tmp_path / "view")
    check_against_folder(view, folder)


def test_runs_are_imported_into_an_empty_store_and_once(
    server: MlflowServer, live: dict[Path, View], tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/view.db"
    folders = sorted(live)
    done = snnbench("track", "import", *folders, "--tracking-uri", uri, "--json")
    assert done.code == 0, done.err
    assert [s["state"] for s in strict_json(done.out)] == ["sent", "sent"]
    client = make_client(uri)
    for i, folder in enumerate(folders):
        [run] = runs_of(client, f"tags.`{RUN_ID}` = '{folder.name}'")
        view = view_of(client, run, tmp_path / f"files-{i}")
        check_against_folder(view, folder)
        seen = live[folder]
        assert (view.status, view.params, view.files) == (seen.status, seen.params, seen.files)
        assert view.figures.keys() == seen.figures.keys()
        for key, values in view.figures.items():
            assert values == pytest.approx(seen.figures[key], rel=1e-5), key
        assert view.tags.keys() == seen.tags.keys()
        [parent] = runs_of(client, "tags.kind = 'bench'")
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert parent.data.metrics["seeds"] == 2
    again = snnbench("track", "import", *folders, "--tracking-uri", uri)
    assert again.out.count("there already") == 2
    assert len(runs_of(client)) == 3
    # the server has seen them live
    live_again = snnbench("track", "import", *folders, "--tracking-uri", server.url)
    assert live_again.out.count("there already") == 2
