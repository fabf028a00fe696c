"""Jobs in other processes: told, tried again, stopped, refused; here and on a real Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import Client

from snnbench import cluster_dask, paths
from snnbench.cluster import Cluster, Failure, _LocalCluster, _one_gpu, open_cluster
from snnbench.data_prep.locate import locate_data
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.paths import read_folder, write_bytes, write_folder
from snnbench.protocol import fold_file
from snnbench.seeds import Job, run_jobs
from snnbench.spec import RunSpec
from snnbench.study_store import Study, read_study
from snnbench.sweep import Progress, Sweep, make_sweep, run_sweep
from snnbench.sweep_cluster import run_trials
from snnbench.train import BatchReport
from tests import cluster_jobs
from tests.cluster_jobs import Marked
from tests.commands import ROOT, snnbench, strict_json
from tests.dask_cluster import DaskProcesses
from tests.test_seeds import ignore, jobs_in, results
from tests.tiny_data import make_samples, write_dataset

QUICK_WORDS = {"model.hidden": [12], "train.epochs": 1, "train.dt_s": 0.01}


@pytest.fixture(params=["local", "dask"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster[Any]]:
    """Two slots, here and there."""
    if request.param == "local":
        with open_cluster("local", 2) as opened:
            yield opened
    else:
        processes: DaskProcesses = request.getfixturevalue("dask")
        processes.wait_for_workers(2)
        with open_cluster(processes.address) as opened:
            yield opened


def outcomes_of(cluster: Cluster[Any], work: Any, jobs: list[Any]) -> dict[Any, Any]:
    outcomes: dict[Any, Any] = {}

    def done(job: Any, outcome: Any) -> None:
        assert job not in outcomes
        outcomes[job] = outcome

    cluster.run(work, jobs, done=done)
    return outcomes


def test_every_job_is_done_once_and_heard_before(cluster: Cluster[Any]):
    heard: list[tuple[int, int]] = []
    order: list[tuple[str, int]] = []

    def on_report(job: int, report: int) -> None:
        heard.append((job, report))
        order.append(("heard", job))

    def done(job: int, outcome: int) -> None:
        assert outcome == job * job
        order.append(("done", job))

    cluster.run(cluster_jobs.square, range(7), heard=on_report, done=done)
    assert sorted(heard) == [(k, k) for k in range(7)]
    assert sorted(job for what, job in order if what == "done") == list(range(7))
    assert all(order.index(("heard", k)) < order.index(("done", k)) for k in range(7))


def test_the_next_job_is_asked_for_when_a_slot_is_free(cluster: Cluster[Any]):
    finished: list[int] = []
    ahead: list[int] = []

    def jobs() -> Iterator[int]:
        for k in range(6):
            ahead.append(k - len(finished))
            yield k

    cluster.run(cluster_jobs.square, jobs(), done=lambda job, outcome: finished.append(job))
    assert cluster.slots == 2
    assert max(ahead) == 1  # the other slot's job, and no more


def test_an_error_is_told_and_the_others_go_on(cluster: Cluster[Any]):
    outcomes = outcomes_of(cluster, cluster_jobs.fails_at_two, [0, 1, 2, 3, 4])
    two, three = outcomes.pop(2), outcomes.pop(3)
    assert outcomes == {0: 0, 1: 1, 4: 4}
    assert two == Failure("error", "two is too many")
    assert isinstance(two.error, SnnbenchError)
    assert three == Failure("error", "ZeroDivisionError: three")
    assert "fails_at_two" in three.error.__notes__[0]


def test_a_killed_worker_loses_nothing(cluster: Cluster[Any], tmp_path: Path):
    jobs = [Marked(k, tmp_path) for k in range(4)]
    assert outcomes_of(cluster, cluster_jobs.dies_once, jobs) == {job: job.number for job in jobs}
    assert [job.attempts() for job in jobs] == [1, 2, 1, 1]


def test_a_job_that_kills_its_worker_every_time_fails(tmp_path: Path):
    jobs = [Marked(k, tmp_path) for k in range(3)]
    with open_cluster("local", 2) as cluster:
        outcomes = outcomes_of(cluster, cluster_jobs.always_dies, jobs)
    failure = outcomes.pop(jobs[1])
    assert failure == Failure("killed", "its process died 3 times, at last of signal 9")
    assert outcomes == {jobs[0]: 0, jobs[2]: 2}
    assert jobs[1].attempts() == 3


def test_a_job_is_asked_to_stop(cluster: Cluster[Any]):
    told: dict[int, int] = {}

    def heard(job: int, report: int) -> bool:
        told[job] = report
        return report >= 3

    outcomes: dict[int, int] = {}
    cluster.run(cluster_jobs.until_stopped, [1, 2, 0, 0], heard=heard, done=outcomes.__setitem__)
    assert outcomes[0] == 1  # was never stopped, though the worker's last job was
    assert outcomes[1] >= 4
    assert outcomes[2] >= 4


def test_a_request_to_stop_may_come_late(cluster: Cluster[Any]):
    """The job is done by then; the next one in the process is not concerned."""
    heard: list[int] = []

    def on_report(job: int, report: int) -> bool:
        heard.append(job)
        return True

    outcomes: dict[int, int] = {}
    cluster.run(cluster_jobs.own_pid, range(6), heard=on_report, done=outcomes.__setitem__)
    assert sorted(heard) == sorted(outcomes) == list(range(6))
    assert len(set(outcomes.values())) <= 2  # no process had to be replaced


def test_what_the_coordinator_raises_stops_all(cluster: Cluster[Any], tmp_path: Path):
    def heard(job: Path, report: int) -> None:
        raise KeyboardInterrupt

    begun = time.monotonic()
    jobs = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(cluster_jobs.ticks, jobs, heard=heard, done=ignore)
    assert not multiprocessing.active_children()
    assert time.monotonic() - begun < 20  # long before it is killed for its silence

    def still() -> bool:
        before = [path.stat().st_size for path in tmp_path.iterdir()]
        time.sleep(0.5)
        return before == [path.stat().st_size for path in tmp_path.iterdir()]

    wait_until(still)
    assert outcomes_of(cluster, cluster_jobs.square, [5, 6]) == {5: 25, 6: 36}


def test_a_gpu_for_every_process():
    cluster = _LocalCluster([_one_gpu(["3", "5"], k) for k in range(3)])
    try:
        seen = [*outcomes_of(cluster, cluster_jobs.gpu_seen, [0, 1, 2]).values()]
    finally:
        cluster.close()
    assert set(seen) <= {"3", "5"}
    assert [_one_gpu(["3", "5"], k)["CUDA_VISIBLE_DEVICES"] for k in range(3)] == ["3", "5", "3"]
    assert _one_gpu([], 0) == {}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left(how: signal.Signals, tmp_path: Path):
    """Ctrl-C reaches the whole process group; kill -9 only the coordinator."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster_jobs", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
    pids = [int(path.name.partition("-")[2]) for path in tmp_path.glob("pid-*")]
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.kill()
    _, told = process.communicate(timeout=30)
    assert told == b""
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def wait_until(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- what a scheduler may be


@pytest.mark.parametrize("scheduler", ["slurm", "http://a:1", "tcp://a", "tcp://:1", "tcp://a:b"])
def test_another_scheduler_is_refused(scheduler: str):
    answer = snnbench("bench", "hd", "ff-lif", "--scheduler", scheduler)
    assert answer.code == 2
    assert f"'{scheduler}'" in answer.err
    assert "tcp://HOST:PORT" in answer.err


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster_dask, "CONNECT_S", 0.5)
    with (
        pytest.raises(SnnbenchError, match=r"tcp://127\.0\.0\.1:9: no Dask scheduler answers"),
        open_cluster("tcp://127.0.0.1:9"),
    ):
        pass


