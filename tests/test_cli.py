"""The command line, end to end: answers, exit codes, help, interruptions."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest
import soundfile
import torch

from snnbench.cli import COMMANDS, cli
from snnbench.data_prep.store import SpikeDataset
from snnbench.record import sealed
from snnbench.tracking_spool import SPOOL_FILE, Begin
from tests.commands import ROOT, many_digits, snnbench, start, strict_json, wait_for
from tests.tiny_data import RATE_HZ, digit_name, write_dataset, write_digits

# a readout without normalisation, which `export nir` can say
SETTINGS = (
    "model.hidden=[12]",
    "model.input_gain=12",
    "model.readout.norm=none",
    "train.epochs=2",
)
QUICK = ["--no-track", *(word for setting in SETTINGS for word in ("--set", setting))]


class World(NamedTuple):
    """A data file, a finished run on it, a board with that run, a folder of recordings."""

    data: Path
    run: Path
    board: Path
    sound: Path
    folder: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    data = write_dataset(folder / "hd.h5")
    write_digits(folder / "sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNNBENCH_HOME", str(folder / "home"))
        trained = snnbench(
            "train", "hd", "ff-lif", "--data", data, "--out", folder / "runs", "--json", *QUICK
        )
        assert trained.code == 0, trained.err
        run = Path(strict_json(trained.out)["folder"])
        added = snnbench(
            *("board", "add", run, "--board", folder / "board"),
            *("--authors", "A. Turing", "--provisional"),
        )
        assert added.code == 0, added.err
    return World(data, run, folder / "board", folder / "sound", folder)


# --- answers


def convert_arguments(world: World, out: Path) -> list[object]:
    groups = ("--test-groups", "02", "--valid-groups", "01")
    # two of the twenty classes
    return ["data", "convert", "hd", "--source", world.sound, "--out", out, *groups, "--partial"]


JSON_COMMANDS: dict[str, Callable[[World, Path], list[object]]] = {
    "data list": lambda w, t: ["data", "list"],
    "data show": lambda w, t: ["data", "show", w.data],
    "data show NAME": lambda w, t: ["data", "show", "gsc"],
    "data check": lambda w, t: ["data", "check", w.data],
    "data plot": lambda w, t: ["data", "plot", w.data, "--sample", "0", "--out", t / "a.svg"],
    "data export": lambda w, t: ["data", "export", w.data, "--out", t / "exported"],
    "data convert": lambda w, t: [*convert_arguments(w, t / "out.h5"), "--workers", 1],
    "models list": lambda w, t: ["models", "list"],
    "models show": lambda w, t: ["models", "show", "ff-lif", "--set", "train.lr=0.5"],
    "models plot": lambda w, t: ["models", "plot", w.run, "--data", w.data, "--out", t],
    "train": lambda w, t: ["train", "hd", "ff-lif", "--data", w.data, "--out", t / "r", *QUICK],
    "bench": lambda w, t: [
        *("bench", "hd", "ff-lif", "--data", w.data, "--seeds", "1"),
        *("--out", w.run.parent, *QUICK),
    ],
    "eval": lambda w, t: ["eval", w.run, "--data", w.data],
    "audit": lambda w, t: ["audit", w.run, "--data", w.data],
    "eval --corrupt": lambda w, t: [
        *("eval", w.run, "--data", w.data, "--corrupt", "--out", t / "pictures"),
    ],
    "board reproduce": lambda w, t: [
        *("board", "reproduce", w.board / "hd" / "ff-lif", "--data", w.data, "--compare-only"),
    ],
    "board add": lambda w, t: [
        *("board", "add", w.run, "--board", t / "board"),
        *("--authors", "A. Turing", "--provisional"),
    ],
    "board verify": lambda w, t: ["board", "verify", "--board", w.board],
    "board show": lambda w, t: ["board", "show", "--board", w.board],
    "board build": lambda w, t: ["board", "build", "--board", w.board, "--out", t / "page"],
    "export nir": lambda w, t: ["export", "nir", w.run, "--out", t / "net.nir"],
    "export card": lambda w, t: ["export", "card", w.run, "--out", t / "card"],
    "import nir": lambda w, t: [
        *("import", "nir", exported(w, t), "--out", t / "net.safetensors", "--data", w.data),
    ],
    "track sync": lambda w, t: ["track", "sync", waiting(w.run, t)],
    "track import": lambda w, t: ["track", "import", w.run, *view_in(t)],
    "cluster slurm": lambda w, t: [
        *("cluster", "slurm", "--cores", 2, "--memory", "4GB", "--walltime", "1:00:00", "--script"),
    ],
    "env": lambda w, t: ["env"],
}


def exported(world: World, folder: Path) -> Path:
    path = folder / "net.nir"
    assert snnbench("export", "nir", world.run, "--out", path).code == 0
    return path


def view_in(folder: Path) -> list[object]:
    return ["--tracking-uri", f"sqlite:///{folder}/view.db"]


def waiting(run: Path, folder: Path) -> Path:
    """A copy of a run folder with a start that waits to be sent."""
    shutil.copytree(run, folder)
    begin = Begin(
        tracking_uri=f"sqlite:///{folder}/view.db",
        experiment="hd",
        run_name=run.name,
        token="a token",
        params={},
        tags={},
        time_ms=1,
    )
    (folder / SPOOL_FILE).write_text(begin.model_dump_json() + "\n")
    return folder


@pytest.mark.parametrize("name", JSON_COMMANDS)
@pytest.mark.usefixtures("cochlea_tables")
def test_an_answer_is_text_or_json_on_stdout_alone(world: World, tmp_path: Path, name: str) -> None:
    arguments = JSON_COMMANDS[name](world, tmp_path / "json")
    in_json = snnbench(*arguments, "--json")
    assert in_json.code == 0, in_json.err
    assert isinstance(strict_json(in_json.out), dict | list)

    text = snnbench(*JSON_COMMANDS[name](world, tmp_path / "text"))
    assert text.code == 0, text.err
    assert text.out.strip()
    with pytest.raises(ValueError, match=r"Expecting|Extra"):
        json.loads(text.out)


def test_every_command_has_json() -> None:
    for path, command in leaf_commands():
        assert "--json" in {o for p in command.params for o in p.opts}, path
    told = {" ".join(path) for path, _ in leaf_commands()}
    # `data cochlea` and `data split` have tests of their own; quickstart makes the synthetic speech,
    # which takes minutes; `cluster slurm` runs until it is stopped
    elsewhere = (
        {"cluster slurm", "data cochlea", "data split", "data get", "quickstart"}
        | SWEEP
        | REPRODUCE
    )
    assert told - set(JSON_COMMANDS) <= elsewhere


SWEEP = {"sweep run", "sweep show", "sweep best", "sweep export", "sweep plot"}
REPRODUCE = {"reproduce list", "reproduce show", "reproduce run"}  # tests/test_studies.py


def test_numbers_in_an_answer_are_those_of_the_record(world: World) -> None:
    told = strict_json(snnbench("eval", world.run, "--data", world.data, "--json").out)
    record = strict_json((world.run / "record.json").read_text())
    assert told["test"] == told["recorded"] == record["test"]
    assert told["different_predictions"] == 0
    shown = strict_json(snnbench("data", "show", world.data, "--json").out)
    assert shown["fingerprint"] == record["data"]["fingerprint"]
    [row] = strict_json(snnbench("board", "show", "hd", "--board", world.board, "--json").out)
    assert row["task"] == "hd" or row["task"]["name"] == "hd"


def test_a_network_that_came_back_from_nir_is_right_as_often(world: World, tmp_path: Path) -> None:
    arguments = JSON_COMMANDS["import nir"](world, tmp_path)
    told = strict_json(snnbench(*arguments, "--json").out)
    record = strict_json((world.run / "record.json").read_text())
    assert told["validation"] == record["validation"]
    weights = (world.run / "model.safetensors").read_bytes()
    assert (tmp_path / "net.safetensors").read_bytes() == weights


def test_seeds_are_tested_on_changed_samples_as_one_model(world: World, tmp_path: Path) -> None:
    runs = []
    for seed, hidden in ((0, 12), (1, 12), (0, 16)):
        settings = [*QUICK, "--set", f"model.hidden=[{hidden}]", "--seed", seed]
        words = (
            "train",
            "hd",
            "ff-lif",
            "--data",
            world.data,
            "--out",
            tmp_path / "runs",
            "--json",
        )
        runs.append(Path(strict_json(snnbench(*words, *settings).out)["folder"]))
    before = {run: (run / "record.json").read_bytes() for run in runs}
    command = ("eval", *runs, "--data", world.data, "--corrupt")
    told = strict_json(snnbench(*command, "--json").out)
    # two models of one name: told apart by what the names of their runs end with
    names = [f"ff-lif-{run.name.rpartition('-')[2]}" for run in (runs[0], runs[2])]
    assert {name: model["seeds"] for name, model in told["models"].items()} == dict(
        zip(names, (2, 1), strict=True)
    )
    clean = [strict_json((run / "record.json").read_text())["test"] for run in runs]
    assert [run["clean"] for run in told["runs"]] == clean
    mean = told["models"][names[0]]["clean_accuracy"]["mean"]
    assert mean == pytest.approx((clean[0]["correct"] + clean[1]["correct"]) / 40)
    assert before == {run: (run / "record.json").read_bytes() for run in runs}
    pictures = [Path(path) for path in told["pictures"]]
    assert all(path.stat().st_size for path in pictures)
    assert [path.parent for path in pictures] == [
        *(run / "pictures" for run in runs for _ in range(2)),
        *[tmp_path / "runs" / "pictures"] * 2,
    ]
    text = snnbench(*command).out
    assert f"{names[0]} on hd, 2 seeds, corruptions/1: clean" in text
    assert "speakers: all test speakers are unseen ones" in text
    # without --corrupt they are compared with their records, one by one
    again = strict_json(snnbench("eval", *runs, "--data", world.data, "--json").out)
    assert [run["different_predictions"] for run in again] == [0, 0, 0]
    foreign = tmp_path / "foreign"
    shutil.copytree(runs[0], foreign)
    record = json.loads((foreign / "record.json").read_text())
    record["spec"]["task"]["version"] = 2
    (foreign / "record.json").write_text(json.dumps(sealed(record)))
    refused = snnbench("eval", runs[0], foreign, "--data", world.data, "--corrupt")
    assert (refused.code, "name runs of one task and one data file" in refused.err) == (2, True)


def test_a_converted_file_checks_and_plots_with_its_sound(
    world: World, tmp_path: Path, cochlea_tables: None
) -> None:
    out = tmp_path / "out.h5"
    assert snnbench(*convert_arguments(world, out), "--workers", 1).code == 0
    checked = snnbench("data", "check", out)
    assert checked.code == 0
    assert "whole" in checked.out
    png = tmp_path / "raster.png"
    assert snnbench("data", "plot", out, "--source", world.sound, "--out", png).code == 0
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_run_is_plotted_into_its_folder_and_the_files_are_told(world: World) -> None:
    done = snnbench("models", "plot", world.run, "--data", world.data, "--sample", 3, "--json")
    told = strict_json(done.out)
    files = [Path(file) for file in told["files"]]
    assert {file.parent for file in files} == {world.run / "pictures"}
    assert all(file.stat().st_size for file in files)
    assert (told["sample"], told["run"]) == (3, str(world.run))
    # this network's units share their constants: no such figure
    assert "6 figures, each as SVG and PNG: weights, rates, rasters, activity, matrix-" in done.err


# --- help


def leaf_commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with its path."""

    def walk(
        path: tuple[str, ...], command: click.Command
    ) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        if not isinstance(command, click.Group):
            yield path, command
            return
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from walk((*path, name), child)

    return walk((), cli)


