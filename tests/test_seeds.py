"""Seeds side by side: the same records as one after the other, stopped and killed without loss."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.record import RunRecord
from snnbench.seeds import Job, run_jobs
from snnbench.spec import RunSpec
from snnbench.train import BatchReport, EpochReport
from tests.test_bench import spec_for
from tests.tiny_data import write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "hd.h5")


def jobs_in(runs: Path, data: Path, seeds: int = 3) -> list[Job]:
    with SpikeDataset.open(data) as dataset:
        specs = [spec_for(dataset, seed) for seed in range(seeds)]
    return [Job(spec, runs / spec.run_id, data, "cpu", False, 0) for spec in specs]


def ignore(*_: object) -> None:
    """Progress that nobody watches."""


def results(records: list[RunRecord]) -> list[tuple[object, ...]]:
    """What must not depend on how the seeds were run."""
    return [(r.run_id, r.test, r.predictions_sha256, r.checkpoint_sha256) for r in records]


def test_side_by_side_gives_the_records_of_one_after_the_other(data: Path, tmp_path: Path):
    epochs: list[tuple[int, int]] = []

    def on_epoch(spec: RunSpec, report: EpochReport) -> None:
        epochs.append((spec.seed, report.epoch))

    begun: set[tuple[int, int]] = set()

    def on_batch(spec: RunSpec, report: BatchReport) -> None:
        begun.add((spec.seed, report.samples))

    alone = run_jobs(jobs_in(tmp_path / "a", data), workers=1, on_epoch=ignore, on_batch=ignore)
    beside = run_jobs(
        jobs_in(tmp_path / "b", data), workers=2, on_epoch=on_epoch, on_batch=on_batch
    )
    assert [r.spec.seed for r in beside] == [0, 1, 2]
    assert results(beside) == results(alone)
    assert len({r.checkpoint_sha256 for r in beside}) == 3
    assert sorted(epochs) == [(seed, epoch) for seed in range(3) for epoch in (1, 2)]
    # how far a seed is within an epoch is told from its process, too
    assert begun == {(seed, 40) for seed in range(3)}


def test_finished_seeds_are_not_run_again(data: Path, tmp_path: Path):
    first = run_jobs(jobs_in(tmp_path, data, 2), workers=1, on_epoch=ignore, on_batch=ignore)
    seeds: list[int] = []

    def on_epoch(spec: RunSpec, report: EpochReport) -> None:
        seeds.append(spec.seed)

    more = run_jobs(jobs_in(tmp_path, data, 3), workers=2, on_epoch=on_epoch, on_batch=ignore)
    assert more[:2] == first
    assert set(seeds) == {2}


def test_a_stopped_bench_goes_on_to_the_same_end(data: Path, tmp_path: Path):
    expected = run_jobs(jobs_in(tmp_path / "a", data), workers=1, on_epoch=ignore, on_batch=ignore)

    def on_epoch(spec: RunSpec, report: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs_in(tmp_path / "b", data), workers=2, on_epoch=on_epoch, on_batch=ignore)
    assert not multiprocessing.active_children()
    again = run_jobs(jobs_in(tmp_path / "b", data), workers=2, on_epoch=ignore, on_batch=ignore)
    assert results(again) == results(expected)


@pytest.mark.slow  # the quick suite kills workers of the command, tests/faults/test_killed_processes.py
def test_a_killed_process_changes_nothing(data: Path, tmp_path: Path):
    expected = run_jobs(jobs_in(tmp_path / "a", data), workers=1, on_epoch=ignore, on_batch=ignore)
    killed: list[int] = []

    def on_epoch(spec: RunSpec, report: EpochReport) -> None:
        if not killed:
            killed.append(multiprocessing.active_children()[0].pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    beside = run_jobs(jobs_in(tmp_path / "b", data), workers=2, on_epoch=on_epoch, on_batch=ignore)
    assert killed
    assert results(beside) == results(expected)


def test_an_error_in_a_worker_reaches_the_caller(data: Path, tmp_path: Path):
    jobs = jobs_in(tmp_path, data, 2)
    jobs[1].folder.mkdir(parents=True)
    (jobs[1].folder / "resume.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(SnnbenchError, match=r"resume\.safetensors"):
        run_jobs(jobs, workers=2, on_epoch=ignore, on_batch=ignore)