def test_a_gpu_job_wants_workers_with_a_gpu(dask: DaskProcesses, monkeypatch: pytest.MonkeyPatch):
    dask.wait_for_workers(2)
    monkeypatch.setattr(cluster_dask, "WAIT_FOR_WORKERS_S", 0.5)
    with (
        pytest.raises(SnnbenchError, match=r"without a worker with a GPU.*--resources GPU=1"),
        open_cluster(dask.address, device="cuda"),
    ):
        pass


def test_a_worker_of_another_version_is_refused(tmp_path: Path):
    preload = tmp_path / "older.py"
    preload.write_text("import snnbench\nsnnbench.__version__ = '0.0.1'\n")
    with DaskProcesses(tmp_path / "cluster") as dask:
        dask.start_worker("--preload", str(preload))
        dask.wait_for_workers(1)
        with (
            pytest.raises(SnnbenchError, match=r"on host .*snnbench 0\.0\.1 \(wanted "),
            open_cluster(dask.address),
        ):
            pass


def test_a_worker_that_leaves_ends_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As one does at the end of its lifetime: it does not compute on for nobody until it is killed."""
    monkeypatch.setattr(cluster_dask, "WAIT_FOR_WORKERS_S", 1.0)
    told: list[Path] = []

    def heard(job: Path, report: int) -> None:
        if not told:
            with Client(processes.address, set_as_default=False) as client:
                client.run(cluster_jobs.leave)
        told.append(job)

    with DaskProcesses(tmp_path / "cluster") as processes:
        processes.start_worker()
        processes.wait_for_workers(1)
        with open_cluster(processes.address) as cluster:
            with pytest.raises(SnnbenchError, match="without a worker"):
                cluster.run(cluster_jobs.until_ended, [tmp_path / "end"], heard=heard, done=ignore)
            wait_until((tmp_path / "end").exists)


# --- seeds of a bench


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "hd.h5")


def test_a_bench_on_dask_is_the_bench_here(data: Path, dask: DaskProcesses, tmp_path: Path):
    """The same results; the workers find the data by its fingerprint, in their own folder."""
    here = jobs_in(tmp_path / "a", data, 2)
    expected = run_jobs(here, workers=1, on_epoch=ignore, on_batch=ignore)
    shutil.copy(data, dask.data / "renamed.h5")
    there = [replace(job, data=tmp_path / "nowhere.h5") for job in jobs_in(tmp_path / "b", data, 2)]
    epochs: list[tuple[int, int]] = []
    fetched: list[Path] = []
    dask.wait_for_workers(2)
    records = run_jobs(
        there,
        workers=None,
        scheduler=dask.address,
        on_epoch=lambda spec, report: epochs.append((spec.seed, report.epoch)),
        on_batch=ignore,
        on_fetched=lambda job: fetched.append(job.folder),
    )
    assert results(records) == results(expected)
    assert sorted(epochs) == [(seed, epoch) for seed in range(2) for epoch in (1, 2)]
    assert sorted(fetched) == sorted(job.folder for job in there)
    assert [names(job.folder) for job in there] == [names(job.folder) for job in here]

    (dask.data / "renamed.h5").unlink()
    again = [replace(job, folder=tmp_path / "c" / job.spec.run_id) for job in there]
    with pytest.raises(SnnbenchError) as caught:
        run_jobs(again, workers=None, scheduler=dask.address, on_epoch=ignore, on_batch=ignore)
    assert f"host {platform.node()}: no data file with fingerprint" in str(caught.value)
    assert str(tmp_path / "nowhere.h5") in str(caught.value)
    assert str(dask.data) in str(caught.value)


def of_class_b(jobs: list[Job]) -> list[Job]:
    """The same with every speaker left out in turn, which are folds of two epochs each."""
    found = []
    for job in jobs:
        task = job.spec.task.model_copy(update={"protocol": "B"})
        spec = job.spec.model_copy(update={"task": task})
        found.append(replace(job, spec=spec, folder=job.folder.with_name(spec.run_id)))
    return found


@pytest.mark.parametrize("where", ["local", "dask"])
def test_folds_of_one_seed_are_done_side_by_side(
    where: str, data: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    [alone] = of_class_b(jobs_in(tmp_path / "a", data, 1))
    expected = run_jobs([alone], workers=1, on_epoch=ignore, on_batch=ignore)
    [job] = of_class_b(jobs_in(tmp_path / "b", data, 1))
    heard: list[tuple[str, int]] = []

    def on_batch(spec: RunSpec, report: BatchReport) -> None:
        if report.left_out:
            heard.append((report.left_out.speaker, report.epoch))

    options: dict[str, Any] = {"workers": 2}
    if where == "dask":
        processes: DaskProcesses = request.getfixturevalue("dask")
        processes.wait_for_workers(2)
        options = {"workers": None, "scheduler": processes.address}
    beside = run_jobs([job], on_epoch=ignore, on_batch=on_batch, **options)
    assert results(beside) == results(expected)
    assert beside[0].folds == expected[0].folds
    assert len(beside[0].folds) == 3
    # every fold was heard of
    assert {speaker for speaker, _ in heard} == set(beside[0].folds)
    finished = sorted(path.relative_to(alone.folder) for path in alone.folder.glob("folds/*/v*"))
    assert finished == sorted(p.relative_to(job.folder) for p in job.folder.glob("folds/*/v*"))
    # a fold that was lost is done again, and the seed goes on from the others
    fold = next(iter(beside[0].folds))
    fold_file(job.folder, fold).unlink()
    (job.folder / "record.json").unlink()
    heard.clear()
    again = run_jobs([job], on_epoch=ignore, on_batch=on_batch, **options)
    assert results(again) == results(expected)
    assert {speaker for speaker, _ in heard} <= {fold}


def test_the_command_trains_on_dask_and_shows_it_in_mlflow(
    data: Path, dask: DaskProcesses, tmp_path: Path
):
    settings = [word for key, value in QUICK_WORDS.items() for word in ("--set", f"{key}={value}")]
    command = ["bench", "hd", "ff-lif", "--data", data, "--seeds", 1, "--out", tmp_path, *settings]
    dask.wait_for_workers(2)
    done = snnbench(*command, "--scheduler", dask.address, "--json")
    assert done.code == 0, done.err
    [run] = strict_json(done.out)["runs"]
    imported = snnbench("track", "import", run["folder"], "--json")
    assert [sent["state"] for sent in strict_json(imported.out)] == ["there"], done.err
    refused = snnbench(*command, "--scheduler", dask.address, "--workers", 2)
    assert refused.code == 2
    assert "--workers" in refused.err


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- trials of a sweep


def sweep_on(data: Path) -> Sweep:
    with SpikeDataset.open(data) as dataset:
        return make_sweep(
            "hd",
            "ff-lif",
            {"train.lr": {"low": 1e-4, "high": 1e-1, "log": True}},
            data_fingerprint=dataset.fingerprint,
            overrides={
                "model.hidden": [8],
                "train.units_per_channel": 35,
                "train.batch_size": 16,
                "train.epochs": 2,
            },
        )


def run_trials_of(
    sweep: Sweep, data: Path, folder: Path, n: int, cluster: Cluster[Any] | None, **options: Any
) -> Study:
    with SpikeDataset.open(data) as dataset:
        elsewhere = (
            None
            if cluster is None
            else partial(
                run_trials, cluster=cluster, data=data, fingerprint=dataset.fingerprint, prove=True
            )
        )
        return run_sweep(
            sweep,
            dataset.split("train"),
            dataset.split("valid"),
            folder=folder,
            trials=n,
            device=torch.device("cpu"),
            sampler="random",
            pruner="none",
            elsewhere=elsewhere,
            **options,
        )


def scored(study: Study) -> dict[int, tuple[str, Any, Any]]:
    return {t.number: (t.state, t.accuracy, t.params) for t in study.trials}


def test_a_sweep_in_other_processes_is_the_sweep_in_this_one(
    cluster: Cluster[Any], data: Path, tmp_path: Path
):
    sweep = sweep_on(data)
    here = run_trials_of(sweep, data, tmp_path / "here", 4, None)
    there = run_trials_of(sweep, data, tmp_path / "there", 4, cluster)
    assert here.states == there.states == {"complete": 4}
    assert scored(here) == scored(there)
    assert sorted(there.trials)[0].epochs == 2


@pytest.mark.slow  # the quick suite kills workers of the command, tests/faults/test_killed_processes.py
def test_a_killed_worker_costs_a_sweep_nothing(data: Path, tmp_path: Path):
    sweep = sweep_on(data)
    here = run_trials_of(sweep, data, tmp_path / "here", 3, None)
    killed: list[int | None] = []

    def kill_one(progress: Progress) -> None:
        if progress.epoch and not killed:
            [victim, *_] = multiprocessing.active_children()
            killed.append(victim.pid)
            victim.kill()

    with open_cluster("local", 2) as cluster:
        there = run_trials_of(sweep, data, tmp_path / "there", 3, cluster, on_progress=kill_one)
    assert killed
    assert scored(there) == scored(here)


def test_a_sweep_whose_workers_lack_the_data_ends_with_their_word(data: Path, tmp_path: Path):
    sweep = sweep_on(data)
    elsewhere = tmp_path / "nowhere.h5"
    with (
        open_cluster("local", 2) as cluster,
        pytest.raises(
            SnnbenchError, match=f"host {platform.node()}: no data file with fingerprint"
        ),
        SpikeDataset.open(data) as dataset,
    ):
        run_sweep(
            sweep,
            dataset.split("train"),
            dataset.split("valid"),
            folder=tmp_path,
            trials=2,
            device=torch.device("cpu"),
            elsewhere=partial(
                run_trials,
                cluster=cluster,
                data=elsewhere,
                fingerprint=dataset.fingerprint,
                prove=False,
            ),
        )
    assert "running" not in read_study(tmp_path, sweep.name).states


def test_the_command_runs_trials_side_by_side(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SNNBENCH_HOME", str(tmp_path))
    settings = ("model.hidden=[8]", "train.units_per_channel=35", "train.epochs=1")
    sets = [word for text in settings for word in ("--set", text)]
    done = snnbench(
        *("sweep", "run", "hd", "ff-lif", "--data", data, "--trials", 3, "--workers", 2),
        *(*sets, "--no-track", "--json"),
    )
    assert done.code == 0, done.err
    assert strict_json(done.out)["finished"] == 3
    refused = snnbench(
        *("sweep", "run", "hd", "ff-lif", "--data", data, "--trials", 3, "--workers", 2),
        *("--scheduler", "tcp://127.0.0.1:1"),
    )
    assert refused.code == 2
    assert "a Dask cluster has the workers it has" in refused.err


def test_data_is_found_by_fingerprint_only(data: Path, tmp_path: Path):
    with SpikeDataset.open(data) as dataset:
        fingerprint = dataset.fingerprint
    own = tmp_path / "data"  # this test's data folder
    other = write_dataset(own / "hd.h5", {"train": make_samples("x", 2, 0)})
    with pytest.raises(SnnbenchError, match=platform.node()) as caught:
        locate_data(tmp_path / "hd.h5", fingerprint)
    assert str(other) in str(caught.value)
    shutil.copy(data, own / "else.h5")
    assert locate_data(tmp_path / "hd.h5", fingerprint) == own / "else.h5"
    assert locate_data(data, fingerprint) == data


def test_a_folder_is_finished_when_all_of_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files = {"record.json": b"{}", "a": b"1", "pictures/z.png": b"2"}
    order: list[Path] = []

    def written(path: Path, content: bytes) -> None:
        order.append(path)
        write_bytes(path, content)

    monkeypatch.setattr(paths, "write_bytes", written)
    write_folder(tmp_path / "run", files, last="record.json")
    assert order[-1] == tmp_path / "run" / "record.json"
    assert read_folder(tmp_path / "run") == files
    with pytest.raises(SnnbenchError, match="lies outside"):
        write_folder(tmp_path / "run", {"../b": b""}, last="record.json")
    assert not (tmp_path / "b").exists()