def groups() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield (), cli
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, click.Group):
            yield (name,), command


@pytest.mark.parametrize(
    "path", [" ".join(path) for path, _ in [*leaf_commands(), *groups()]], ids=lambda p: p or "top"
)
def test_help_ends_with_an_example_that_parses(path: str) -> None:
    commands = {" ".join(p): c for p, c in [*leaf_commands(), *groups()]}
    helped = snnbench(*path.split(), "--help")
    assert helped.code == 0
    assert helped.err == ""
    assert (commands[path].help or "").rstrip().splitlines()[-1].strip().startswith("Example: ")
    [line] = [text for text in helped.out.splitlines() if "Example: " in text]
    program, *words = shlex.split(line.partition("Example: ")[2])
    assert program == "snnbench"
    # the longest command the example's words name; the rest must be arguments it takes
    named = max(
        (p for p, _ in leaf_commands() if tuple(words[: len(p)]) == p), key=len, default=None
    )
    assert named is not None, line
    assert " ".join(named).startswith(path)
    command = commands[" ".join(named)]
    with command.make_context(named[-1], words[len(named) :], resilient_parsing=False):
        pass


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["data", "--help"], []])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from snnbench.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    heavy = {"torch", "numpy", "mlflow", "optuna", "h5py", "scipy", "numba", "matplotlib", "rich"}
    assert not heavy & set(done.stderr.split())
    assert "snnbench" in done.stdout + done.stderr


