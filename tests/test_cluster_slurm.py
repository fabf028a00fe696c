"""Workers from Slurm: what a job's script says, and a cluster whose jobs stand-ins start on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snnbench import cluster_slurm
from snnbench.cluster import open_cluster
from snnbench.cluster_slurm import SlurmCluster, SlurmRequest, dask_setup, job_script, open_slurm
from snnbench.errors import SnnbenchError
from tests import cluster_jobs
from tests.commands import ROOT, snnbench, start, strict_json, wait_for
from tests.slurm_stand_in import SlurmStandIn
from tests.tiny_data import write_dataset

JOB = ("cluster", "slurm", "--cores", 2, "--memory", "4GiB", "--walltime", "01:00:00")


@pytest.fixture(autouse=True)
def _no_settings_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dask-jobqueue reads ~/.config/dask, and jobs import this checkout's snnbench."""
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "dask"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmStandIn]:
    stand_in = SlurmStandIn(tmp_path / "slurm")
    monkeypatch.setenv("PATH", stand_in.path)
    yield stand_in
    for job in stand_in.jobs():  # where a test has failed
        job.kill()


def request_of(folder: Path, **changes: Any) -> SlurmRequest:
    given: dict[str, Any] = {"jobs": 1, "cores": 2, "memory": "4GiB", "walltime": "1:00:00"}
    return SlurmRequest(**{"log_folder": folder / "logs", "interface": "lo", **given, **changes})


def wait_until(condition: Callable[[], Any], slurm: SlurmStandIn, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = [path.read_text() for path in slurm.folder.parent.rglob("*.log")]
            raise AssertionError("\n".join(logs)[-3000:])
        time.sleep(0.05)


# --- the script of a job


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if "#SBATCH" in line]


def worker_options(script: str) -> dict[str, str]:
    """Of the last command: option -> value."""
    words = shlex.split(script.rstrip().splitlines()[-1])
    return dict(pairwise(words))


