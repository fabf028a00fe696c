"""Workers from Slurm: the job's script, and a whole run on stand-ins of sbatch and scancel."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from snnbench.record import read_record
from tests.commands import ROOT, snnbench, start, strict_json
from tests.tiny_data import write_dataset

if find_spec("dask_jobqueue") is None:
    pytest.skip("dask-jobqueue comes with snnbench[slurm]", allow_module_level=True)

# They begin the script on this machine at once, as a process group of its own, where Slurm would queue it.
SBATCH = """#!{python}
import os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
script = sys.argv[-1]
if "--test-only" in sys.argv:
    if "refused" in pathlib.Path(script).read_text():
        sys.exit("sbatch: error: Invalid account")
    sys.exit(subprocess.run(["bash", "-n", script]).returncode)
text = pathlib.Path(script).read_text()
with open(here / "log", "ab") as log:
    # the script is gone as soon as this ends
    job = subprocess.Popen(["bash", "-c", text], stdout=log, stderr=log, start_new_session=True)
(here / f"job-{{job.pid}}").touch()
print("Submitted batch job", job.pid)
"""
SCANCEL = """#!{python}
import os, signal, sys
try:
    os.killpg(int(sys.argv[1]), signal.SIGTERM)
except ProcessLookupError:
    sys.exit(1)
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the stand-ins, which come first on PATH."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        path = folder / name
        path.write_text(text.format(python=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def script_of(*options: object) -> str:
    told = snnbench("cluster", "slurm", *options, "--script", "--json")
    assert told.code == 0, told.err
    text = strict_json(told.out)["script"]
    assert isinstance(text, str)
    return text


def test_the_script_asks_for_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNNBENCH_DATA", "/data of mine")
    script = script_of(
        *("--cores", 8, "--memory", "32GiB", "--walltime", "2-12", "--partition", "long"),
        *("--account", "lab", "--directive=--constraint=a100", "--prologue", "module load cuda"),
        *("--interface", "lo"),
    )
    # importing dask-jobqueue would have Ctrl-C end the process
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    lines = script.splitlines()
    for directive in ("--cpus-per-task=8", "--mem=32G", "-t 2-12", "-p long", "-A lab"):
        assert f"#SBATCH {directive}" in lines
    assert "#SBATCH --constraint=a100" in lines
    assert "export SNNBENCH_DATA='/data of mine'" in lines
    assert lines.index("module load cuda") < len(lines) - 1
    # eight workers with a thread each, an eighth of the memory each
    assert lines[-1].startswith(f"{sys.executable} -m distributed.cli.dask_worker tcp://127.0.0.1:")
    for option in ("--nworkers 8", "--nthreads 1", "--memory-limit 4.00GiB", "--interface lo"):
        assert option in lines[-1]
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_a_job_with_a_gpu_has_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = script_of("--gpu", "--cores", 4).splitlines()
    assert "#SBATCH --gres=gpu:1" in lines
    assert "#SBATCH --cpus-per-task=4" in lines
    assert "--resources GPU=1" in lines[-1]
    assert "--nworkers" not in lines[-1]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--walltime", "1 day"), 2, "--walltime 1 day: take hours:minutes:seconds, as 24:00:00"),
        (("--memory", "much"), 2, "--memory much: take an amount as 32GB"),
        (("--interface", "ib9"), 2, "--interface: 'ib9' is not a valid network interface"),
        (("--account", "refused"), 1, "sbatch refuses such a job .* error: Invalid account"),
    ],
)
@pytest.mark.usefixtures("slurm")
def test_what_is_wrong_is_told(options: tuple[str, ...], code: int, message: str) -> None:
    told = snnbench("cluster", "slurm", *options)
    assert told.code == code
    assert re.search(message, told.err)


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = snnbench("cluster", "slurm")
    assert told.code == 1
    assert "sbatch: no such program here" in told.err


def test_a_bench_on_jobs_that_end_with_the_cluster(slurm: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "hd.h5")
    jobs = ("--jobs", 2, "--memory", "2GB", "--interface", "lo", "--json")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SNNBENCH_DATA": str(tmp_path)}
    cluster = start("cluster", "slurm", *jobs, env=environment)
    try:
        assert cluster.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            line = cluster.stdout.readline()
            assert line, cluster.communicate()
            told += line
        facts = strict_json(told)
        assert facts["workers"] == 2
        small = ("--set", "model.hidden=[8]", "--set", "train.epochs=1", "--no-track")
        bench = ("bench", "hd", "ff-lif", "--data", data, "--seeds", 2, *small)
        ran = snnbench(*bench, "--out", tmp_path / "runs", "--scheduler", facts["address"])
        assert ran.code == 0, ran.err
        records = [read_record(path) for path in (tmp_path / "runs").glob("*/record.json")]
        assert sorted(record.spec.seed for record in records) == [0, 1]
        groups = [int(path.name.removeprefix("job-")) for path in slurm.glob("job-*")]
        assert len(groups) == 2
        assert all(map(lives, groups))
    finally:
        os.kill(cluster.pid, signal.SIGINT)
        _, err = cluster.communicate(timeout=60)
    assert cluster.returncode == 0, err
    assert "0 of 2 workers; Ctrl-C ends them" in err
    assert "cancelling the jobs" in err
    deadline = time.monotonic() + 30
    while any(map(lives, groups)):
        assert time.monotonic() < deadline, (slurm / "log").read_text()
        time.sleep(0.1)


def lives(group: int) -> bool:
    """Whether a process of the group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