def test_the_module_runs() -> None:
    process = start("--help")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "Example: snnbench quickstart" in out


# --- wrong usage is 2, a failure is 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("dat list", "unknown command 'dat'; did you mean data"),
        ("data chek x", "Did you mean 'check'"),
        ("board verfy", "Did you mean 'verify'"),
        ("train hd ff-lif --devise cpu", "--device"),
        ("train hdd ff-lif", "unknown task 'hdd'; did you mean hd"),
        ("train hd fflif", "unknown model 'fflif'; did you mean ff-lif"),
        ("bench hd rec_lif", "unknown model 'rec_lif'; did you mean rec-lif"),
        ("models show ff_lif", "unknown model 'ff_lif'; did you mean ff-lif"),
        ("models show ff-lif --task hdd", "unknown task 'hdd'"),
        ("models show ff-lif --set train.lrr=1", "unknown key 'train.lrr'; did you mean train.lr"),
        ("models show ff-lif --set train.lr", "write KEY=VALUE"),
        ("data get hdd", "unknown data set 'hdd'; did you mean hd"),
        ("data convert hdd --source .", "unknown data set 'hdd'"),
        ("data convert hd --out x.h5", "--source is missing"),
        ("data convert hd --source . --out .", "is a folder; name a file"),
        ("data convert hd --source {sound} --name A/b", "use small letters"),
        ("data convert hd --source {sound} --preset shdd", "did you mean shd"),
        ("data convert mnist-latency --source {sound} --preset shd", "does not go through"),
        (
            "data convert hd --source {sound} --test-groups 01 --valid-groups 01",
            "01 is both a test",
        ),
        ("data show hdd", "unknown data set 'hdd'; did you mean hd"),
        ("data plot {data} --sample 99 --out x.png", "has 20 samples, 0 to 19"),
        ("data plot {data} --split tset --out x.png", "unknown split 'tset'; did you mean test"),
        ("data plot {data}", "Missing option '--out'"),
        ("data show", "Missing argument 'FILE|NAME'"),
        ("train hd ff-lif --seed -1", "--seed"),
        ("train hd ff-lif --engine gpu", "'gpu' is not one of 'auto', 'reference', 'cpp'"),
        ("train hd ff-lif --data {data} --set train.recompute_steps=0", "train.recompute_steps"),
        ("train hd ff-lif --data {data} --set train.recompute_steps=-3", "train.recompute_steps"),
        ("train hd ff-lif --data {data} --set trian.lr=1", "unknown key 'trian.lr'"),
        ("train hd ff-lif --data {data} --set train.lr=fast", "train.lr"),
        ("train hd ff-lif --data {data} --set train.dt_s=0.5", "shorter than the bin"),
        ("eval {run} --data {data} --out x", "--out is the folder for the picture of --corrupt"),
        ("eval", "Missing argument 'RUN...'"),
        ("eval {run} {run} --data {data} --corrupt", "is named twice"),
        ("board verify --board none", "none: no such board folder"),
        ("board show hdd --board {board}", "unknown task 'hdd'; did you mean hd"),
    ],
)
def test_wrong_usage_is_named_and_exits_2(world: World, arguments: str, message: str) -> None:
    done = snnbench(*arguments.format(**world._asdict()).split())
    assert done.code == 2, done
    assert message in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data show none.h5", "none.h5: no such data file"),
        ("data check {run}/record.json", "not a readable HDF5 file"),
        ("data get hd --offline", "nothing is fetched offline"),
        ("data get audio-folder", "audio-folder has no download: get a folder of your own"),
        ("data convert hd --source none --out x.h5", "none: no such source folder"),
        ("data convert shd --source {sound} --out x.h5", "shd_train.h5: missing"),
        ("data convert hd --source {sound} --out {data}", "exists already; --force replaces it"),
        ("data plot {data} --out x.png --source {run}", "no sound file for"),
        ("train hd ff-lif", "not there yet"),
        ("train digits-synthetic ff-lif", "`snnbench data get digits-synthetic` makes it"),
        ("train digits-synthetic ff-lif --data {data}", "task digits-synthetic needs"),
        ("eval {board}", "not a finished run folder"),
        ("eval {run}", "no such data file"),
        (
            "eval {run}/record.json --data {data}",
            "is a file; name the folder of a run, for example",
        ),
        ("models plot {board} --data {data}", "board: not a run folder"),
        ("models plot {run} --data {data} --sample 20", "has 20 samples, 0 to 19"),
        ("models plot {run}", "no such data file"),
        ("board add none --authors A", "none"),
    ],
)
def test_a_failure_is_named_and_exits_1(world: World, arguments: str, message: str) -> None:
    places = {name: str(place) for name, place in world._asdict().items()}
    done = snnbench(*arguments.format(**places).split())
    assert done.code == 1, done
    assert message in done.err
    assert done.out == ""
    assert "0/?" not in done.err  # no bar of a work that never began