def test_the_script_says_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SNNBENCH_DATA", str(tmp_path / "my data"))
    logs = tmp_path / "my logs"
    told = snnbench(
        *("cluster", "slurm", "--jobs", 3, "--cores", 8, "--memory", "16 GiB"),
        *("--walltime", "2-00:00:00", "--interface", "ib0", "--partition", "long"),
        *("--account", "ab12", "--directive", "--exclusive", "--directive", "--mail-type=FAIL"),
        *("--logs", logs, "--script"),
    )
    assert told.code == 0, told.err
    assert not logs.exists()
    assert directives(told.out) == [
        *("-J snnbench", "-p long", "-A ab12", "-n 1", "--cpus-per-task=8", "--mem=16G"),
        *("-t 2-00:00:00", f"-o '{logs}/%x-%j.log'", "--exclusive", "--mail-type=FAIL"),
    ]
    assert f"export SNNBENCH_DATA='{tmp_path}/my data'" in told.out.splitlines()
    options = worker_options(told.out)
    assert options["-m"] == "distributed.cli.dask_worker"
    assert options["--nworkers"] == "8"
    assert options["--nthreads"] == "1"
    assert options["--memory-limit"] == "2.00GiB"  # of one worker
    assert options["--interface"] == "ib0"
    # the last worker has left a minute before Slurm comes
    assert (options["--lifetime"], options["--lifetime-stagger"]) == (f"{172800 - 300}s", "240s")
    assert "--resources" not in options
    checked = subprocess.run(["bash", "-n"], input=told.out, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_every_gpu_has_a_worker(tmp_path: Path):
    script = job_script(request_of(tmp_path, cores=16, gpus=4))
    assert {"--cpus-per-task=16", "--gres=gpu:4"} <= set(directives(script))
    options = worker_options(script)
    assert options["--nworkers"] == "4"
    assert options["--nthreads"] == "1"
    assert options["--resources"] == "GPU=1"
    assert options["--preload"] == "snnbench.cluster_slurm"
    one = job_script(request_of(tmp_path, gpus=1, directives=("--gres=gpu:a100:1",)))
    assert [d for d in directives(one) if d.startswith("--gres")] == ["--gres=gpu:a100:1"]
    assert "--preload" not in one  # Slurm shows it one GPU only


@pytest.mark.parametrize(("k", "gpu"), [(0, "3"), (1, "MIG-5"), (2, "")])
def test_a_worker_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch, k: int, gpu: str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,MIG-5")
    dask_setup(SimpleNamespace(name=f"snnbench-7-{k}"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu


@pytest.mark.parametrize(
    ("walltime", "leave"), [("0:12:00", (660, 48)), ("1-1:00:00", (89700, 240))]
)
def test_workers_leave_before_the_walltime(tmp_path: Path, walltime: str, leave: tuple[int, int]):
    options = worker_options(job_script(request_of(tmp_path, walltime=walltime)))
    assert options["--lifetime"] == f"{leave[0]}s"
    assert options["--lifetime-stagger"] == f"{leave[1]}s"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--memory", "32"),
        ("--memory", "lots"),
        ("--walltime", "24"),
        ("--walltime", "1:60:00"),
        ("--walltime", "0:00:00"),
        ("--interface", "ib 0"),
        ("--interface", "no-such-network"),
        ("--partition", "a\nb"),
        ("--account", ""),
        ("--directive", "exclusive"),
        ("--gpus", "3"),
    ],
)
@pytest.mark.usefixtures("slurm")
def test_what_slurm_would_not_take_is_refused(option: str, value: str):
    told = snnbench(*JOB, option, value)
    assert told.code == 2
    assert told.err.startswith("snnbench: --")
    assert value in told.err.encode().decode("unicode_escape")


def test_without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    told = snnbench(*JOB)
    assert told.code == 1
    assert "sbatch: not on PATH" in told.err
    assert "--script" in told.err


def test_without_dask_jobqueue():
    code = (
        "import sys; sys.modules['dask_jobqueue'] = None\n"  # as Python marks what cannot be imported
        "from snnbench.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, JOB), "--script"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "pip install 'snnbench[slurm]'" in done.stderr
    assert "Traceback" not in done.stderr


# --- clusters


def test_what_slurm_refuses_is_told(slurm: SlurmStandIn, tmp_path: Path):
    slurm.refuse("sbatch: error: invalid partition specified: lnog")
    with (
        pytest.raises(SnnbenchError, match=r"Slurm takes no job: .*invalid partition.*lnog"),
        open_slurm(request_of(tmp_path)),
    ):
        pass


def renewed(cluster: SlurmCluster, slurm: SlurmStandIn) -> tuple[int, str | None]:
    """What the cluster says as soon as it finds that a job has ended."""
    said: list[tuple[int, str | None]] = []

    def found() -> int:
        said.append(cluster.renew())
        return said[-1][0]

    wait_until(found, slurm)
    return said[-1]


def test_a_job_that_ends_is_replaced(
    slurm: SlurmStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also where Slurm takes none for a while; and every worker of a job has another one of its GPUs."""
    monkeypatch.setattr(cluster_slurm, "GONE_S", 0.5)
    monkeypatch.setattr(cluster_slurm, "ASK_AGAIN_S", 0.5)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")  # as Slurm sets it
    with open_slurm(request_of(tmp_path, gpus=2)) as cluster:
        wait_until(lambda: cluster.workers == 2, slurm)
        assert cluster.renew() == (0, None)
        seen: list[Any] = []
        with open_cluster(cluster.address, device="cuda") as workers:
            workers.run(
                cluster_jobs.gpu_seen, range(2), done=lambda job, outcome: seen.append(outcome)
            )
        assert sorted(seen) == ["3", "5"]

        [job] = slurm.jobs()
        job.kill()
        refusal = slurm.folder / "jobs" / "refuse"
        slurm.refuse("sbatch: error: Unable to contact slurm controller")
        assert renewed(cluster, slurm) == (1, f"Slurm takes no job: {refusal.read_text()}")
        refusal.unlink()
        assert renewed(cluster, slurm) == (1, None)
        wait_until(lambda: cluster.workers == 2, slurm)
        assert len(slurm.jobs()) == 2
    wait_until(lambda: not slurm.processes(), slurm)
    assert slurm.jobs()[1].cancelled


class Command:
    """`snnbench cluster slurm` as a process, and what it has told."""

    def __init__(self, output: Path, *options: object) -> None:
        self._output = output
        with open(output, "w") as told:
            self.process = start(
                *JOB, "--cores", 1, "--interface", "lo", *options, stdout=told, stderr=told
            )

    @property
    def told(self) -> str:
        return self._output.read_text()

    def wait_for_workers(self, n: int) -> None:
        wait_for(lambda: f"{n} of {n} workers are there" in self.told, self.process)


@pytest.fixture
def command(slurm: SlurmStandIn, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def run(*options: object) -> Command:
        started.append(Command(tmp_path / "told", *options))
        return started[-1]

    yield run
    for one in started:  # where a test has failed
        one.process.kill()
        one.process.wait()


@pytest.mark.slow
def test_a_bench_on_workers_from_slurm(
    command: Callable[..., Command], slurm: SlurmStandIn, tmp_path: Path
):
    """Its worker finds the data in the folder that this process would use; SIGTERM ends all."""
    data = write_dataset(tmp_path / "hd.h5")
    (tmp_path / "data").mkdir()
    shutil.copy(data, tmp_path / "data" / "elsewhere.h5")
    running = command("--json")
    running.wait_for_workers(1)
    facts = strict_json(running.told.partition("\n}\n")[0] + "}")
    assert (facts["jobs"], facts["workers"]) == (1, 1)
    settings = {"model.hidden": [12], "train.epochs": 1, "train.dt_s": 0.01}
    done = snnbench(
        *("bench", "hd", "ff-lif", "--data", data, "--seeds", 1, "--out", tmp_path / "runs"),
        *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")),
        *("--scheduler", facts["scheduler"], "--no-track", "--json"),
    )
    assert done.code == 0, done.err
    [run] = strict_json(done.out)["runs"]
    assert (Path(run["folder"]) / "record.json").is_file()

    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 75
    assert "stopped by SIGTERM" in running.told
    assert [job.cancelled for job in slurm.jobs()] == [True]
    wait_until(lambda: not slurm.processes(), slurm)


def test_ctrl_c_cancels_all_jobs(command: Callable[..., Command], slurm: SlurmStandIn):
    running = command("--jobs", 2)
    running.wait_for_workers(2)
    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does
    assert running.process.wait(60) == 0
    assert running.told.endswith("the jobs are cancelled\n")
    assert [job.cancelled for job in slurm.jobs()] == [True, True]
    wait_until(lambda: not slurm.processes(), slurm)


def test_workers_end_without_their_scheduler(command: Callable[..., Command], slurm: SlurmStandIn):
    """A command that is killed cancels nothing."""
    running = command()
    running.wait_for_workers(1)
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not slurm.processes(), slurm, 120)
    assert [job.cancelled for job in slurm.jobs()] == [False]
