"""Which seeds a process trains at once, and a bench in stacks: the same records, told as what they are."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnbench.bench import Seed, run_stack
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError, UsageError
from snnbench.leaderboards.check_record import check_record
from snnbench.memory import estimate_training, require_memory
from snnbench.record import RunRecord, Stack, read_record
from snnbench.seeds import Job, run_jobs, stacks_of
from snnbench.spec import RunSpec
from snnbench.stacks import how_many_fit, seeds_in_a_process, split_evenly
from snnbench.tracking import NullTracker
from snnbench.train import EpochReport
from tests.commands import snnbench as command
from tests.test_bench import QUICK, spec_for
from tests.tiny_data import write_dataset
from tests.toy_spikes import toy_spec, toy_split

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "hd.h5")


def jobs_in(
    runs: Path, data: Path, seeds: int = 2, changes: Mapping[str, Any] | None = None
) -> list[Job]:
    with SpikeDataset.open(data) as dataset:
        specs = [spec_for(dataset, seed, **(changes or {})) for seed in range(seeds)]
    return [Job(s, runs / s.run_id, data, "cpu", False, 0, engine="reference") for s in specs]


def ignore(*_: object) -> None:
    """Progress that nobody watches."""


def run(jobs: list[Job], **options: Any) -> list[RunRecord]:
    given: dict[str, Any] = {"workers": 1, "on_epoch": ignore, "on_batch": ignore, **options}
    return run_jobs(jobs, **given)


def results(records: list[RunRecord]) -> list[tuple[object, ...]]:
    """What must not depend on how the seeds were run."""
    return [
        (
            *(r.run_id, r.status, r.chosen_epoch, r.validation, r.test, r.operations),
            *(r.predictions_sha256, r.checkpoint_sha256, [epoch.loss for epoch in r.history]),
        )
        for r in records
    ]


def problems(record: RunRecord) -> list[str]:
    return [str(problem) for problem in check_record("record.json", record)]


@pytest.fixture(scope="module")
def single(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    """Records of seeds that were trained one by one."""
    return run(jobs_in(tmp_path_factory.mktemp("single"), data))


# ---------------------------------------------------------------- who is with whom


@given(n=st.integers(0, 40), most=st.integers(1, 12), processes=st.integers(1, 9))
def test_stacks_are_even_and_none_is_too_large(n: int, most: int, processes: int):
    stacks = split_evenly(range(n), most=most, processes=processes)
    assert [item for stack in stacks for item in stack] == list(range(n))
    sizes = [len(stack) for stack in stacks]
    if n:
        assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1
        assert max(sizes) <= most
        # no more rounds than need be, and in each all processes are at work
        assert -(-len(stacks) // processes) == -(-n // (most * processes))
        assert len(stacks) == n or len(stacks) % processes == 0


def test_ten_seeds_over_gpus():
    assert [len(s) for s in split_evenly(range(10), most=99, processes=4)] == [3, 3, 2, 2]
    assert [len(s) for s in split_evenly(range(10), most=4, processes=2)] == [3, 3, 2, 2]
    assert [len(s) for s in split_evenly(range(10), most=99, processes=1)] == [10]
    assert [len(s) for s in split_evenly(range(3), most=1, processes=2)] == [1, 1, 1]


def test_seeds_of_several_engines_stay_apart(data: Path, tmp_path: Path):
    a, b, c = jobs_in(tmp_path, data, 3)
    stacks = stacks_of([a, replace(b, engine="numba"), c], most=3, processes=1)
    assert [[job.spec.seed for job in stack] for stack in stacks] == [[0, 2], [1]]


def spec_of_class_b() -> RunSpec:
    spec = toy_spec("rec-lif")
    return spec.model_copy(update={"task": spec.task.model_copy(update={"protocol": "B"})})


def in_a_process(asked: int | None, spec: RunSpec, device: str, engine: Any) -> int:
    estimate = estimate_training(spec, toy_split(9, 1), toy_split(9, 2), device, engine)
    return seeds_in_a_process(asked, spec, estimate, torch.device(device), engine, processes=2)


def test_as_many_as_fit_with_some_room_to_spare():
    assert how_many_fit(100, 1000) == 7
    assert how_many_fit(100, 50) == 1
    assert how_many_fit(10**6, 80 * 10**9) == 60_000


def test_seeds_are_stacked_if_asked_for_or_on_a_gpu():
    spec = toy_spec("rec-lif")
    assert in_a_process(4, spec, "cuda", "triton") == 4
    assert in_a_process(1, spec, "cuda", "triton") == 1
    assert in_a_process(3, spec, "cpu", "reference") == 3
    # not by itself where it is no faster
    assert in_a_process(None, spec, "cuda", "reference") == 1
    assert in_a_process(None, spec, "cpu", "reference") == 1
    assert in_a_process(None, spec, "cpu", "cpp") == 1
    for alone in (toy_spec("lstm"), spec_of_class_b()):
        assert in_a_process(None, alone, "cuda", "triton") == 1


@pytest.mark.parametrize(
    ("spec", "engine", "says"),
    [
        (
            toy_spec("rec-lif"),
            "cpp",
            "--stack 2: seeds of rec-lif are trained one by one: engine cpp",
        ),
        (toy_spec("lstm"), "reference", "do not spike"),
        (spec_of_class_b(), "reference", "class B leaves speakers out"),
    ],
)
def test_a_stack_that_cannot_be_is_refused(spec: RunSpec, engine: str, says: str):
    with pytest.raises(UsageError, match=says):
        in_a_process(2, spec, "cpu", engine)


def test_a_stack_that_does_not_fit_is_told():
    spec = toy_spec("rec-lif")
    estimate = estimate_training(spec, toy_split(9, 1), None, "cpu", "reference")
    with pytest.raises(SnnbenchError, match="take a smaller --stack, a smaller"):
        require_memory(estimate, spec, CPU, at_once=10**9, stacked=True)


# ---------------------------------------------------------------- runs


def test_a_stack_gives_the_records_of_single_seeds(
    data: Path, single: list[RunRecord], tmp_path: Path
):
    told: list[tuple[int, int]] = []

    def on_epoch(spec: RunSpec, report: EpochReport) -> None:
        told.append((spec.seed, report.epoch))

    jobs = jobs_in(tmp_path, data)
    records = run(jobs, stack=2, on_epoch=on_epoch)
    assert results(records) == results(single)
    assert told == [(seed, epoch) for epoch in (1, 2) for seed in (0, 1)]
    for job, record in zip(jobs, records, strict=True):
        assert read_record(job.folder / "record.json") == record
        assert not problems(record)
        assert record.stack is not None
        assert record.stack.seeds == 2
        assert record.training_s is not None
        assert record.training_s < record.stack.clock_s
        shown = {path.name for path in job.folder.iterdir()}
        assert {"predictions.npz", "pictures", "history.csv", "model.safetensors"} <= shown
    assert [r.stack for r in single] == [None, None]


def test_a_time_that_is_less_than_its_share_is_a_problem(single: list[RunRecord]):
    record = single[0]
    assert record.training_s is not None
    right = record.model_copy(update={"stack": Stack(seeds=3, clock_s=3 * record.training_s)})
    wrong = record.model_copy(update={"stack": Stack(seeds=3, clock_s=record.training_s / 2)})
    assert not problems(right)
    assert any("stack.clock_s" in problem for problem in problems(wrong))


@pytest.mark.slow
def test_stacks_in_processes_are_killed_and_go_on(data: Path, tmp_path: Path):
    killed: list[int] = []

    def on_epoch(spec: RunSpec, report: EpochReport) -> None:
        if not killed:
            killed.append(multiprocessing.active_children()[0].pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    records = run(jobs_in(tmp_path / "a", data, 3), stack=2, workers=2, on_epoch=on_epoch)
    assert killed
    assert results(records) == results(run(jobs_in(tmp_path / "b", data, 3)))
    # three seeds over two processes
    assert [r.stack.seeds if r.stack else 1 for r in records] == [2, 2, 1]


def test_class_c_is_stacked_and_class_b_is_not(data: Path, tmp_path: Path):
    jobs = jobs_in(tmp_path, data, changes={"task.protocol": "C", "train.epochs": 1})
    for record in run(jobs, stack=2):
        assert (record.protocol, record.validation, record.chosen_epoch) == ("C", None, 1)
        assert record.stack is not None
        assert not problems(record)
    of_b = jobs_in(tmp_path, data, changes={"task.protocol": "B"})
    seeds = [Seed(job.spec, job.folder, NullTracker()) for job in of_b]
    with SpikeDataset.open(data) as dataset, pytest.raises(SnnbenchError, match="class B"):
        run_stack(seeds, dataset, device=CPU)


# ---------------------------------------------------------------- the command

ARGUMENTS = [
    part
    for key, value in QUICK.items()
    if value is not None
    for part in ("--set", f"{key}={json.dumps(value) if value != 'constant' else value}")
    if value != {}
]


def test_bench_in_a_stack(data: Path, tmp_path: Path):
    bench = ["bench", "hd", "ff-lif", "--data", data, "--seeds", 2, "--workers", 1, *ARGUMENTS]
    bench += ["--engine", "reference", "--no-track", "--json", "--stack", 2, "--out", tmp_path]
    done = command(*bench)
    assert done.code == 0, done.err
    assert "for each of 2 seeds at a time, up to 2 in one process; engine reference" in done.err
    told = json.loads(done.out)
    assert [run["record"]["stack"]["seeds"] for run in told["runs"]] == [2, 2]
    assert told["seeds"] == 2
    # what is finished is taken as it is, however it was trained
    again = command(*bench, "--stack", 1)
    assert json.loads(again.out) == told


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--stack", 2, "--engine", "numba"], "--stack 2: seeds of ff-lif are trained one by one"),
        (["--stack", 0], "--stack"),
        (["--stack", 2, "--scheduler", "tcp://localhost:1"], "one seed at a time"),
    ],
)
def test_bench_refuses_a_stack_in_words(data: Path, options: list[Any], says: str):
    done = command("bench", "hd", "ff-lif", "--data", data, "--seeds", 2, *ARGUMENTS, *options)
    assert done.code == 2
    assert says in done.err


@pytest.mark.gpu
def test_bench_stacks_by_itself_on_a_gpu(data: Path, tmp_path: Path):
    bench = ["bench", "hd", "ff-lif", "--data", data, "--seeds", 3, "--device", "cuda", *ARGUMENTS]
    done = command(*bench, "--workers", 1, "--no-track", "--json", "--out", tmp_path)
    assert done.code == 0, done.err
    stacks = [run["record"]["stack"]["seeds"] for run in json.loads(done.out)["runs"]]
    assert stacks == [3, 3, 3]