@pytest.fixture(scope="session")
def other_run(world: World) -> Path:
    """A finished run of another model on the same data."""
    arguments = ("--data", world.data, "--out", world.folder / "others", "--json", *QUICK)
    trained = snnbench("train", "hd", "rec-lif", *arguments)
    return Path(strict_json(trained.out)["folder"])


SPOILT: dict[str, Callable[[bytes, Path], bytes]] = {
    "of another model": lambda own, other: other.read_bytes(),
    "truncated": lambda own, other: own[: len(own) // 2],
    "random bytes": lambda own, other: np.random.default_rng(0).bytes(len(own)),
    "another header": lambda own, other: own.replace(b"spec", b"spex", 1),
    "empty": lambda own, other: b"",
}


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_weights_and_states_are_named(
    world: World, other_run: Path, tmp_path: Path, how: str
) -> None:
    run = Path(shutil.copytree(world.run, tmp_path / world.run.name))
    for name in ("model.safetensors", "resume.safetensors"):
        own = (run / name).read_bytes()
        (run / name).write_bytes(SPOILT[how](own, other_run / name))
    done = snnbench("eval", run, "--data", world.data)
    assert (done.code, done.out) == (1, "")
    assert f"{run / 'model.safetensors'}: sha256" in done.err

    # unfinished, it would go on from its state
    (run / "record.json").unlink()
    train = ("train", "hd", "ff-lif", "--data", world.data, "--out", tmp_path, *QUICK)
    done = snnbench(*train, "--resume")
    assert (done.code, done.out) == (1, "")
    assert f"{run / 'resume.safetensors'}: " in done.err
    if how == "of another model":
        assert f"is the state of run {other_run.name}, not of {run.name}" in done.err
    assert not (run / "record.json").exists()


def test_weights_of_another_run_are_none_of_this_record(
    world: World, other_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(world.run, tmp_path / world.run.name))
    record = json.loads((run / "record.json").read_text())
    other = json.loads((other_run / "record.json").read_text())
    shutil.copyfile(other_run / "model.safetensors", run / "model.safetensors")
    record["checkpoint_sha256"] = other["checkpoint_sha256"]
    (run / "record.json").write_text(json.dumps(sealed(record)))
    done = snnbench("eval", run, "--data", world.data)
    assert (done.code, done.out) == (1, "")
    assert f"holds weights of run {other_run.name}, the record is of {run.name}" in done.err


def test_bad_sound_is_named_and_leaves_nothing(
    world: World, tmp_path: Path, cochlea_tables: None
) -> None:
    sound = Path(shutil.copytree(world.sound, tmp_path / "sound"))
    bad = sound / f"{digit_name(0, 0)}.wav"
    soundfile.write(bad, np.zeros(4800), RATE_HZ)
    spoilt = world._replace(sound=sound)
    done = snnbench(*convert_arguments(spoilt, tmp_path / "out.h5"), "--workers", 1, "--json")
    assert (done.code, done.out) == (1, "")
    assert f"{bad}: is silent" in done.err
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here cuda is a device")
@pytest.mark.parametrize("command", ["train", "bench", "eval"])
def test_a_missing_gpu_is_never_silently_a_cpu(world: World, tmp_path: Path, command: str) -> None:
    what = [world.run] if command == "eval" else ["hd", "ff-lif", *QUICK, "--out", tmp_path / "r"]
    done = snnbench(command, *what, "--data", world.data, "--device", "cuda")
    assert done.code == 2
    assert "device 'cuda'" in done.err
    assert not (tmp_path / "r").exists()


# --- progress, profile, memory


def test_training_tells_how_it_goes_and_a_profile(world: World, tmp_path: Path) -> None:
    train = ["train", "hd", "rec-lif", "--data", world.data, "--out", tmp_path, *QUICK, "--profile"]
    done = snnbench(*train)
    assert done.code == 0, done.err
    assert re.search(r"training takes about [\d.]+ MiB \(.*\); engine (cpp|numba)", done.err)
    last = done.err.strip().splitlines()[-1]
    assert re.search(r": 2/2 \[", last)
    for figure in ("epoch=2/2", "loss=", "train=", "valid=", "Hz=", "events=", "/s"):
        assert figure in last
    assert re.search(r"\d+ training steps in [\d.]+ s, engine", done.out)
    for part in ("batches", "forward, hidden1", "backward, hidden1", "optimiser", "validation"):
        assert re.search(rf"^{part} +[\d.]+%", done.out, re.MULTILINE), part

    again = snnbench(*train, "--resume", "--json")
    assert "there is no profile" in again.err
    assert "profile" not in strict_json(again.out)
    anew = strict_json(snnbench(*train, "--overwrite", "--json").out)
    assert sum(part["share"] for part in anew["profile"]["parts"]) == pytest.approx(1)
    assert anew["profile"]["engine"] == anew["record"]["environment"]["engine"]


def test_an_engine_may_be_chosen(world: World, tmp_path: Path) -> None:
    train = ["train", "hd", "ff-lif", "--data", world.data, "--out", tmp_path, *QUICK]
    done = snnbench(*train, "--engine", "reference", "--json")
    told = strict_json(done.out)
    folder = Path(told["folder"])
    assert told["record"]["environment"]["engine"] == "reference"
    wrong = snnbench(*train, "--engine", "triton", "--device", "cpu")
    assert wrong.code == 1
    assert "triton runs on a GPU only" in wrong.err

    evaluate = ["eval", folder, "--data", world.data]
    again = strict_json(snnbench(*evaluate, "--json").out)
    assert (again["engine"], again["different_predictions"]) == ("reference", 0)
    other = snnbench(*evaluate, "--engine", "numba")
    assert other.out.rstrip().endswith("; engine numba")
    assert "trained with engine reference; numba may differ" in other.err

    # what is finished is not called another engine's
    before = (folder / "record.json").read_bytes()
    for command in ([*train, "--resume"], ["bench", *train[1:], "--seeds", 2]):
        refused = snnbench(*command, "--engine", "numba")
        assert (refused.code, refused.out) == (1, "")
        assert f"{folder / 'record.json'}: this run was finished with engine reference" in (
            refused.err
        )
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    mixed = snnbench("bench", *train[1:], "--seeds", 2, "--json")
    assert mixed.code == 0
    assert f"{folder.name}: finished already, with engine reference" in mixed.err
    assert re.search(r"not all .* alike: with engine (cpp|numba), engine reference", mixed.err)
    assert (folder / "record.json").read_bytes() == before
    alike = snnbench("bench", *train[1:], "--seeds", 1, "--engine", "reference")
    assert alike.code == 0
    assert "not all" not in alike.err


@pytest.mark.parametrize("named", ["triton", "of tomorrow", None])
def test_a_run_is_evaluated_where_its_engine_is_not(
    world: World, tmp_path: Path, named: str | None
) -> None:
    folder = Path(shutil.copytree(world.run, tmp_path / "run"))
    record = strict_json((folder / "record.json").read_text())
    record["environment"].pop("engine")
    if named:
        record["environment"]["engine"] = named
    (folder / "record.json").write_text(json.dumps(sealed(record)))
    done = snnbench("eval", folder, "--data", world.data, "--device", "cpu", "--json")
    assert done.code == 0
    told = strict_json(done.out)
    assert told["engine"] in ("cpp", "numba")
    assert told["recorded_engine"] == named
    how = f"engine {named}" if named else "an engine that its record does not name"
    assert f"trained with {how}; {told['engine']} may differ" in done.err


def test_an_engine_without_its_compiler_is_refused_before_the_data_are_read(
    world: World, tmp_path: Path
) -> None:
    nowhere = tmp_path / "c++"
    environment = {**os.environ, "CXX": str(nowhere)}
    train = ["train", "hd", "ff-lif", "--data", world.data, "--out", tmp_path / "runs", *QUICK]
    process = start(*train, "--engine", "cpp", env=environment)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    [line] = err.splitlines()
    assert line.startswith(f"snnbench: engine cpp: no C++ compiler found ($CXX is {nowhere}")
    assert not (tmp_path / "runs").exists()


def test_what_does_not_fit_into_memory_is_refused_first(world: World, tmp_path: Path) -> None:
    huge = ("--set", "train.batch_size=100000000", "--set", "model.hidden=[4096]")
    for command in ("train", "bench"):
        done = snnbench(
            *(command, "hd", "ff-lif", "--data", world.data, "--out", tmp_path / "runs"), *huge
        )
        assert done.code == 1
        assert "take a smaller train.batch_size" in done.err or "take fewer --workers" in done.err
        assert done.out == ""
    assert not (tmp_path / "runs").exists()


# --- run folders


def test_a_finished_run_is_not_done_again_by_accident(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.run.parent, tmp_path / "runs")
    folder = tmp_path / "runs" / world.run.name
    train = ["train", "hd", "ff-lif", "--data", world.data, "--out", tmp_path / "runs", *QUICK]

    refused = snnbench(*train)
    assert refused.code == 1
    assert f"{folder}: this run is finished" in refused.err
    assert "--overwrite" in refused.err

    kept = snnbench(*train, "--resume")
    assert kept.code == 0
    bench = snnbench("bench", *train[1:], "--seeds", "1")
    assert bench.code == 0
    assert "finished already" in bench.err
    assert (folder / "record.json").read_bytes() == (world.run / "record.json").read_bytes()

    again = snnbench(*train, "--overwrite", "--json")
    assert again.code == 0
    record = strict_json(again.out)["record"]
    before = strict_json((world.run / "record.json").read_text())
    assert record["predictions_sha256"] == before["predictions_sha256"]
    assert record["started_at"] >= before["started_at"]


@pytest.mark.parametrize(
    "command",
    [
        ["train", "hd", "ff-lif", "--data", "{data}", *QUICK],
        ["board", "add", "{run}", "--authors", "A", "--provisional"],
        ["board", "build", "--board", "{board}"],
    ],
    ids=["train", "add", "build"],
)
def test_a_home_that_cannot_be_written_is_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    home = tmp_path / "file"
    home.touch()
    monkeypatch.setenv("SNNBENCH_HOME", str(home))
    places = {name: str(place) for name, place in world._asdict().items()}
    done = snnbench(*(word.format(**places) for word in command))
    assert done.code == 1
    assert str(home) in done.err
    assert done.out == ""


# --- stopped at any moment


@pytest.mark.usefixtures("cochlea_tables")
def test_a_conversion_survives_ctrl_c_and_kill(tmp_path: Path) -> None:
    source, out = many_digits(tmp_path / "sound"), tmp_path / "out.h5"
    parts = tmp_path / "out.h5.parts"
    arguments = ["data", "convert", "hd", "--partial", "--source", source, "--out", out]

    def shards() -> int:
        return len(list(parts.glob("*/shard-*.npz")))

    process = start(*arguments, "--workers", 2)
    wait_for(lambda: shards() >= 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.rstrip().endswith("snnbench: stopped; run the same command again to continue")
    assert "Traceback" not in err
    assert not out.exists()
    assert 1 <= shards() < 6

    for shard in sorted(parts.glob("*/shard-*.npz"))[1:]:
        shard.unlink()
    process = start(*arguments, "--workers", 1)
    wait_for(lambda: shards() >= 2, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()

    done = snnbench(*arguments, "--workers", 1, "--json")
    assert done.code == 0, done.err
    assert not parts.exists()
    other = tmp_path / "other.h5"
    undisturbed = snnbench(*arguments[:-1], other, "--workers", 1, "--json")
    assert strict_json(undisturbed.out)["fingerprint"] == strict_json(done.out)["fingerprint"]
    assert sorted(p.name for p in tmp_path.iterdir() if "h5" in p.name) == ["other.h5", "out.h5"]
    with SpikeDataset.open(out) as dataset:
        dataset.check()


def test_training_survives_ctrl_c(world: World, tmp_path: Path) -> None:
    long = [*QUICK, "--set", "train.epochs=15"]
    arguments = ["train", "hd", "ff-lif", "--data", world.data, "--out", tmp_path, *long]
    process = start(*arguments)
    wait_for(lambda: list(tmp_path.glob("*/resume.safetensors")), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert err.rstrip().endswith("snnbench: stopped; run the same command again to continue")
    assert "Traceback" not in err
    [folder] = tmp_path.iterdir()
    assert not (folder / "record.json").exists()

    done = snnbench(*arguments, "--json")
    assert done.code == 0, done.err
    assert "goes on where it was stopped" in done.err
    assert strict_json(done.out)["record"]["epochs_run"] == 15
    assert len((folder / "history.csv").read_text().splitlines()) == 16


@pytest.mark.usefixtures("cochlea_tables")
def test_a_full_disk_while_converting(world: World, tmp_path: Path) -> None:
    out = write_dataset(tmp_path / "out.h5")
    before = out.read_bytes()

    def fill_the_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    arguments = [*convert_arguments(world, out), "--workers", 1, "--force"]
    process = start(*arguments, preexec_fn=fill_the_disk)
    _, err = process.communicate()
    assert process.returncode == 1, err
    assert "cannot write: File too large" in err
    assert "Traceback" not in err
    assert out.read_bytes() == before
    assert not [p for p in tmp_path.rglob("*") if ".tmp" in p.name]
    assert snnbench(*arguments).code == 0


@pytest.mark.parametrize("arguments", [["data", "list"], ["models", "show", "ff-lif", "--json"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(*arguments, stdout=writing)
    os.close(writing)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
